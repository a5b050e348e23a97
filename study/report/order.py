"""The order of the arms by their means, and which of them cannot be told apart from the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from study.report.analysis import Analysis
from study.report.comparisons import Comparison
from study.report.measures import bounded, measure
from study.statistics.paired import Estimate

Relation = Literal["best", "equivalent", "open", "worse", "better", "not tested", "apart", "untrained"]
_ALIKE: tuple[Relation, ...] = ("best", "equivalent", "open", "not tested", "apart")
RELATION_WORDS: dict[Relation, str] = {
    "best": "best mean",
    "equivalent": "equivalent",
    "open": "not told apart",
    "worse": "worse",
    "better": "better where both ran",
    "not tested": "not tested",
    "apart": "nothing in common",
    "untrained": "untrained",
}


@dataclass(frozen=True)
class Place:
    """One arm's place in the order.

    Attributes:
        estimate: Of the primary measure, its interval cut at what is possible.
        relation: How it stands to the arm with the best mean, by the family of all pairs. "open": neither a difference
            nor equivalence is shown; "better": runs are missing, and it is ahead on the subjects that both have;
            "not tested": fewer subjects than a test takes; "apart": no subject and seed in common.
        comparison: It against the best, seen from its own side; None of the best itself and of the base model.
    """

    arm: str
    estimate: Estimate
    relation: Relation
    comparison: Comparison | None = None

    @property
    def alike(self) -> bool:
        """Whether it cannot be told apart from the best, which belongs to them."""
        return self.relation in _ALIKE


def places(analysis: Analysis) -> tuple[Place, ...]:
    """The arms that have a result, the best mean first; untrained models, which are the reference, come last."""
    sign = measure(analysis.primary).sign
    against = {c.second: c.reversed() for c in analysis.against_best}
    found = []
    for result in analysis.arms:
        estimate = result.estimates[analysis.primary]
        if estimate.value is None:
            continue
        comparison = against.get(result.arm)
        relation = _relation(comparison, is_base=result.is_base, is_best=result.arm == analysis.best)
        order = result.is_base, -sign * estimate.value, result.arm != analysis.best
        found.append((order, Place(result.arm, bounded(analysis.primary, estimate), relation, comparison)))
    return tuple(place for _, place in sorted(found, key=lambda one: one[0]))


def _relation(comparison: Comparison | None, *, is_base: bool, is_best: bool) -> Relation:
    if is_base:
        return "untrained"
    if is_best or comparison is None:
        return "best" if is_best else "apart"
    if comparison.difference.value is None:
        return "apart"
    if comparison.p is None:
        return "not tested"
    if comparison.outcome in ("better", "worse", "equivalent"):
        return comparison.outcome
    return "open"
