"""Which factors a study crosses: questions that its pairs of arms answer together, as its file sets the arms apart.

A study that crosses, say, {LoRA, DreamBooth} x {no prior, prior} x {cosine, constant} asks three questions. Whether it
does follows from the study file alone, so that plans and reports ask the same number of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.spec.sections import method_defaults
from study.spec.study_spec import StudySpec
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.protocol import AN_ADAPTER
from trainables.methods.registry import BASE, get_method, method_config_class, method_names

PRIOR, TEXT_ENCODER, SCHEDULE = "with_prior_preservation", "train_text_encoder", "lr_scheduler"
TARGET = "prior_preservation_target"
#: What an arm may be set apart in, with the training fields that decide it; what is trained depends on the method, too.
FACTOR_FIELDS = {
    "trains": ("adapter", "trains"),
    "prior": (PRIOR, TARGET),
    "text_encoder": (TEXT_ENCODER,),
    "schedule": (SCHEDULE,),
}
#: Training fields in which arms of different levels differ by what a factor is.
DECIDING = {field for fields in FACTOR_FIELDS.values() for field in fields}
# Of these each pair of levels is a question, where there are more than two: they are of one treatment. What differs in
# another factor of more than two levels is told by pairs of arms.
_OF_SEVERAL_LEVELS = ("prior",)
FEWEST_PAIRS = 2  # of arms; a single one stands in the table of pairs
#: Fields that one level of a factor has and the other has not.
OF_THE_FACTOR = {
    "prior": {"prior_loss_weight"},
    "text_encoder": {"text_encoder_learning_rate", "text_encoder_target_modules"},
}
UNKNOWN, SEARCHED = "--", "searched"
#: Fields that change what a run needs, and not what it comes to.
_NO_DIFFERENCE = {"gradient_checkpointing", "checkpointing_steps"}
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

    Of prior preservation, which has three, those two of its levels count whose arms all have one.

    Args:
        levels: Of each trained arm.
        alike: Whether two arms are stated alike but for a factor: called with the factor and the arms.
    """
    found = []
    for factor in FACTOR_FIELDS:
        known = list(dict.fromkeys(own[factor] for own in levels.values()))
        if not {UNKNOWN, SEARCHED}.isdisjoint(known) or (len(known) > 2 and factor not in _OF_SEVERAL_LEVELS):
            continue
        for two in itertools.combinations(sorted(known, key=lambda level: (level != "yes", level)), 2):
            of_these = {arm: own for arm, own in levels.items() if own[factor] in two}
            found.append(_crossed(factor, two, of_these, alike))
    return tuple(one for one in found if one is not None)


def _crossed(
    factor: str,
    two: tuple[str, str],
    levels: Mapping[str, Levels],
    alike: Callable[[str, str, str], bool],
) -> Crossed | None:
    first, second = two
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
    shared = fields_of(one[0]) & fields_of(other[0]) - DECIDING - _NO_DIFFERENCE
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
        _levels(spec, list(stated)),
        lambda factor, one, other: stated_alike(factor, files[one], files[other]),
    )


def _levels(spec: StudySpec, arms: Sequence[str]) -> dict[str, Levels]:
    found: dict[str, Levels] = {}
    priors = {arm: prior_levels((_value(spec, arm, PRIOR),), (_value(spec, arm, TARGET),)) for arm in arms}
    words = prior_words(priors.values())
    for arm in arms:
        levels = {
            "trains": _what_trains(spec, arm),
            "prior": " and ".join(words[level] for level in priors[arm]),
            "text_encoder": yes_or_no(_value(spec, arm, TEXT_ENCODER)),
            "schedule": yes_or_no(_value(spec, arm, SCHEDULE)),
        }
        found[arm] = without_searched(levels, spec.space(arm).parameters)
    return found


def _what_trains(spec: StudySpec, arm: str) -> str:
    what = what_is_trained(spec.arms[arm].method, lambda: [_value(spec, arm, "trains")])
    return of_kind(KINDS[_value(spec, arm, "adapter")].title) if what == AN_ADAPTER else what


def without_searched(levels: Levels, searched: Container[str]) -> Levels:
    """Returns the levels of an arm, those as `SEARCHED` that its search draws: it has no level of such a factor."""
    return {
        factor: SEARCHED if any(field in searched for field in FACTOR_FIELDS[factor]) else level
        for factor, level in levels.items()
    }


def _value(spec: StudySpec, arm: str, field: str) -> Any:
    """The value of a training field in an arm where nothing is searched."""
    method = spec.arms[arm].method
    if "method" in method_config_class(method).needs_of(field):
        return method_defaults(method)[field]
    return spec.method_fields(arm)[field]


def yes_or_no(value: Any) -> str:
    """A level in words: of a switch yes or no."""
    return {True: "yes", False: "no"}.get(value, str(value))


def prior_levels(switch: Sequence[Any], target: Sequence[Any]) -> tuple[str, ...]:
    """Levels of prior preservation that an arm has: "no", "images", "base"; none where nothing is known.

    Args:
        switch: Values of the field that switches it on.
        target: Values of the field that says what the target is; none in records of versions without it.
    """
    found = (level for on in switch for level in ((target or ("images",)) if on else ("no",)))
    return tuple(dict.fromkeys(str(level) for level in found))


def prior_words(arms: Iterable[Sequence[str]]) -> dict[str, str]:
    """What the levels of prior preservation are called beside each other: yes and no unless an arm has the third."""
    if any("base" in levels for levels in arms):
        return {"no": "no", "images": "class images", "base": "frozen base"}
    return {"no": "no", "images": "yes", "base": "frozen base"}


def what_is_trained(method: str, either: Callable[[], Sequence[Any]]) -> str:
    """What a method says that it trains; its own name where this version does not know it.

    Args:
        either: Gives the values of the field `trains`, asked for where that field decides; several are `UNKNOWN`.
    """
    if method not in method_names():
        return method
    known = get_method(method)
    decides = getattr(known, "what_trains_by", None)
    if decides is None:
        return known.what_trains
    values = either()
    return str(decides(values[0])) if len(values) == 1 else UNKNOWN


def of_kind(kinds: str) -> str:
    """Adapters in words, with the title of their kind, or kinds."""
    return f"{AN_ADAPTER} ({kinds})"
