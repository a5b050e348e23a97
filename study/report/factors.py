"""What the arms differ in: the factors of the study, and the fields of the configurations that were confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces.schema import SearchSpace
from study.report.formatting import listing
from study.report.prepared import Rows, distinct, section
from study.results.columns import PARAM_PREFIX
from study.spec.crossing import (
    DECIDING,
    PRIOR,
    SCHEDULE,
    TARGET,
    TEXT_ENCODER,
    UNKNOWN,
    of_kind,
    prior_levels,
    prior_words,
    what_is_trained,
    yes_or_no,
)
from study.spec.sections import Arm, Budget, arm_space, method_defaults
from trainables.config.fields import EMBEDDED, ModelConfig
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.protocol import AN_ADAPTER
from trainables.methods.registry import method_config_class, method_names

LENGTH = "length of training"  # whatever its currency
# Fields that do nothing unless another field is on.
NEEDS = {
    "prior_loss_weight": PRIOR,
    TARGET: PRIOR,
    "class_num_inference_steps": PRIOR,
    "class_guidance_scale": PRIOR,
    "num_class_images": PRIOR,
    "text_encoder_learning_rate": TEXT_ENCODER,
    "text_encoder_target_modules": TEXT_ENCODER,
}
# And those of them that do nothing unless there are class images.
_OF_CLASS_IMAGES = ("num_class_images", "class_num_inference_steps", "class_guidance_scale")
_PLACES = ("trial", "max_train_steps", "max_train_flops", "max_train_seconds", "budget_share")


@dataclass(frozen=True)
class Factors:
    """What an arm is made of, in words; "--" where it is unknown."""

    arm: str
    trains: str
    prior: str
    text_encoder: str
    schedule: str

    def differences(self, other: Factors) -> list[str]:
        """E.g. "prior preservation (yes, no)", for each factor in which two arms differ."""
        names = {
            "what is trained": (self.trains, other.trains),
            "prior preservation": (self.prior, other.prior),
            "training of the text encoder": (self.text_encoder, other.text_encoder),
            "schedule": (self.schedule, other.schedule),
        }
        return [f"{name} ({one}, {two})" for name, (one, two) in names.items() if one != two]


def factors_of(rows: Rows) -> tuple[Factors, ...]:
    """The factors of each trained arm that was run."""
    methods = {arm: rows.methods.get(arm) for arm in rows.trained_arms}
    priors = {
        arm: prior_levels(settings_of(rows, arm, PRIOR), settings_of(rows, arm, TARGET))
        for arm, method in methods.items()
        if method is not None
    }
    called = prior_words(priors.values())
    found = []
    for arm, levels in priors.items():
        prior = listing(called.get(level, level) for level in levels) or UNKNOWN
        words = (_words(settings_of(rows, arm, name)) for name in (TEXT_ENCODER, SCHEDULE))
        found.append(Factors(arm, _trains(rows, arm, methods[arm] or ""), prior, *words))
    return tuple(found)


def other_fields(rows: Rows) -> dict[str, dict[str, Any]]:
    """What the study file states of trained arms that is no factor, and not the same in all that read it, by arm.

    A field that a method does not have, such as adapters' rank where all weights train, is a matter of the method.
    """
    stated = {arm: section(rows.meta, "spec", "arms", arm) for arm in rows.trained_arms}
    left = {
        arm: {
            name: value for name, value in fields.items() if name not in (*DECIDING, "method", "search_space")
        }
        for arm, fields in stated.items()
    }
    apart = {
        name
        for fields in left.values()
        for name in fields
        if any(
            name not in other or other[name] != fields[name]
            for arm, other in left.items()
            if _reads(rows.methods.get(arm, ""), name)
        )
    }
    found = {
        arm: {name: value for name, value in fields.items() if name in apart} for arm, fields in left.items()
    }
    return {arm: fields for arm, fields in found.items() if fields}


def _reads(method: str, field: str) -> bool:
    """Whether a method has a field and reads it; of one that is not known here every field counts."""
    if method not in method_names():
        return True
    config = method_config_class(method)
    return field in config.model_fields and "method" not in config.needs_of(field)


def _trains(rows: Rows, arm: str, method: str) -> str:
    what = what_is_trained(method, lambda: settings_of(rows, arm, "trains"))
    if what != AN_ADAPTER:
        return what
    kinds = settings_of(rows, arm, "adapter") or ["lora"]  # of records that say nothing: there was one kind
    return of_kind(listing(KINDS[kind].title if kind in KINDS else str(kind) for kind in kinds))


def _words(values: list[Any]) -> str:
    return listing(map(yes_or_no, values)) or UNKNOWN


def settings_of(rows: Rows, arm: str, field: str) -> list[Any]:
    """Values of a training field in an arm's confirm runs, or its search's; where the rows do not have it (it is the
    same in all), what the study file says, or else the method's default. Empty where nothing is known.

    Of a field that the method does not read it is the default, whatever the study sets for all arms.
    """
    method = rows.methods.get(arm)
    if method in method_names() and "method" in method_config_class(method).needs_of(field):
        return [method_defaults(method)[field]]
    own = rows.frame[rows.frame["arm"] == arm]
    for column in (field, f"{PARAM_PREFIX}{field}"):
        if column in own:
            for part in (own[own["phase"] == "confirm"], own):
                if values := distinct(part[column].dropna()):
                    return values
    for place in (section(rows.meta, "spec", "arms", arm), section(rows.meta, "spec", "training")):
        if place.get(field) is not None:
            return [place[field]]
    if not section(rows.meta, "spec") or method not in method_names():
        return []
    default = method_defaults(method, embedded=_model(rows).path == EMBEDDED).get(field)
    return [] if default is None else [default]


def _model(rows: Rows) -> ModelConfig:
    path = section(rows.meta, "spec", "model").get("path")
    return ModelConfig(path=path) if isinstance(path, str) and path else ModelConfig()


def is_idle(rows: Rows, arm: str, field: str) -> bool:
    """Whether a field has no effect in an arm, because what it belongs to is off."""
    if field in _OF_CLASS_IMAGES and settings_of(rows, arm, TARGET) == ["base"]:
        return True
    return field in NEEDS and settings_of(rows, arm, NEEDS[field]) == [False]


def differing_fields(rows: Rows, first: str, second: str) -> list[str]:
    """Fields in which the confirmed configurations of two arms differ, beside the schedule and idle fields.

    The length is one field, whatever its currency.
    """
    confirm = rows.frame[rows.frame["phase"] == "confirm"]
    one, two = (confirm[confirm["arm"] == arm] for arm in (first, second))
    columns = ["learning_rate", "max_train_steps"]
    columns += sorted(c for c in confirm.columns if c.startswith(PARAM_PREFIX))
    found = []
    for column in columns:
        field = column.removeprefix(PARAM_PREFIX)
        idle = is_idle(rows, first, field) and is_idle(rows, second, field)
        if field == SCHEDULE or idle or distinct(one[column]) == distinct(two[column]):
            continue
        found.append(LENGTH if field in _PLACES else field.replace("_", " "))
    return list(dict.fromkeys(found))


# ------------------------------------------------------------------ what was searched


def searched_fields(rows: Rows, arm: str) -> tuple[str, ...]:
    """Dimensions of an arm's search: those of its space, as the study's record has it, or else the fields that varied.

    Few trials may miss a dimension by chance. A record whose space lacks a field that varied is of another version of
    the search spaces, and is not believed.
    """
    varied = [column.removeprefix(PARAM_PREFIX) for column in rows.parameters_of(arm)]
    if not (rows.search["arm"] == arm).any():
        return ()
    space = _recorded_space(rows, arm)
    return tuple(space) if space and set(varied) <= set(space) else tuple(varied)


def _recorded_space(rows: Rows, arm: str) -> list[str]:
    resolved = section(rows.meta, "identity", "arms", arm, "search_space")
    if resolved:
        return list(resolved)
    spec = section(rows.meta, "spec")
    stated: Any = section(spec, "arms").get(arm)
    if not isinstance(stated, Mapping):
        return []
    try:
        own = Arm.model_validate(stated)
        budget = Budget.model_validate(section(spec, "budget"))
        space: SearchSpace = arm_space(own, section(spec, "training"), budget, _model(rows))
    except (ValueError, TypeError, KeyError):  # a record that this version cannot read
        return []
    return list(space.parameters)
