"""The sections of a study file as far as they are sound, so that every rule can be checked on what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from search_spaces.schema import Categorical, Dimension
from study.spec.hypotheses import Hypothesis
from study.spec.implied import with_implied
from study.spec.phases import ConfirmSpec, EvaluationSpec, SearchSpec
from study.spec.sections import Arm, Budget, Resources, method_defaults
from trainables.config.fields import ModelConfig, SubjectConfig
from trainables.config.messages import Loc

Problem = tuple[Loc, str]


@dataclass(frozen=True)
class Sections:
    """The sections of a study that are sound by themselves; None stands for one that is not."""

    model: ModelConfig | None = None
    subjects: tuple[SubjectConfig, ...] | None = None
    training: dict[str, Any] | None = None
    arms: dict[str, Arm] | None = None
    search: SearchSpec | None = None
    confirm: ConfirmSpec | None = None
    budget: Budget | None = None
    evaluation: EvaluationSpec | None = None
    resources: Resources | None = None
    hypotheses: dict[str, Hypothesis] | None = None

    @classmethod
    def of(cls, spec: Any) -> Sections:
        """Returns the sections of a whole study."""
        return cls(**{name: getattr(spec, name) for name in cls.__dataclass_fields__})

    @classmethod
    def sound(cls, data: Mapping[str, Any], model: type[BaseModel]) -> Sections:
        """Validates each section of raw data by itself and keeps what is sound; of arms and hypotheses, each one."""
        kept: dict[str, Any] = {}
        for name in cls.__dataclass_fields__:
            field = model.model_fields[name]
            if name == "arms":
                raw = data.get("arms")
                arms = (
                    {key: _arm_as_far_as_sound(arm) for key, arm in raw.items()}
                    if isinstance(raw, dict)
                    else {}
                )
                kept["arms"] = {key: arm for key, arm in arms.items() if arm is not None}
            elif name == "hypotheses":
                raw = data.get("hypotheses")
                stated = {
                    key: _validated(Hypothesis, one)
                    for key, one in (raw.items() if isinstance(raw, dict) else ())
                }
                kept["hypotheses"] = {key: one for key, one in stated.items() if one is not None}
            elif name in data:
                kind: Any = field.annotation
                for extra in field.metadata:
                    kind = Annotated[kind, extra]
                kept[name] = _validated(kind, data[name])
            elif not field.is_required():
                kept[name] = field.get_default(call_default_factory=True)
        kept["training"] = with_implied(kept.get("subjects"), kept.get("training"))
        return cls(**kept)


def _validated(kind: Any, value: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return None


def _arm_as_far_as_sound(raw: Any) -> Arm | None:
    """An arm, with a stand-in for each malformed dimension (which has been told already)."""
    arm = _validated(Arm, raw)
    if arm is not None or not isinstance(raw, dict) or not isinstance(raw.get("search_space"), dict):
        return arm
    kind = dict[str, Dimension | None]
    stand_in = Categorical(choices=(None,))
    space = {
        key: dim if _validated(kind, {key: dim}) is not None else stand_in
        for key, dim in raw["search_space"].items()
    }
    arm = _validated(Arm, {**raw, "search_space": space})
    if arm is None:
        return None
    defaults = method_defaults(arm.method)
    known = {
        key: Categorical(choices=(defaults.get(key),)) if dim is stand_in else dim
        for key, dim in space.items()
    }
    return _validated(Arm, {**raw, "search_space": known})
