"""Which trial of a search is confirmed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from study.ledger.trial import TrialRecord
from trainables.evaluation.metrics_table import QUALITY


def best_of(
    records: Iterable[TrialRecord], signs: Sequence[int], *, constrained: bool = False
) -> TrialRecord | None:
    """Returns the trial whose configuration is confirmed, or None if none is complete.

    One objective: the best value, the earliest of equals; under constraints the best that meets them all, or else the
    least sum of violations (Optuna's measure), the better value of equals. Several objectives: of the Pareto front
    the trial with the highest quality, which weighs all fidelities; the front itself is reported apart.

    Args:
        records: Of one search.
        signs: Of each objective: 1 where more is better, -1 where less is.
        constrained: Whether the search has constraints; a trial without the constrained metric misses them by more
            than any other.
    """
    complete = [record for record in records if record.state == "COMPLETE"]
    if not complete:
        return None
    gains = {
        record.number: [sign * value for sign, value in zip(signs, record.values, strict=True)]
        for record in complete
    }
    if len(signs) == 1:

        def merit(record: TrialRecord) -> tuple[float, float, int]:
            missed = violation(record) if constrained else 0.0
            return -missed, gains[record.number][0], -record.number

        return max(complete, key=merit)
    front = [record for record in complete if not _dominated(gains[record.number], gains.values())]
    return max(front, key=lambda record: (record.metrics.get(QUALITY, float("-inf")), -record.number))


def violation(record: TrialRecord) -> float:
    """Returns by how much a trial of a constrained search misses its constraints: 0 if it meets all."""
    if record.violations is None:
        return float("inf")
    return sum(max(0.0, missed) for missed in record.violations)


def _dominated(gains: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    """Whether another point is nowhere worse and somewhere better."""
    return any(
        all(theirs >= mine for theirs, mine in zip(other, gains, strict=True)) and list(other) != list(gains)
        for other in others
    )
