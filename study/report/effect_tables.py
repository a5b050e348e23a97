"""How large differences are, and how stable the order of arms is."""

from __future__ import annotations

from collections.abc import Sequence

from study.report.analysis import Analysis
from study.report.comparisons import Comparison
from study.report.formatting import MISSING, fixed, interval
from study.report.measures import SCORES, measure
from study.report.results_tables import Pair, arms_of, p_values, signed, texts
from study.report.tables import Cell, Column, Table, assemble, estimate_cell
from study.statistics.paired import Estimate


def effects_table(analysis: Analysis) -> Table:
    """All pairs once more: effect sizes, probability of improvement, equivalence, and the check by bootstrap."""
    pairs = analysis.pairs
    columns = [
        *arms_of(pairs),
        *size_columns(pairs),
        (
            Column("bootstrap_t", "Δ by bootstrap-t", numeric=True, has_interval=True),
            [signed(c.check, score=c.measure in SCORES) for c in pairs],
        ),
    ]
    note = (
        f"d: mean of the subjects' differences in their standard deviations{_sign_words(analysis)}. P(better): chance "
        "that a run is better than one of the other arm on the same subject; interval of Clopper and Pearson over "
        "subjects. p (equivalent): "
        f"{two_tests(analysis)}. Bootstrap-t: a "
        "check of Student's interval, from 5 subjects on; wide with few."
    )
    return assemble("effects", "All pairs of trained arms: size of the effect.", columns, (note,))


def _sign_words(analysis: Analysis) -> str:
    """How the sign of d is to be read where lower is better: nothing is turned round, as in the differences."""
    if measure(analysis.primary).direction != "min":
        return ""
    return (
        f"; of {measure(analysis.primary).words} lower is better, so that a negative d speaks "
        "for the first arm, and so does a P(better) above 0.5"
    )


def size_columns(comparisons: Sequence[Comparison]) -> list[Pair]:
    """Effect size, probability of improvement, and the p of equivalence."""
    return [
        (Column("effect", "d", numeric=True, has_interval=True), [signed(c.effect) for c in comparisons]),
        (
            Column("probability_of_improvement", "P(better)", numeric=True, has_interval=True),
            [_chance_cell(c.improvement) for c in comparisons],
        ),
        p_values("p_equivalent", "p (equivalent)", [c.p_equivalent for c in comparisons]),
    ]


def ranking_table(analysis: Analysis) -> Table:
    """How stable the order of the trained arms is."""
    rows = analysis.standings

    def shares(key: str, title: str, values: Sequence[float | None]) -> Pair:
        return Column(key, title, numeric=True), [
            Cell(MISSING) if v is None else Cell(fixed(v, 2), value=v) for v in values
        ]

    columns = [
        texts("arm", "Arm", [s.arm for s in rows]),
        (
            Column("rank", "Rank", numeric=True, has_interval=True),
            [estimate_cell(Estimate(s.rank, s.rank_low, s.rank_high), decimals=1) for s in rows],
        ),
        shares("best", "Best", [s.best for s in rows]),
        shares("on_front", "On the front", [s.on_front for s in rows]),
        shares("on_front_with_search", "with search", [s.on_front_with_search for s in rows]),
    ]
    note = (
        f"Over resamples of the subjects, the same for every arm. Rank: mean and 95 % of the resamples. Best: share "
        f"with the highest mean {measure(analysis.primary).words}. On the front: share in which no arm is both "
        "better and trained in less time; with search: the training of one search of the arm, without its evaluation, "
        "counts as well. Shares of few subjects are too sure of themselves: the tests above are not."
    )
    return assemble("ranking", "Stability of the order of arms.", columns, (note,))


def _chance_cell(chance: Estimate) -> Cell:
    if chance.value is None:
        return Cell(MISSING)
    detail = interval(chance.low, chance.high, 2)
    return Cell(fixed(chance.value, 2), detail, chance.value, chance.low, chance.high)


def two_tests(analysis: Analysis) -> str:
    """How equivalence is tested, for the note of a table."""
    if analysis.margin is None:
        return "not asked, since the margin is one of quality"
    return f"two one-sided t tests against ±{analysis.margin:g}, Holm's adjustment over {analysis.family}"
