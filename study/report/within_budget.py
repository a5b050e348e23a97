"""Which arm to take within limits on cost and quality, and how sure that is: ``study best NAME --budget``.

Limits are held against every confirm run of an arm. Of the arms that keep them the one with the highest mean is named,
with its chance of being the best when subjects are resampled, and with those that it is not shown to be better than.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from study.report.analysis import DEFAULTS, Analysis, analyse
from study.report.comparisons import Settings
from study.report.formatting import about, listing, number, plural, scale_for
from study.report.measures import ALL, bounded, measure
from study.report.prepared import ResultsLike, Rows, prepare
from study.report.searches import repeat_of, search_objective
from study.statistics.paired import Estimate
from trainables.config.messages import did_you_mean
from trainables.errors import UserError

_UNITS = {
    "": 1.0, "$": 1.0, "s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9,
    "FLOP": 1.0, "GFLOP": 1e9, "TFLOP": 1e12, "PFLOP": 1e15, "k": 1e3, "M": 1e6,
}  # fmt: skip
#: Of which quantity a unit is; the unit of a measure must be the same.
_QUANTITIES = {
    "s": ("s", "ms", "min", "h"),
    "B": ("B", "kB", "MB", "GB"),
    "FLOP": ("FLOP", "GFLOP", "TFLOP", "PFLOP"),
    "$": ("$",),
    "count": ("k", "M"),
}
_LIMIT = re.compile(r"\s*([a-z_0-9]+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*([A-Za-z$]*)\s*")
_ENDINGS = ("", "_bytes", "_seconds", "_scaled")  # that may be left out of a measure's name


@dataclass(frozen=True)
class Limit:
    """A limit on a measure, in its base unit.

    Attributes:
        below: Whether values must lie below it; or else above.
        strict: Whether the limit itself is beyond it.
        text: As the user wrote it.
    """

    measure: str
    below: bool
    strict: bool
    value: float
    text: str

    def kept_by(self, values: pd.Series) -> bool:
        """Whether all of the values are known and within."""
        inside = {
            (True, True): values < self.value,
            (True, False): values <= self.value,
            (False, True): values > self.value,
            (False, False): values >= self.value,
        }[self.below, self.strict]
        return bool(len(values) and inside.all())


@dataclass(frozen=True)
class Recommendation:
    """The arm to take.

    Attributes:
        estimate: Of the primary measure, over subjects.
        costs: By measure with a limit: the largest value of its runs (the smallest, where the limit is below).
        best: Chance of being the best of the arms within the limits when subjects are resampled; None where there are
            too few subjects, or one arm.
        within: How many trained arms keep the limits.
        beyond: The other arms, with the limit that each breaks and by which value.
        run_key: A confirm run that has the configuration to take.
        chosen: By how many of its searches that configuration was chosen, and how many there were.
        words: How sure it is, in sentences.
    """

    arm: str
    primary: str
    estimate: Estimate
    costs: dict[str, float]
    best: float | None
    within: int
    beyond: dict[str, str]
    run_key: str
    chosen: tuple[int, int]
    words: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """For a table of one row."""
        mean = self.estimate
        ends = {"low": mean.low, "high": mean.high, "subjects": mean.n_subjects}
        return {"arm": self.arm, self.primary: mean.value, **ends, **self.costs}

    def lines(self) -> list[str]:
        """What should be known beside it."""
        times, searches = self.chosen
        by = f", chosen by {times} of {searches} searches" if searches > 1 else ""
        return [
            *self.words,
            *(f"not within: {arm}: {broken}" for arm, broken in self.beyond.items()),
            *(
                f"furthest of its runs: {in_unit(name, value)} of {name}"
                for name, value in self.costs.items()
            ),
            f"configuration: that of {self.run_key}{by}",
        ]


def arm_within(
    budget: str, results: Callable[[], ResultsLike], settings: Settings = DEFAULTS
) -> Recommendation:
    """Names the arm to take within limits; see `parse_limits` and `recommend`.

    Args:
        results: Gives the study's results, once the limits have been read.
    """
    limits = parse_limits(budget)
    return recommend(prepare(results()), limits, settings)


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Returns the limits of ``--budget``: ``peak_memory<8GB, train_seconds<600, dollars<1``.

    Raises:
        UserError: With every part that cannot be read.
    """
    found, problems = [], []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(_limit(part))
        except ValueError as error:
            problems.append(f"--budget {part!r}: {error}")
    if not found and not problems:
        problems.append('--budget is empty; write limits such as "peak_memory<8GB, train_seconds<600"')
    if problems:
        raise UserError(*problems)
    return tuple(found)


def _limit(part: str) -> Limit:
    match = _LIMIT.fullmatch(part)
    if match is None:
        raise ValueError(
            "is no limit; write a measure, < or >, and a number with its unit, such as peak_memory<8GB"
        )
    said, sign, value, unit = match.groups()
    name = next((said + ending for ending in _ENDINGS if said + ending in ALL), None)
    if name is None:
        near = did_you_mean(said, ALL)
        raise ValueError(f"no measure is called {said!r}; {near}see `study ls metrics`")
    try:
        amount = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is no number") from None
    if unit and unit not in _QUANTITIES.get(measure(name).unit, ()):
        fitting = _QUANTITIES.get(measure(name).unit, ())
        remedy = f"take one of {', '.join(fitting)}" if fitting else "it has none"
        raise ValueError(f"{unit!r} is no unit of {name}; {remedy}")
    return Limit(name, sign.startswith("<"), len(sign) == 1, amount * _UNITS[unit], part)


def recommend(rows: Rows, limits: Sequence[Limit], settings: Settings = DEFAULTS) -> Recommendation:
    """Names the arm to take.

    Raises:
        UserError: No trained arm has a complete confirm run, or none keeps the limits; with what each breaks.
    """
    arms = [arm for arm in rows.trained_arms if (rows.confirm["arm"] == arm).any()]
    if not arms:
        raise UserError(f"study {rows.study} has no complete confirm run of a trained arm yet")
    beyond = {arm: broken for arm in arms if (broken := _broken(rows, arm, limits))}
    within = [arm for arm in arms if arm not in beyond]
    if not within:
        told = "; ".join(f"{arm}: {broken}" for arm, broken in beyond.items())
        raise UserError(f"no arm of study {rows.study} keeps all limits ({told}); raise one of them")
    analysis = analyse(_only(rows, within), settings)
    best = analysis.best
    if best is None:
        raise UserError(f"no complete confirm run of {listing(within)} has a quality")
    run_key, chosen = _configuration(rows, best)
    standing = next((one for one in analysis.standings if one.arm == best), None)
    return Recommendation(
        arm=best,
        primary=analysis.primary,
        estimate=bounded(analysis.primary, analysis.arm(best).estimates[analysis.primary]),
        costs={limit.measure: _furthest(rows, best, limit) for limit in limits},
        best=None if standing is None else standing.best,
        within=len(within),
        beyond=beyond,
        run_key=run_key,
        chosen=chosen,
        words=_words(analysis, best, len(within), None if standing is None else standing.best),
    )


def _only(rows: Rows, arms: Sequence[str]) -> Rows:
    """The rows of some arms alone; the base model is compared with nothing here."""
    frame = rows.frame[rows.frame["arm"].isin(arms)].reset_index(drop=True)
    scores = rows.image_scores[rows.image_scores["arm"].isin(arms)]
    return replace(rows, arms=tuple(arms), frame=frame, image_scores=scores)


def _values(rows: Rows, arm: str, name: str) -> pd.Series:
    return rows.confirm.loc[rows.confirm["arm"] == arm, name]


def _furthest(rows: Rows, arm: str, limit: Limit) -> float:
    values = _values(rows, arm, limit.measure)
    return float(values.max() if limit.below else values.min())


def _broken(rows: Rows, arm: str, limits: Sequence[Limit]) -> str:
    """The limits that an arm breaks, with its values; empty where it keeps all."""
    told = []
    for limit in limits:
        values = _values(rows, arm, limit.measure)
        if not values.notna().all():
            told.append(f"{limit.text} is not known of all its runs")
        elif not limit.kept_by(values):
            told.append(f"{limit.text}, and a run has {in_unit(limit.measure, _furthest(rows, arm, limit))}")
    return ", ".join(told)


def in_unit(name: str, value: float) -> str:
    """A value of a measure with its unit."""
    scale = scale_for(measure(name).unit, [abs(value)])
    return f"{number(value, scale)} {scale.unit}".strip()


def _configuration(rows: Rows, arm: str) -> tuple[str, tuple[int, int]]:
    """A confirm run with the configuration that most searches of an arm chose, and how many of how many did.

    Where several were chosen alike often, that of the best search score: confirm scores have been looked at already.
    """
    confirm = rows.confirm[rows.confirm["arm"] == arm]
    fields = ["learning_rate", "lr_scheduler", "max_train_steps"]
    fields += sorted(column for column in confirm.columns if column.startswith("param."))
    searches = repeat_of(rows, arm).loc[confirm.index].tolist()
    configurations: dict[int, tuple[Any, ...]] = {}
    keys: dict[tuple[Any, ...], str] = {}
    scores: dict[tuple[Any, ...], float] = {}
    objective = search_objective(rows)
    metric = objective.metrics[0] if objective.metrics else "quality"
    sign = measure(metric).sign
    for search, (_, row) in zip(searches, confirm.iterrows(), strict=True):
        configuration = tuple(None if pd.isna(row[field]) else row[field] for field in fields)
        configurations[int(search)] = configuration
        keys.setdefault(configuration, str(row["run_key"]))
        tried = rows.search[(rows.search["arm"] == arm) & (rows.search["trial"] == row["trial"])]
        score = (
            float(tried[metric].mean()) if metric in tried and tried[metric].notna().any() else float("-inf")
        )
        scores[configuration] = max(scores.get(configuration, float("-inf")), sign * score)
    counts = Counter(configurations.values())
    chosen = max(counts, key=lambda one: (counts[one], scores[one]))
    return keys[chosen], (counts[chosen], len(configurations))


def _words(analysis: Analysis, best: str, within: int, chance: float | None) -> tuple[str, ...]:
    subjects = len(analysis.arm(best).subjects)
    if within == 1:
        return (f"It is the only arm within the limits, on {plural(subjects, 'subject')}.",)
    words = []
    if chance is not None:
        words.append(
            f"Of the {within} arms within the limits it is the best in {100 * chance:.0f} % of resamples of its "
            f"{plural(subjects, 'subject')}."
        )
    ahead = [c.second for c in analysis.against_best if c.outcome == "better"]
    alike = [c.second for c in analysis.against_best if c.outcome == "equivalent"]
    open_ = [c for c in analysis.against_best if c.outcome not in ("better", "equivalent")]
    if ahead:
        words.append(f"It is better than {listing(ahead)}, beyond chance.")
    if alike:
        words.append(f"It is equivalent to {listing(alike)}.")
    if open_:
        told = [
            c.second
            + (f" (about {about(c.subjects_needed)} subjects would decide)" if c.subjects_needed else "")
            for c in open_
        ]
        words.append(f"It is not shown to be better than {listing(told)}.")
    return tuple(words)
