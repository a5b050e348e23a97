"""Whether the ranking of the arms depends on how quality is put together: with the class kept, or blind to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from study.report.comparisons import Comparison
from study.report.measures import CLASS_KEPT, SUBJECT_PROMPT
from study.statistics.paired import Estimate
from trainables.evaluation.metrics_table import QUALITY


@dataclass(frozen=True)
class Ranked:
    """One trained arm under both measures; ranks count from 1, equal means share the better one."""

    arm: str
    quality: Estimate
    rank: int | None
    subject_prompt: Estimate
    subject_prompt_rank: int | None
    class_kept: Estimate


@dataclass(frozen=True)
class Choice:
    """The ranking under `quality` (subject x prompt x class kept) and under `quality_subject_prompt`.

    Attributes:
        arms: The trained arms in the order of quality.
        best, other_best: The arm with the highest mean under each.
        changed: Pairs of top arms (the first two under each) whose verdict differs: by quality, and by subject and
            prompt alone.
    """

    arms: tuple[Ranked, ...]
    best: str
    other_best: str
    changed: tuple[tuple[Comparison, Comparison], ...]

    @property
    def depends(self) -> bool:
        """Whether the best arm, or a verdict between the top arms, depends on the choice."""
        return self.best != self.other_best or bool(self.changed)

    def of(self, arm: str) -> Ranked:
        """The row of one arm."""
        return next(row for row in self.arms if row.arm == arm)


def compare_choices(
    estimates: Mapping[str, Mapping[str, Estimate]],
    pairs: Sequence[Comparison],
    other_pairs: Sequence[Comparison],
) -> Choice | None:
    """Ranks trained arms under both measures; None where either is unknown for all of them.

    Args:
        estimates: Of each trained arm, by name of the measure.
        pairs: All pairs by quality. other_pairs: all pairs by subject and prompt alone.
    """
    ranks = {name: _ranks(estimates, name) for name in (QUALITY, SUBJECT_PROMPT)}
    if not ranks[QUALITY] or not ranks[SUBJECT_PROMPT]:
        return None
    ordered = sorted(estimates, key=lambda arm: ranks[QUALITY].get(arm, len(estimates) + 1))
    rows = tuple(
        Ranked(
            arm,
            estimates[arm][QUALITY],
            ranks[QUALITY].get(arm),
            estimates[arm][SUBJECT_PROMPT],
            ranks[SUBJECT_PROMPT].get(arm),
            estimates[arm][CLASS_KEPT],
        )
        for arm in ordered
    )
    tops = {name: sorted(ranks[name], key=lambda arm: ranks[name][arm])[:2] for name in ranks}
    known = {(c.first, c.second): c for c in other_pairs}
    changed = [
        (c, other)
        for c in pairs
        if [c.first, c.second] in _orders(tops.values())
        and (other := known.get((c.first, c.second))) is not None
        and other.outcome != c.outcome
    ]
    return Choice(rows, tops[QUALITY][0], tops[SUBJECT_PROMPT][0], tuple(changed))


def _orders(pairs: Iterable[list[str]]) -> list[list[str]]:
    return [order for pair in pairs for order in (pair, pair[::-1])]


def _ranks(estimates: Mapping[str, Mapping[str, Estimate]], name: str) -> dict[str, int]:
    values = {arm: found[name].value for arm, found in estimates.items()}
    known = {arm: value for arm, value in values.items() if value is not None}
    return {arm: 1 + sum(other > value for other in known.values()) for arm, value in known.items()}
