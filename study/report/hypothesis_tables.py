"""What the report says of hypotheses: a table of those stated before the first trial, and one of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from study.report.formatting import about, decimals_for, listing, number, plural, scale_for
from study.report.hypotheses import Judged, Ruling
from study.report.measures import measure
from study.report.results_tables import texts
from study.report.tables import Cell, Column, Table, assemble, estimate_cell
from study.spec.hypotheses import Operand, Statement, number_of
from study.statistics.paired import Estimate
from study.statistics.power import MIN_SUBJECTS, MOST_SUBJECTS

_RULINGS: tuple[Ruling, ...] = ("supported", "refuted", "equivalent", "not enough runs", "not measured")
_STATISTICS = {"difference": "difference in", "ratio": "ratio of", "value": "", "arithmetic": "arithmetic"}
_EACH = (
    "Where a claim is one on each of several arms, found is the comparison that is least in its favour. Its interval "
    "is one for the least of all: the end that decides for the claim is the least favourable end of all comparisons, "
    "each by itself (an intersection-union test), and the other one that of intervals that hold together."
)
_WITH_OPERANDS = {"difference": "less", "ratio": "over"}


def hypothesis_tables(judged: Sequence[Judged], unit: str) -> tuple[Table, ...]:
    """Two tables of the hypotheses of the first launch, and two of those that came later, where there are any.

    The first of each has the claims with their verdicts, the second what they rest on, for who checks them.

    Args:
        unit: What the intervals are over, "subject" or "data set".
    """
    first = [one for one in judged if one.in_advance]
    later = [one for one in judged if not one.in_advance]
    tables: list[Table] = []
    if first:
        caption = "Hypotheses that were stated before the first trial."
        tables += [_verdicts("hypotheses", caption, first, unit), _details("hypothesis-details", first)]
    if later:
        caption = "Hypotheses that were added after trials had been run: they may have been chosen by what was seen."
        tables += [
            _verdicts("hypotheses-later", caption, later, unit),
            _details("hypothesis-details-later", later, later=True),
        ]
    return tuple(tables)


def hypothesis_words(judged: Sequence[Judged]) -> tuple[str, ...]:
    """How many came to what, of those that were stated before the first trial."""
    first = [one for one in judged if one.in_advance]
    words = []
    if first:
        counts = Counter(one.ruling for one in first)
        told = listing(f"{counts[ruling]} {ruling}" for ruling in _RULINGS if counts[ruling])
        what = "hypothesis" if len(first) == 1 else "hypotheses"
        words.append(f"Of {len(first)} {what} that the study file stated before the first trial: {told}.")
    if len(first) < len(judged):
        later = len(judged) - len(first)
        words.append(
            f"{later} {'was' if later == 1 else 'were'} added later, and {'is' if later == 1 else 'are'} listed apart."
        )
    return tuple(words)


def _verdicts(key: str, caption: str, judged: Sequence[Judged], unit: str) -> Table:
    columns = [
        texts("name", "Hypothesis", [one.statement.name for one in judged]),
        texts("claim", "Claim", [one.statement.claim for one in judged]),
        texts("ruling", "Verdict", [_verdict(one, unit) for one in judged]),
        (
            Column("estimate", "Found", numeric=True, has_interval=True),
            [_found(one, one.estimate) for one in judged],
        ),
        texts("expected", "Expected", [_expected(one.statement) for one in judged]),
        (Column("n", f"n ({unit}s)", numeric=True), [_count(one) for one in judged]),
    ]
    return assemble(key, caption, columns, _notes(judged, unit))


def _details(key: str, judged: Sequence[Judged], *, later: bool = False) -> Table:
    columns = [
        texts("name", "Hypothesis", [one.statement.name for one in judged]),
        texts("what", "What was measured", [_measured(one) for one in judged]),
        (
            Column("together", "With the interval of all together", numeric=True, has_interval=True),
            [_found(one, one.together) for one in judged],
        ),
        *((texts("stated", "Stated", [_stated(one) for one in judged]),) if later else ()),
        texts("source", "Source", [one.statement.source or None for one in judged]),
        texts("digest", "Digest", [one.statement.digest[:12] for one in judged]),
    ]
    which = "that were added later" if later else "that were stated before the first trial"
    return assemble(key, f"What the verdicts on hypotheses {which} rest on.", columns)


def _notes(judged: Sequence[Judged], unit: str) -> tuple[str, ...]:
    tested = sum(one.statement.statistic != "arithmetic" and one.ruling != "not measured" for one in judged)
    if not tested:
        return ()
    return (
        f"Found: mean over {unit}s of what is measured, paired by seed, with Student's 95 % interval; of ratios the "
        "geometric mean. Verdicts are not read off from it, but from the wider interval that holds together with those "
        f"of all hypotheses of this table that runs decide ({tested}) in 95 % of studies (Bonferroni; in the table of "
        "what verdicts rest on): supported where it lies within what is expected, refuted where it lies outside, "
        "equivalent where it lies within the margin around the limit, and otherwise not enough runs, with the number "
        f"of {unit}s that would decide it with 80 % power if all is as it was seen. Arithmetic is computed, and "
        f"counted costs that are the same for every {unit} need no interval; other measures of which that is so have "
        "none.",
        *((_EACH,) if any(one.least for one in judged) else ()),
    )


def _measured(one: Judged) -> str:
    statement = one.statement
    if statement.statistic == "arithmetic":
        return "arithmetic"
    title = measure(statement.measure or "").title
    title = title if title.isupper() else title[:1].lower() + title[1:]
    if statement.inference_steps is not None:
        title += f" at {statement.inference_steps} inference steps"
    what = f"{_STATISTICS[statement.statistic]} {title}".strip()
    between = f" {_WITH_OPERANDS.get(statement.statistic, '')} "
    least = f"; found is {' and '.join(one.least)}" if one.least else ""
    return f"{what}: {between.join(_operand(each, statement) for each in statement.operands)}{least}"


def _operand(operand: Operand, statement: Statement) -> str:
    if operand.predicted is not None:
        return f"predicted {_in_unit(number_of(operand.predicted), statement)}"
    if operand.each_of is not None:
        return f"each of {listing(operand.each_of)}"
    arms = operand.arms or ()
    return listing(arms) if len(arms) == 1 else f"mean of {listing(arms)}"


def _expected(statement: Statement) -> str:
    expect, margin = statement.expect, statement.margin
    within = f", margin {_in_unit(margin, statement)}" if margin else ""
    if expect.between is not None:
        low, high = (_in_unit(number_of(end), statement) for end in expect.between)
        return f"between {low} and {high}"
    if expect.equal_to is not None:
        return f"equal to {_in_unit(number_of(expect.equal_to), statement)}{within}"
    if expect.more_than is not None:
        return f"more than {_in_unit(number_of(expect.more_than), statement)}{within}"
    assert expect.less_than is not None, "one of the four is given"
    return f"less than {_in_unit(number_of(expect.less_than), statement)}{within}"


def _unit_of(statement: Statement) -> str:
    """The unit of the statistic; ratios and arithmetic have none."""
    return measure(statement.measure or "").unit if statement.statistic in ("difference", "value") else ""


def _in_unit(value: float, statement: Statement) -> str:
    scale = scale_for(_unit_of(statement), [abs(value)])
    text = f"{value:,g}" if not scale.unit and abs(value) < 1e6 else number(value, scale)
    return f"{text} {scale.unit}".strip()


def _found(one: Judged, estimate: Estimate) -> Cell:
    if estimate.value is None:
        return Cell("--")
    if one.statement.statistic == "arithmetic":
        return Cell(f"{estimate.value:,.6g}", value=estimate.value)
    scale = scale_for(_unit_of(one.statement), [abs(estimate.value)])
    half = one.estimate.half_width  # both intervals have the digits of the narrower one
    decimals = decimals_for(estimate.value / scale.factor, half / scale.factor) if half else None
    cell = estimate_cell(estimate, scale, decimals)
    return Cell(f"{cell.text} {scale.unit}".strip(), cell.detail, cell.value, cell.low, cell.high)


def _count(one: Judged) -> Cell:
    if one.statement.statistic == "arithmetic":
        return Cell("--")
    n = one.estimate.n_subjects
    return Cell(str(n) if n in (0, one.subjects) else f"{n} of {one.subjects}", value=n)


def _verdict(one: Judged, unit: str) -> str:
    if one.ruling == "not measured":
        return f"not measured: {one.missing}"
    if one.ruling != "not enough runs":
        return one.ruling
    if one.estimate.n_subjects < MIN_SUBJECTS:
        return f"not enough runs: at least {MIN_SUBJECTS} {unit}s"
    if one.estimate.low is None:
        return f"not enough runs: the same for every {unit}, from which no interval can be reckoned"
    if one.needed is None:
        return f"not enough runs: more than {MOST_SUBJECTS} {unit}s"
    return f"not enough runs: about {about(one.needed)} {unit}s"


def _stated(one: Judged) -> str:
    if one.stated is None or one.trials is None:
        return "unknown: the ledger does not say"
    return f"after {plural(one.trials, 'trial')}, {one.stated[:16].replace('T', ' ')} UTC"
