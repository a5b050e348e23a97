"""What the fields of an arm come to: those that have no effect, and arms that are the same."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from search_spaces.schema import Categorical
from study.spec.sections import Arm, Budget, arm_space, code_of, dump, merged_training, method_defaults
from trainables.config.fields import EMBEDDED, ModelConfig
from trainables.config.messages import Loc
from trainables.config.training import CAPTION_DROPOUT, NO_CAPTIONS, OF_CAPTIONS
from trainables.methods.registry import BASE, method_config_class

if TYPE_CHECKING:
    from study.spec.sound_sections import Sections


def values_of(
    name: str, arm: Arm, training: Mapping[str, Any], budget: Budget, model: ModelConfig
) -> Sequence[Any]:
    """Returns the values that a training field may have in an arm, or their ends; none if its space is not sound."""
    try:
        dimension = arm_space(arm, training, budget, model).parameters.get(name)
    except ValidationError:
        return []
    if dimension is not None:
        return list(dimension.probes())
    return [_merged(arm, training, budget, model).get(name, method_defaults(arm.method).get(name))]


def fields_without_effect(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """What an arm sets, or the study for all arms, must change something; a default is nobody's statement."""
    arms = sections.arms or {}
    for name, arm in arms.items():
        own = {key: ("search_space", key) for key, dim in (arm.search_space or {}).items() if dim is not None}
        for key, place in {**own, **{key: (key,) for key in arm.fixed}}.items():
            if place == (key,) and _is_default(key, arm, sections):
                continue  # a default that is written out says nothing
            reason = _idle(key, arm, sections)
            if reason is not None:
                yield ("arms", name, *place), f"has no effect in this arm: {reason}; remove it"
    trained = {name: arm for name, arm in arms.items() if arm.method != BASE}
    for key, value in (sections.training or {}).items():
        if all(value == method_defaults(arm.method).get(key) for arm in trained.values()):
            continue
        reasons = {name: _idle(key, arm, sections) for name, arm in trained.items()}
        if reasons and None not in reasons.values():
            name, reason = next(iter(reasons.items()))
            yield ("training", key), f"has no effect in any arm, as in {name!r}: {reason}; remove it"


def duplicate_arms(sections: Sections) -> Iterator[tuple[Loc, str]]:
    """Two arms are the same if what has an effect is the same, however it is written."""
    seen: dict[str, str] = {}
    for name, arm in (sections.arms or {}).items():
        try:
            content = _content(arm, sections)
        except ValidationError:
            continue  # told by other rules
        if content in seen:
            same = (
                f"is the same arm as {seen[content]!r}: same method, and nothing that differs has an effect"
            )
            yield ("arms", name), f"{same}; remove one"
        seen.setdefault(content, name)


def _is_default(key: str, arm: Arm, sections: Sections) -> bool:
    """Whether a fixed field says what it would be anyway, or what it would be for Stable Diffusion."""
    kinds = {False, (sections.model or ModelConfig()).path == EMBEDDED}
    defaults = [method_defaults(arm.method, embedded=embedded) for embedded in kinds]
    return any(key in known and arm.fixed[key] == known[key] for known in defaults)


def _idle(key: str, arm: Arm, sections: Sections) -> str | None:
    """Why a field that is set in an arm, or for it, has no effect there; None if it has, or may have."""
    fields = method_config_class(arm.method)
    training, budget, model = _common(sections)
    if key not in fields.model_fields:
        return None  # told elsewhere
    for other, wanted in fields.needs_of(key).items():
        if other == "method":
            if fields.READ is None:
                return f"the method {arm.method} does not read it"
            return f"the method {arm.method} trains nothing and reads {' and '.join(fields.READ)} alone"
        possible = values_of(other, arm, training, budget, model)
        if key in (arm.search_space or {}):
            try:
                dimension = arm_space(arm, training, budget, model).parameters.get(key)
            except ValidationError:
                return None
            if dimension is None:
                return None  # its own condition never holds, which is meant
            when = (dimension.when or {}).get(other)
            possible = [value for value in possible if when is None or value in when]
        if possible and not set(possible) & set(wanted):
            have = " or ".join(map(_plain, dict.fromkeys(possible)))
            return f"it needs {other}: {' or '.join(map(_plain, wanted))}, but {other} is {have}"
    if key in OF_CAPTIONS and set(values_of(CAPTION_DROPOUT, arm, training, budget, model)) == {1}:
        return NO_CAPTIONS
    return None


def _content(arm: Arm, sections: Sections) -> str:
    """What an arm comes to, as text."""
    training, budget, model = _common(sections)
    space = arm_space(arm, training, budget, model)
    searched = {name: _dimension(dim) for name, dim in space.parameters.items()}
    fixed = _merged(arm, training, budget, model)
    alone = {
        name: dim.choices[0]
        for name, dim in space.parameters.items()
        if isinstance(dim, Categorical) and len(dim.choices) == 1 and not dim.when
    }
    searched = {name: dim for name, dim in searched.items() if name not in alone}
    fixed |= alone
    with contextlib.suppress(ValidationError):  # compared as it is written, if it is not sound
        fixed = method_config_class(arm.method).model_validate(fixed).effective(searched)
    return json.dumps(
        [code_of(arm.method), fixed, dict(sorted(searched.items()))], sort_keys=True, default=str
    )


def _dimension(dimension: Any) -> Any:
    content = dump(dimension)
    if isinstance(dimension, Categorical):
        content["choices"] = sorted(content["choices"], key=repr)
    return content


def _common(sections: Sections) -> tuple[Mapping[str, Any], Budget, ModelConfig]:
    return sections.training or {}, sections.budget or Budget(), sections.model or ModelConfig()


def _merged(arm: Arm, training: Mapping[str, Any], budget: Budget, model: ModelConfig) -> dict[str, Any]:
    """The fields of a run of an arm without what is searched, as its configuration takes them."""
    fields = method_config_class(arm.method)
    stated = merged_training(training, budget, arm.fixed, {})
    return {**fields.defaults_beside(stated, embedded=model.path == EMBEDDED), **stated}


def _plain(value: Any) -> str:
    """A value as a study file has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
