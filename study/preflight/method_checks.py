"""Whether the arms' methods fit the base model, in every configuration that a study may come to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainables.methods.fit import check_fit
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
        for config in _configurations(spec, name)
        for problem in check_fit(get_method(arm.method), config, spec.model)
    ]
    return list(dict.fromkeys(problems))


def _configurations(spec: StudySpec, name: str) -> Iterator[Any]:
    """The configurations of an arm; of numbers that are searched one stands for all."""
    space = spec.space(name).parameters
    options = [
        dim.probes()
        if all(isinstance(value, str | bool | None) for value in dim.probes())
        else dim.probes()[:1]
        for dim in space.values()
    ]
    fields = method_config_class(spec.arms[name].method)
    for values in itertools.islice(itertools.product(*options), _MOST):
        params: dict[str, Any] = {}
        for (key, dimension), value in zip(space.items(), values, strict=True):
            if dimension.applies({**spec.method_config(name, params), **params}):
                params[key] = value
        try:
            yield fields.model_validate(spec.method_config(name, params))
        except ValidationError:
            continue  # told by the rules of the study file
