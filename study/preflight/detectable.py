"""The smallest difference between arms that the confirm phase of a study can find, before it has run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from study.spec.crossing import crossed_in
from trainables.methods.registry import BASE

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

WORTH_KNOWING = 0.2  # of quality; a study that finds only larger differences misses most that matter


def trained_pairs(spec: StudySpec) -> int:
    """Number of pairs of trained arms: a family over which the report adjusts."""
    count = sum(arm.method != BASE for arm in spec.arms.values())
    return count * (count - 1) // 2


def assumed_spread(spec: StudySpec) -> float:
    """The standard deviation between subjects that is assumed of a study's arms."""
    from study.statistics.power import typical_deviation

    methods = {arm.method for arm in spec.arms.values() if arm.method != BASE}
    return typical_deviation(len(spec.confirm.seeds), len(methods))


def smallest_difference(spec: StudySpec) -> float:
    """Returns the difference in quality that is found with 80 % power; infinite with fewer than three subjects.

    For arms that differ between subjects and seeds as `study.statistics.power.typical_deviation` assumes, and for
    the strictest step of Holm's adjustment over all pairs, which share the 5 % with the factors that are crossed.
    """
    from study.statistics.paired import shares_of
    from study.statistics.power import SIGNIFICANCE, smallest_effect

    share = shares_of([max(1, trained_pairs(spec)), len(crossed_in(spec))])[0]
    effect = smallest_effect(len(spec.confirm.subjects or ()), SIGNIFICANCE * share)
    return effect * assumed_spread(spec)


def detectable_line(spec: StudySpec) -> str | None:
    """Returns a line on the smallest difference for people; None where nothing is compared."""
    from study.statistics.power import MIN_SUBJECTS

    pairs, subjects, seeds = trained_pairs(spec), len(spec.confirm.subjects or ()), len(spec.confirm.seeds)
    if not pairs or not seeds:
        return None
    unit = "data set" if any(subject.is_data_set for subject in spec.subjects) else "subject"
    design = f"{subjects} {unit}{'s' * (subjects != 1)} x {seeds} seed{'s' * (seeds != 1)}"
    if subjects < MIN_SUBJECTS:
        return f"{design} show values, but decide nothing: that takes at least {MIN_SUBJECTS} confirm {unit}s"
    found = smallest_difference(spec)
    assumed = f"if their differences vary by {assumed_spread(spec):.2f} (standard deviation) between {unit}s"
    where = "" if pairs == 1 else f" in any of {pairs} pairs of arms"
    if not math.isfinite(found) or found > 1:
        return f"{design} find no difference in quality reliably, {assumed}; take more confirm {unit}s"
    return (
        f"{design} find a difference of {found:.2f} or more in quality{where} in 80 % of studies, {assumed}"
    )


def tuning_note(spec: StudySpec) -> str | None:
    """Returns what the intervals will hold of the search's own chance, where that is not all of it; else None."""
    from study.statistics.power import MIN_SUBJECTS

    subjects, searches = len(spec.confirm.subjects or ()), spec.search.repeats
    searched = any(spec.trials_of(name) for name in spec.arms)
    if (
        not searched
        or not spec.confirm.seeds
        or not trained_pairs(spec)
        or subjects < MIN_SUBJECTS
        or searches >= subjects
    ):
        return None
    return (
        f"search: {searches} search{'es' * (searches > 1)} an arm for {subjects} confirm subjects: subjects that share "
        "a choice share its luck, and verdicts are about the chosen configurations; with search.repeats: "
        f"{subjects} they are about the methods"
    )


def detectable_notes(spec: StudySpec) -> list[str]:
    """Returns a note where the study can find large differences only, and where its verdicts are not on methods."""
    shared = tuning_note(spec)
    return [*_large_differences(spec), *([shared] if shared else [])]


def _large_differences(spec: StudySpec) -> list[str]:
    line = detectable_line(spec)
    if line is None or smallest_difference(spec) <= WORTH_KNOWING:
        return []
    remedy = (
        "" if "takes at least" in line or "take more" in line else "; smaller ones take more confirm subjects"
    )
    return [f"confirm: {line}{remedy}"]
