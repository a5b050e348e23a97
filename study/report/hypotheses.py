"""Judges stated hypotheses: each by one interval, which holds together with those of all that were stated beside it.

Claims of one study rest on the same runs, so that some of many would come out by chance alone. Each interval therefore
has the level 1 - 0.05 / k for k hypotheses that runs decide (Bonferroni): all of them hold at once in 95 % of studies,
and so do all verdicts, since each is read off from its interval. Those that were stated after the first trial are a
family of their own: they may have been chosen by what was seen.

A claim on each of several arms ("better than all others") is one on its least favourable comparison, the smallest of
the differences where more than a limit is expected. That one's interval ends, on the side of the claim, at the
lowest end of all, since the claim fails with any of them (an intersection-union test, which needs no correction: Berger
1982, doi 10.1080/00401706.1982.10487790), and on the other side at the lowest of ends that hold together (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from study.report.inference_steps import at_inference_steps
from study.report.measures import TOTAL_FLOPS
from study.report.pairing import Values, mean_of_known, values_of
from study.report.prepared import Rows
from study.spec.hypotheses import Operand, Statement, number_of
from study.statistics.paired import LEVEL, Estimate, Floats, estimate_of, moments
from study.statistics.power import MIN_SUBJECTS, subjects_to_decide, subjects_to_show_inside
from trainables.evaluation.metrics_table import METRICS
from trainables.methods.registry import BASE

_ROUNDING = 1e-9  # within which two numbers are one: logarithms of ratios that are integers differ by 1e-16
Ruling = Literal["supported", "refuted", "equivalent", "not enough runs", "not measured"]


@dataclass(frozen=True)
class Region:
    """What is expected of the statistic: all between `low` and `high`, of which one may be infinite.

    Attributes:
        near_low, near_high: What is as good as the limit of a one-sided claim; None without a margin.
    """

    low: float
    high: float
    near_low: float | None = None
    near_high: float | None = None

    @classmethod
    def of(cls, statement: Statement) -> Region:
        """The region of a statement, in the units of its statistic."""
        expect, margin = statement.expect, statement.margin
        if expect.between is not None:
            return cls(number_of(expect.between[0]), number_of(expect.between[1]))
        if expect.equal_to is not None:
            value = number_of(expect.equal_to)
            return cls(value - (margin or 0.0), value + (margin or 0.0))
        stated = expect.more_than if expect.more_than is not None else expect.less_than
        assert stated is not None, "one of the four is given"
        limit = number_of(stated)
        low, high = (limit, math.inf) if expect.more_than is not None else (-math.inf, limit)
        return cls(low, high, limit - margin, limit + margin) if margin else cls(low, high)

    def in_logarithms(self) -> Region:
        """The same of a ratio's logarithm."""

        def log(value: float | None) -> float | None:
            return None if value is None else math.log(value) if value > 0 else -math.inf

        low, high = log(self.low), log(self.high)
        assert low is not None
        assert high is not None
        return Region(low, high, log(self.near_low), log(self.near_high))


@dataclass(frozen=True)
class Judged:
    """One hypothesis and what the runs say of it.

    Attributes:
        stated: When, ISO 8601; None where the ledger does not say.
        trials: How many trials there were then; None likewise.
        estimate: Of the statistic, with its own 95 % interval; of a ratio the geometric mean.
        together: The same with the interval from which the ruling is read.
        subjects: How many subjects the confirm phase has, of which all that is compared may lack some.
        needed: How many subjects would decide it with 80 % power, if it is as it was seen; None where it is decided,
            unknown, or takes more than `study.statistics.power.MOST_SUBJECTS`.
        missing: Why it is not measured.
        least: Of a claim on each of several arms: those of the least favourable comparison.
    """

    statement: Statement
    stated: str | None
    trials: int | None
    estimate: Estimate
    together: Estimate
    subjects: int
    ruling: Ruling
    needed: int | None = None
    missing: str = ""
    least: tuple[str, ...] = ()

    @property
    def in_advance(self) -> bool:
        """Whether it was stated before the first trial."""
        return self.trials == 0


@dataclass(frozen=True)
class _Comparison:
    """One number a subject, in logarithms where it is a ratio; `arms`: those of which each is claimed something."""

    units: Floats
    runs: int
    arms: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        return float(moments(self.units)[1])

    def estimate(self, level: float, exact: bool) -> Estimate:
        """Its mean with Student's interval.

        What is the same for every subject has none, which no chance can be reckoned from; in what is counted there is
        no chance, and the mean is both ends.
        """
        found = estimate_of(self.units, self.runs, level=level)
        if not np.allclose(self.units, self.units[0], rtol=_ROUNDING, atol=_ROUNDING):
            return found
        end = found.value if exact else None
        return replace(found, low=end, high=end)


@dataclass(frozen=True)
class _Asked:
    """A hypothesis with its comparisons: one, or one for each arm of which it is claimed."""

    statement: Statement
    stated: str | None
    trials: int | None
    comparisons: tuple[_Comparison, ...]
    missing: str
    subjects: int

    @property
    def is_ratio(self) -> bool:
        return self.statement.statistic == "ratio"

    @property
    def region(self) -> Region:
        region = Region.of(self.statement)
        return region.in_logarithms() if self.is_ratio else region


def judge_hypotheses(rows: Rows, level: float = LEVEL) -> tuple[Judged, ...]:
    """Judges all hypotheses of a study, in the order of their statement.

    Args:
        level: Of the intervals that hold together.
    """
    asked = [_asked(rows, *one) for one in _stated(rows.meta)]
    return tuple(
        judged
        for family in ([one for one in asked if one.trials == 0], [one for one in asked if one.trials != 0])
        for judged in _family(family, level)
    )


def _stated(meta: Mapping[str, Any]) -> list[tuple[Statement, str | None, int | None]]:
    found = []
    entries = meta.get("hypotheses")
    for entry in entries if isinstance(entries, Sequence) else ():
        try:
            statement = Statement.model_validate(entry["statement"])
        except (ValidationError, KeyError, TypeError):  # of a version that this one does not understand
            continue
        kept = entry.get("digest") == statement.digest  # or somebody has changed it, and nobody knows when
        found.append((statement, *((entry.get("stated"), entry.get("trials")) if kept else (None, None))))
    return found


def _asked(rows: Rows, statement: Statement, stated: str | None, trials: int | None) -> _Asked:
    comparisons: tuple[_Comparison, ...] = ()
    missing = ""
    if statement.statistic != "arithmetic":
        comparisons, missing = _comparisons(rows, statement)
    subjects = rows.frame.loc[rows.frame["phase"] == "confirm", "subject"].nunique()
    return _Asked(statement, stated, trials, comparisons, missing, subjects)


def _comparisons(rows: Rows, statement: Statement) -> tuple[tuple[_Comparison, ...], str]:
    """All comparisons of a hypothesis, and why there are none."""
    measure = statement.measure or ""
    confirm = rows.confirm
    if statement.inference_steps is not None:
        confirm = at_inference_steps(rows, measure, statement.inference_steps)
    if measure not in confirm or not confirm[measure].notna().any():
        return (), f"no complete confirm run has a value of {measure}"
    values = values_of(confirm, measure)
    absent = [arm for one in statement.operands for arm in one.named if arm not in values.arms]
    if absent:
        return (), f"no complete confirm run of {', '.join(dict.fromkeys(absent))} has a value of {measure}"
    base = {arm for arm, method in rows.methods.items() if method == BASE}
    found = []
    for operands in product(*map(_alternatives, statement.operands)):
        parts = [_of_operand(values, one, base) for one in operands]
        if statement.statistic == "ratio":
            if any((part[np.isfinite(part)] <= 0).any() for part in parts):
                return (), f"{measure} is not above 0 in all runs, and a ratio needs that"
            with np.errstate(invalid="ignore"):
                parts = [np.log(part) for part in parts]
        cells = parts[0] if len(parts) == 1 else parts[0] - parts[1]
        units = mean_of_known(cells)
        if not np.isfinite(units).any():
            return (), "no subject has runs of all that is compared"
        pairs = zip(operands, statement.operands, strict=True)
        of = tuple(one.named[0] for one, stated in pairs if stated.each_of)
        found.append(_Comparison(units[np.isfinite(units)], int(np.isfinite(cells).sum()), of))
    return tuple(found), ""


def _alternatives(operand: Operand) -> tuple[Operand, ...]:
    """An operand by itself, or each of its arms."""
    return tuple(Operand(arms=(arm,)) for arm in operand.each_of) if operand.each_of else (operand,)


def _of_operand(values: Values, operand: Operand, base: set[str]) -> Floats:
    """Mean of the arms for each subject and seed, shape ``(subjects, seeds)``; NaN where one of them is missing.

    The seeds of the untrained model differ in evaluation noise only, and are averaged.
    """
    shape = values.array.shape[1:]
    if operand.predicted is not None:
        return np.full(shape, number_of(operand.predicted))
    arms = [
        np.broadcast_to(mean_of_known(values.of(arm))[:, None], shape) if arm in base else values.of(arm)
        for arm in operand.arms or ()
    ]
    return np.asarray(np.mean(arms, axis=0))


# ------------------------------------------------------------------ rulings


def _family(family: Sequence[_Asked], level: float) -> list[Judged]:
    """Judges hypotheses that share one level."""
    decided_by_runs = [one for one in family if one.statement.statistic != "arithmetic" and not one.missing]
    alone = 1 - (1 - level) / max(1, len(decided_by_runs))
    return [_judged(one, level, alone) for one in family]


def _judged(one: _Asked, level: float, alone: float) -> Judged:
    statement = one.statement
    if statement.statistic == "arithmetic":
        value = statement.number if statement.number is not None else math.nan
        region = one.region
        fact = Estimate(value, value, value, level=level)
        ruling: Ruling = "supported" if _holds(region, value, statement) else "refuted"
        return Judged(statement, one.stated, one.trials, fact, fact, one.subjects, ruling)
    if one.missing:
        no = Estimate(None, level=level)
        return Judged(
            statement, one.stated, one.trials, no, no, one.subjects, "not measured", missing=one.missing
        )
    exact = is_counted(statement.measure)
    own, together = (_estimate(one, each, exact) for each in (level, alone))
    ruling = _ruling(one.region, together)
    needed = _needed(one, 1 - alone) if ruling == "not enough runs" else None
    if one.is_ratio:
        own, together = _exponential(own), _exponential(together)
    least = one.comparisons[_least_favourable(one)].arms
    return Judged(statement, one.stated, one.trials, own, together, one.subjects, ruling, needed, least=least)


def _least_favourable(one: _Asked) -> int:
    """Which comparison has the lowest mean, or the highest where less than a limit is expected."""
    sign = -1.0 if one.statement.expect.less_than is not None else 1.0
    return int(np.argmin([sign * each.mean for each in one.comparisons]))


def _estimate(one: _Asked, level: float, exact: bool) -> Estimate:
    """The estimate of the only comparison, or that of the extreme of all (see the head of this module)."""
    towards = [each.estimate(level, exact) for each in one.comparisons]
    found = towards[_least_favourable(one)]
    if len(towards) == 1:
        return found
    apart = 1 - (1 - level) / len(towards)
    away = [each.estimate(apart, exact) for each in one.comparisons]
    found = replace(found, n_subjects=min(each.n_subjects for each in towards))
    upwards = one.statement.expect.less_than is not None
    lows = [each.low for each in (away if upwards else towards) if each.low is not None]
    highs = [each.high for each in (towards if upwards else away) if each.high is not None]
    if not len(lows) == len(highs) == len(towards):
        return replace(found, low=None, high=None)
    extreme = max if upwards else min
    return replace(found, low=extreme(lows), high=extreme(highs))


def _holds(region: Region, value: float, statement: Statement) -> bool:
    """Whether arithmetic comes to what is expected; limits of one-sided claims are themselves no part of it."""
    if statement.expect.is_one_sided:
        return region.low < value < region.high
    rounding = 1e-12 * max(1.0, abs(value))
    return region.low - rounding <= value <= region.high + rounding


def is_counted(measure: str | None) -> bool:
    """Whether a measure follows from a run's configuration, so that no chance is in its value."""
    return measure == TOTAL_FLOPS or (measure in METRICS and METRICS[measure].counted)


def _ruling(region: Region, together: Estimate) -> Ruling:
    if together.low is None or together.high is None:
        return "not enough runs"
    low, high = (_at_limit(end, region) for end in (together.low, together.high))
    near_low, near_high = region.near_low, region.near_high
    if near_low is not None and near_high is not None and near_low < low and high < near_high:
        return "equivalent"
    if region.low <= low and high <= region.high and not low == high == _end(region):
        return "supported"
    if high < region.low or low > region.high or low == high == _end(region):
        return "refuted"
    return "not enough runs"


def _at_limit(value: float, region: Region) -> float:
    """A value, or the limit from which it differs by rounding alone."""
    for limit in (region.low, region.high, region.near_low, region.near_high):
        if limit is not None and math.isclose(value, limit, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            return limit
    return value


def _end(region: Region) -> float | None:
    """The limit of a one-sided claim, at which it does not hold; None of a region with two ends."""
    if math.isinf(region.high):
        return region.low
    return region.high if math.isinf(region.low) else None


def _needed(one: _Asked, alpha: float) -> int | None:
    """How many subjects would decide it with 80 % power, with the means and the spread that were seen.

    What is claimed of each of several arms is supported where all comparisons are, and refuted where one is.
    """
    if len(one.comparisons) == 1:
        return _subjects(one.comparisons[0], one.region, alpha)
    least = one.comparisons[_least_favourable(one)]
    if one.region.low < least.mean < one.region.high:
        found = [_subjects(each, one.region, alpha) for each in one.comparisons]
        return None if None in found else max(each for each in found if each is not None)
    return _subjects(least, one.region, alpha / len(one.comparisons))


def _subjects(comparison: _Comparison, region: Region, alpha: float) -> int | None:
    """How many subjects would decide one comparison."""
    count, mean, deviation = (float(part) for part in moments(comparison.units))
    if count < MIN_SUBJECTS:
        return MIN_SUBJECTS
    if deviation == 0:
        return None
    if (limit := _end(region)) is not None:
        near = None if region.near_high is None else region.near_high - limit
        # Both ends of the interval must lie within the margin, each of which has half of the level.
        ways = [subjects_to_decide(mean - limit, deviation, None, alpha)]
        if near is not None and abs(mean - limit) < near:
            ways.append(subjects_to_show_inside(mean - limit, deviation, near, alpha / 2))
        found = min((way for way in ways if way is not None), default=None)
    else:
        middle, half = (region.low + region.high) / 2, (region.high - region.low) / 2
        away = abs(mean - middle)
        found = (
            subjects_to_show_inside(away, deviation, half, alpha / 2)
            if away < half
            else subjects_to_decide(away - half, deviation, None, alpha)
        )
    return None if found is None else max(found, int(count) + 1)


def _exponential(estimate: Estimate) -> Estimate:
    def power(value: float | None) -> float | None:
        return None if value is None else math.exp(value)

    return replace(estimate, value=power(estimate.value), low=power(estimate.low), high=power(estimate.high))
