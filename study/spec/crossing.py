"""Which factors a study crosses: questions that its pairs of arms answer together, as its file sets the arms apart.

A study that crosses, say, {LoRA, DreamBooth} x {no prior, prior} x {cosine, constant} asks three questions. Whether it
does follows from the study file alone, so that plans and reports ask the same number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from study.spec.sections import method_defaults
from study.spec.study_spec import StudySpec
from trainables.methods.registry import BASE, method_config_class, method_names

PRIOR, TEXT_ENCODER, SCHEDULE = "with_prior_preservation", "train_text_encoder", "lr_scheduler"
#: What an arm may be set apart in, with the training field that decides it; what is trained follows from the method.
FACTOR_FIELDS = {"trains": None, "prior": PRIOR, "text_encoder": TEXT_ENCODER, "schedule": SCHEDULE}
#: `lora` and `dreambooth_lora` are one method with other defaults.
ON_ADAPTERS = ("lora", "dreambooth_lora")
# What of a model the other methods train.
_TRAINS = {
    "dreambooth": "all weights",
    "hypernetwork": "networks before keys and values",
    "textual_inversion": "embeddings of a new word",
    "custom_diffusion": "keys and values of the text, and embeddings of a new word",
    "pivotal_tuning": "embeddings of a new word, then an adapter",
}
FEWEST_PAIRS = 2  # of arms; a single one stands in the table of pairs
#: Fields that one level of a factor has and the other has not.
OF_THE_FACTOR = {
    "prior": {"prior_loss_weight"},
    "text_encoder": {"text_encoder_learning_rate", "text_encoder_target_modules"},
}
UNKNOWN = "--"
Levels = Mapping[str, str]  # of one arm, by factor


@dataclass(frozen=True)
class Crossed:
    """A factor that several pairs of arms differ in alone.

    Attributes:
        factor: A key of `FACTOR_FIELDS`.
        first, second: The levels, e.g. "yes" and "no".
        arms: The pairs of arms, first level first.
    """

    factor: str
    first: str
    second: str
    arms: tuple[tuple[str, str], ...]


def crossed_factors(
    levels: Mapping[str, Levels], alike: Callable[[str, str, str], bool]
) -> tuple[Crossed, ...]:
    """Returns the factors of two levels by which every arm has exactly one partner that differs in nothing else.

    Args:
        levels: Of each trained arm.
        alike: Whether two arms are stated alike but for a factor: called with the factor and the arms.
    """
    found = (_crossed(factor, levels, alike) for factor in FACTOR_FIELDS)
    return tuple(one for one in found if one is not None)


def _crossed(
    factor: str, levels: Mapping[str, Levels], alike: Callable[[str, str, str], bool]
) -> Crossed | None:
    known = list(dict.fromkeys(own[factor] for own in levels.values()))
    if len(known) != 2 or UNKNOWN in known:
        return None
    first, second = sorted(known, key=lambda level: (level != "yes", level))
    pairs = tuple(
        (one, other)
        for one, own in levels.items()
        for other, its in levels.items()
        if (own[factor], its[factor]) == (first, second)
        and all(own[name] == its[name] for name in FACTOR_FIELDS if name != factor)
        and alike(factor, one, other)
    )
    if len(pairs) < FEWEST_PAIRS or sorted(arm for pair in pairs for arm in pair) != sorted(levels):
        return None
    return Crossed(factor, first, second, pairs)


def stated_alike(
    factor: str, one: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]]
) -> bool:
    """Whether a study file gives two arms the same fields and dimensions, beside the factors and what belongs to one.

    Args:
        one, other: The method, and the arm as it stands in the file.
    """
    shared = fields_of(one[0]) & fields_of(other[0]) - {name for name in FACTOR_FIELDS.values() if name}
    if any(one[1].get(name) != other[1].get(name) for name in shared):
        return False
    compared = shared - OF_THE_FACTOR.get(factor, set())
    spaces = [arm.get("search_space") for _, arm in (one, other)]
    if not all(space is None or isinstance(space, Mapping) for space in spaces):
        return bool(spaces[0] == spaces[1])  # "fixed"
    first, second = (space if isinstance(space, Mapping) else {} for space in spaces)
    return all(first.get(name, UNKNOWN) == second.get(name, UNKNOWN) for name in compared)


def fields_of(method: str) -> set[str]:
    """Names of the training fields of a method; none of one that this version does not know."""
    return set(method_config_class(method).model_fields) if method in method_names() else set()


def crossed_in(spec: StudySpec) -> tuple[Crossed, ...]:
    """The factors that a study crosses, as its report will find them."""
    stated = {name: arm for name, arm in spec.arms.items() if arm.method != BASE}
    files = {name: (arm.method, arm.model_dump(mode="json")) for name, arm in stated.items()}
    return crossed_factors(
        {name: _levels(spec, name) for name in stated},
        lambda factor, one, other: stated_alike(factor, files[one], files[other]),
    )


def _levels(spec: StudySpec, arm: str) -> Levels:
    method = spec.arms[arm].method
    values, searched = spec.method_fields(arm), spec.space(arm).parameters

    def level(field: str) -> str:
        if "method" in method_config_class(method).needs_of(field):
            found: tuple[Any, ...] = (method_defaults(method)[field],)
        else:
            found = tuple(searched[field].probes()) if field in searched else (values[field],)
        return " and ".join({True: "yes", False: "no"}.get(value, str(value)) for value in found)

    trains = what_is_trained(method, level("adapter") if method in ON_ADAPTERS else "")
    return {name: trains if field is None else level(field) for name, field in FACTOR_FIELDS.items()}


def what_is_trained(method: str, adapter: str) -> str:
    """What a method trains, in words; `adapter`: the kind, or kinds, of a method on adapters."""
    return f"an adapter ({adapter})" if method in ON_ADAPTERS else _TRAINS.get(method, method)
