"""Which arm to take within limits on cost and quality, and how sure that is: ``study best NAME --budget``.

Limits are held against every confirm run of an arm. Of the arms that keep them the one with the highest mean is named,
with its chance of being the best when subjects are resampled, and with those that it is not shown to be better than.
Verdicts are read off from the report's family, all pairs of trained arms: limits may have been chosen by what was seen,
and so the pairs within them, and a family that was chosen after the results adjusts for too little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from study.report.analysis import DEFAULTS, Analysis, analyse
from study.report.comparisons import Settings
from study.report.formatting import listing, plural
from study.report.limits import Limit, parse_limits
from study.report.measures import DOLLARS, TOTAL_SECONDS, bounded, measure
from study.report.pairing import values_of
from study.report.prepared import ResultsLike, Rows, distinct, prepare
from study.report.ranking import standings
from study.report.searches import repeat_of, search_objective
from study.report.units import reworder
from study.report.verdict import RESAMPLED_FROM, headline_words, left_out_words, percent, rival_words
from study.results.columns import PARAM_PREFIX
from study.statistics.paired import Estimate
from study.statistics.power import MIN_SUBJECTS
from trainables.errors import UserError


@dataclass(frozen=True)
class Chosen:
    """The configuration to take: of those that the searches of an arm chose, the one that most of them did.

    Attributes:
        run_key: A confirm run that has it.
        times: How many of the searches chose it.
        searches: How many there were.
        rivals: Other configurations that were chosen as often; of all these it had the best search score.
        fields: What was searched in it, beside the arm's own fields: names with values.
    """

    run_key: str
    times: int
    searches: int
    rivals: int = 0
    fields: tuple[tuple[str, Any], ...] = field(default=(), compare=False)

    @property
    def told(self) -> str:
        """Its fields, as a study file has them."""
        return ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self.fields
        )

    def words(self) -> tuple[str, ...]:
        """How far it stands for its arm; in sentences, empty after one search."""
        if self.searches < 2:
            return ()
        if self.times == self.searches:
            return (f"Each of the arm's {self.searches} searches chose it.",)
        if self.times == 1:
            how = (
                f"Each of the arm's {self.searches} searches chose another configuration: this is one of them, that of "
                "the best search score."
            )
        else:
            how = f"{self.times} of the arm's {self.searches} searches chose it"
            how += (
                "."
                if not self.rivals
                else ", and as many another one: this is that of the best search score."
            )
        return (
            how,
            "The mean that `study best` tells, and its interval, are over all that these searches chose: they hold "
            "for choosing by a search, not for this configuration.",
        )


@dataclass(frozen=True)
class Recommendation:
    """The arm to take.

    Attributes:
        estimate: Of the primary measure, over subjects.
        furthest: Each limit with the value of the run that is furthest in its direction, in the base unit.
        best: Chance of being the best of the arms within the limits when subjects are resampled; None where there are
            too few subjects, or one arm.
        within: How many trained arms keep the limits.
        beyond: The other arms, with the limit that each breaks and by which value.
        chosen: The configuration to take.
        words: How sure it is, in sentences.
    """

    arm: str
    primary: str
    estimate: Estimate
    furthest: tuple[tuple[Limit, float], ...]
    best: float | None
    within: int
    beyond: dict[str, str]
    chosen: Chosen
    words: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """One row for programs: base units, of a limited measure the value of the furthest run; the configuration."""
        costs = {limit.measure: value for limit, value in self.furthest}
        fields = {f"{PARAM_PREFIX}{name}": value for name, value in self.chosen.fields}
        return self._mean() | costs | {"run_key": self.chosen.run_key} | fields

    def shown(self) -> dict[str, str | float | int | None]:
        """The same for people, whose heads tell means from single runs."""
        costs = {
            f"{limit.measure.removesuffix('_bytes')}_({limit.furthest_word})": limit.told(value)
            for limit, value in self.furthest
        }
        return self._mean() | costs

    def _mean(self) -> dict[str, Any]:
        mean = self.estimate
        ends = {"low": mean.low, "high": mean.high, "subjects": mean.n_subjects}
        return {"arm": self.arm, self.primary: mean.value, **ends}

    def lines(self) -> list[str]:
        """What should be known beside it."""
        return [
            *self.words,
            *(f"not within: {arm}: {broken}" for arm, broken in self.beyond.items()),
            " ".join(
                [f"configuration: {self.chosen.told} (that of {self.chosen.run_key}).", *self.chosen.words()]
            ),
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
        raise UserError(*_nothing_fits(rows, arms, limits))
    whole = analyse(rows, settings)
    view = _among(rows, whole, within)
    if view.best is None:
        raise UserError(f"no complete confirm run of {listing(within)} has a quality")
    chance = next((one.best for one in view.standings if one.arm == view.best), None)
    return Recommendation(
        arm=view.best,
        primary=view.primary,
        estimate=bounded(view.primary, view.arm(view.best).estimates[view.primary]),
        furthest=tuple((one, one.furthest(_values(rows, view.best, one.measure))) for one in limits),
        best=chance,
        within=len(within),
        beyond=beyond,
        chosen=_configuration(rows, view.best),
        words=_words(rows, whole, view, within, chance),
    )


def _among(rows: Rows, analysis: Analysis, arms: Sequence[str]) -> Analysis:
    """The analysis of all arms, seen by some of them: the best of these, their pairs and their standings.

    What is said of a pair stays what the family of all pairs says of it; chances of being best are of these arms alone.
    """
    sign = measure(analysis.primary).sign
    means = {arm: analysis.arm(arm).estimates[analysis.primary].value for arm in arms}
    known = {arm: sign * mean for arm, mean in means.items() if mean is not None}
    confirm = rows.confirm
    quality, cost = (values_of(confirm, name) for name in (analysis.primary, analysis.cost))
    return replace(
        analysis,
        best=max(known, key=lambda arm: known[arm], default=None),
        pairs=tuple(c for c in analysis.pairs if c.first in known and c.second in known),
        standings=standings(quality, cost, {}, list(known), analysis.settings),
    )


# ------------------------------------------------------------------ what is not within


def _values(rows: Rows, arm: str, name: str) -> pd.Series:
    return rows.confirm.loc[rows.confirm["arm"] == arm, name]


def _broken(rows: Rows, arm: str, limits: Sequence[Limit]) -> str:
    """The limits that an arm breaks, with its values; empty where it keeps all."""
    told = []
    for limit in limits:
        values = _values(rows, arm, limit.measure)
        if not values.notna().all():
            told.append(f"{limit.text} is not known of all its runs")
        elif not limit.kept_by(values):
            told.append(f"{limit.text}, and a run has {limit.told(limit.furthest(values))}")
    return "; ".join(told)


def _nothing_fits(rows: Rows, arms: Sequence[str], limits: Sequence[Limit]) -> list[str]:
    """Why no arm is within: what is known of no run, once for all arms, and what each arm breaks beside that."""
    trained = rows.confirm[rows.confirm["arm"].isin(arms)]
    unknown = [limit for limit in limits if not trained[limit.measure].notna().any()]
    known = [limit for limit in limits if limit not in unknown]
    broken = {arm: text for arm in arms if (text := _broken(rows, arm, known))}
    remedy = "; loosen one of them" if broken else ""
    return [
        f"no arm of study {rows.study} keeps all limits{remedy}",
        *map(_unknown_words, unknown),
        *(f"{arm}: {text}" for arm, text in broken.items()),
    ]


def _unknown_words(limit: Limit) -> str:
    text = f"{limit.text}: no complete confirm run has a value of {limit.measure}"
    if limit.measure == DOLLARS:
        return (
            f"{text}, which `resources.price_per_hour` of the study file gives at its launch; limit {TOTAL_SECONDS} "
            "instead"
        )
    return f"{text}; leave it out"


# ------------------------------------------------------------------ what to take


def _configuration(rows: Rows, arm: str) -> Chosen:
    """The configuration that most searches of an arm chose.

    Where several were chosen alike often, that of the best search score: confirm scores have been looked at already.
    """
    confirm = rows.confirm[rows.confirm["arm"] == arm]
    fields = ["learning_rate", "lr_scheduler", "max_train_steps"]
    fields += sorted(column for column in confirm.columns if column.startswith(PARAM_PREFIX))
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
    alike = sum(count == counts[chosen] for count in counts.values())
    searched = {name.removeprefix(PARAM_PREFIX) for name in rows.parameters_of(arm)}
    values = {name.removeprefix(PARAM_PREFIX): value for name, value in zip(fields, chosen, strict=True)}
    told = tuple(
        (name, _whole(value)) for name, value in values.items() if name in searched and value is not None
    )
    return Chosen(keys[chosen], counts[chosen], len(configurations), alike - 1, told)


def _whole(value: Any) -> Any:
    """A whole number as one: columns with missing values hold fractions."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _words(
    rows: Rows, whole: Analysis, view: Analysis, within: Sequence[str], chance: float | None
) -> tuple[str, ...]:
    """How sure it is, in the words of the report's verdict."""
    assert view.best is not None
    best = view.arm(view.best)
    reword = _reworded(rows)
    if len(within) == 1:
        return (reword(f"It is the only arm within the limits, on {plural(len(best.subjects), 'subject')}."),)
    headline = headline_words(view, best, view.against_best, "arm within the limits")
    words = [headline + left_out_words(replace(rows, arms=tuple(within)), view)]
    words += rival_words(view, most=len(within))
    if view.subjects >= MIN_SUBJECTS and len(view.pairs) < len(whole.pairs):
        words.append(
            f"As in the report, verdicts are adjusted over {view.family}, not only those within the limits: limits "
            "may have been chosen by what was seen."
        )
    if chance is not None and view.subjects >= RESAMPLED_FROM:
        words.append(
            f"Of the {len(within)} arms within the limits it is the best in {percent(chance)} of resamples of its "
            f"{plural(len(best.subjects), 'subject')}."
        )
    return tuple(map(reword, words))


def _reworded(rows: Rows) -> Callable[[str], str]:
    """Puts what is said of subjects into the words of data sets, where the study has these."""
    if not rows.of_data_sets:
        return str
    return reworder((rows.study, *rows.arms, *map(str, distinct(rows.frame["subject"]))))
