"""Whether the arms' methods fit the base model, in every configuration that a study may come to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainables.config.fields import EMBEDDED, TrainingConfig
from trainables.methods.registry import BASE, get_method, method_config_class

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

_MOST = 1000  # combinations of choices that are tried


def check_methods(spec: StudySpec) -> list[str]:
    """Returns what a method says against its arm's configurations, one message each; loads no weights."""
    problems = [
        f"arm {name!r}: {problem}"
        for name, arm in spec.arms.items()
        if arm.method != BASE
        for config in itertools.chain(_configurations(spec, name), _extremes(spec, name))
        for problem in get_method(arm.method).check(config, spec.model)
    ]
    return list(dict.fromkeys(problems))


def methods_with_words(spec: StudySpec) -> list[TrainingConfig]:
    """Returns configurations of the arms whose methods speak of subjects in words of their own: those at the ends of
    what is searched.
    """
    found = (config for name in spec.arms for config in _extremes(spec, name))
    return [config for config in found if config.added_words]


def _extremes(spec: StudySpec, name: str) -> Iterator[TrainingConfig]:
    """The two configurations of an arm in which all that is searched is at its first, or at its last, value."""
    for params in spec.space(name).corners():
        with suppress(ValidationError):
            yield _configuration(spec, name, params)


def _configurations(spec: StudySpec, name: str) -> Iterator[TrainingConfig]:
    """The configurations of an arm; of numbers that are searched one stands for all."""
    space = spec.space(name).parameters
    options = [
        dim.probes()
        if all(isinstance(value, str | bool | None) for value in dim.probes())
        else dim.probes()[:1]
        for dim in space.values()
    ]
    for values in itertools.islice(itertools.product(*options), _MOST):
        params: dict[str, Any] = {}
        for (key, dimension), value in zip(space.items(), values, strict=True):
            if dimension.applies({**spec.method_config(name, params), **params}):
                params[key] = value
        with suppress(ValidationError):  # told by the rules of the study file
            yield _configuration(spec, name, params)


def _configuration(spec: StudySpec, name: str, params: Mapping[str, Any]) -> TrainingConfig:
    fields = method_config_class(spec.arms[name].method)
    defaults = fields.EMBEDDED_DEFAULTS if spec.model.path == EMBEDDED else {}
    return fields.model_validate({**defaults, **spec.method_config(name, params)})
