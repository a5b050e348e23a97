"""Whether the arms' methods fit the base model, in every configuration that a study may come to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainables.config.fields import EMBEDDED, TrainingConfig
from trainables.errors import UserError
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
        for config in _for_subjects(
            spec, itertools.chain(_configurations(spec, name), ends_of_search(spec, name))
        )
        for problem in check_fit(get_method(arm.method), config, spec.model)
    ]
    return list(dict.fromkeys(problems))


def _for_subjects(spec: StudySpec, configs: Iterable[TrainingConfig]) -> Iterator[TrainingConfig]:
    """Yields configurations, and those that have words of their own again for subjects that differ in their prompts.

    What a method trains with may then be another prompt for each subject. A check reads the model's tokenizers, so that
    it is not repeated for what would read the same.
    """
    from trainables.data.subjects import prompts_of

    seen: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
    for config in configs:
        yield config
        if not config.added_words or config.captions == "files":  # captions are looked at with the prompts
            continue
        for subject in spec.subjects:
            with suppress(UserError):  # told with the prompts
                instance, plain = prompts_of(subject)
                settled = config.for_subject(instance, plain)
                read = (settled.added_words, settled.training_prompts(instance))
                if read not in seen:
                    seen.add(read)
                    yield settled


def methods_with_words(spec: StudySpec) -> list[TrainingConfig]:
    """Returns configurations of the arms whose methods speak of subjects in words of their own: those at the ends of
    what is searched.
    """
    found = (config for name in spec.arms for config in ends_of_search(spec, name))
    return [config for config in found if config.added_words]


def has_words(spec: StudySpec, name: str) -> bool:
    """Whether an arm's method speaks of subjects in words of its own."""
    return any(config.added_words for config in ends_of_search(spec, name))


def ends_of_search(spec: StudySpec, name: str) -> Iterator[TrainingConfig]:
    """The two configurations of an arm in which all that is searched is at its first, or at its last, value."""
    for params in spec.space(name).corners():
        with suppress(ValidationError):
            yield _configuration(spec, name, params)


def _configurations(spec: StudySpec, name: str) -> Iterator[TrainingConfig]:
    """The configurations of an arm; of numbers that are searched the smallest stand for all, and the largest."""
    space = spec.space(name).parameters
    products = (
        itertools.product(*(_options(dim.probes(), pick) for dim in space.values())) for pick in (min, max)
    )
    for values in itertools.islice(itertools.chain.from_iterable(products), _MOST):
        params: dict[str, Any] = {}
        for (key, dimension), value in zip(space.items(), values, strict=True):
            if dimension.applies({**spec.method_config(name, params), **params}):
                params[key] = value
        with suppress(ValidationError):  # told by the rules of the study file
            yield _configuration(spec, name, params)


def _configuration(spec: StudySpec, name: str, params: Mapping[str, Any]) -> TrainingConfig:
    fields, stated = method_config_class(spec.arms[name].method), spec.method_config(name, params)
    return fields.model_validate(
        {**fields.defaults_beside(stated, embedded=spec.model.path == EMBEDDED), **stated}
    )


def _options(values: Sequence[Any], pick: Callable[[Sequence[Any]], Any]) -> list[Any]:
    """The values of a dimension, but one number for all of its numbers."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    others = [value for value in values if value is None or isinstance(value, str | bool)]
    return others + ([pick(numbers)] if numbers else [])
