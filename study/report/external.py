"""What is known of results that this program did not make, and their analysis: the same numbers by other names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import pandas as pd
from pydantic import Field, ValidationError

from study.report.analysis import Analysis, ArmResult, detectable_difference
from study.report.comparisons import Settings, compare
from study.report.measures import ALL, TUNED_FLOPS, TUNED_SECONDS, Measure, measure
from study.report.pairing import Values, values_of
from study.report.prepared import Rows, distinct
from study.report.ranking import standings
from study.statistics.paired import Direction, Estimate, estimate_of
from study.storage.layout import META_JSON
from trainables.config.frozen import Frozen
from trainables.errors import UserError

META = "external"  # key of what results bear in `meta` that this program did not make


class MeasureFacts(Frozen):
    """One metric; `name` is its column, and one of this program's where title and direction are empty."""

    name: str
    role: Literal["quality", "cost", "other"]
    title: str = ""
    unit: str = ""
    direction: Direction = "none"
    description: str = ""


class LeftOut(Frozen):
    """Runs that are not compared by the first quality, for one reason, with a few of their names."""

    reason: str
    runs: int
    examples: tuple[str, ...] = ()


class External(Frozen):
    """Where results are from and what their columns mean; see `study.results.external`.

    Attributes:
        source, title: In words, and what the report is called.
        field_word: What a field is called there, e.g. "tag or param".
        fields: Which fields are arm, subject and seed; empty where the data has none, or none was named.
        measures: The first quality is what arms are ranked by.
        margin: Differences of it within that count as equivalent; None: not asked.
        read: Runs or rows that were looked at.
        seeds: Numbers that stand for seeds whose names are none.
        varying: Params in which runs of one arm differ although they are neither subject nor seed.
        studies: Names of the studies, or of the reports of others' results, where several stand side by side.
        others: Those of `studies` that are others' results; where there are any, measures are what all have.
        differences: In which fields their study files differ, with the value of each; of `others` what each is of.
        notes: What else a reader is to know.
    """

    source: str
    title: str
    field_word: str = "column"
    fields: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    measures: tuple[MeasureFacts, ...] = Field(min_length=1)
    margin: float | None = None
    read: int = 0
    left_out: tuple[LeftOut, ...] = ()
    seeds: Mapping[str, int] = Field(default_factory=dict)
    varying: tuple[str, ...] = ()
    studies: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    differences: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()

    def of_role(self, role: str) -> tuple[str, ...]:
        """Columns of the qualities, costs or others."""
        return tuple(item.name for item in self.measures if item.role == role)

    @property
    def primary(self) -> str:
        """Column of the measure that arms are ranked by."""
        return self.of_role("quality")[0]

    @property
    def cost(self) -> str | None:
        """Column of the first cost."""
        return next(iter(self.of_role("cost")), None)

    @property
    def has_designs(self) -> bool:
        """Whether these are studies of this program alone, with study files that say how they were made."""
        return bool(self.studies) and not self.others

    @property
    def has_subjects(self) -> bool:
        """Whether somebody said what the subjects are."""
        return bool(self.fields.get("subject"))

    @property
    def has_seeds(self) -> bool:
        """Whether somebody said what the seeds are."""
        return bool(self.fields.get("seed"))

    def shown_measures(self) -> tuple[Measure, ...]:
        """The measures with titles, units and directions; those of this program have their own."""
        return tuple(
            Measure(m.name, m.title, m.unit, m.direction, m.description, m.role == "cost", True)
            for m in self.measures
            if m.title
        )


def external_of(meta: Mapping[str, Any]) -> External | None:
    """Returns what results bear of their origin; None for a study of this program.

    Raises:
        UserError: It is damaged.
    """
    if META not in meta:
        return None
    try:
        found = External.model_validate(meta[META])
        if not found.of_role("quality"):
            raise ValueError("no measure is a quality")
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"{META_JSON} of these results is damaged where it says what was compared ({first}); take it from the "
            "report again, or make the report anew from the source"
        ) from None
    return found


def analyse_external(rows: Rows, facts: External, settings: Settings) -> Analysis:
    """Computes the comparison of external results, as `study.report.analysis.analyse` does that of a study.

    The unit is the subject. Results without subjects are those of one, which carries neither interval nor test. Arms
    stand in the order of their means, the best first: nobody has told another.
    """
    names = [item.name for item in facts.measures]
    confirm = rows.confirm.reindex(columns=["arm", "subject", "seed", *names])
    if not facts.has_seeds:
        confirm = confirm.assign(
            seed=0
        )  # results of several programs have seeds that mean nothing to each other
    tables = {name: values_of(confirm, name) for name in names}
    primary, cost = facts.primary, facts.cost or "train_seconds"
    arms = tuple(_arm_result(rows, confirm, tables, arm, primary, settings) for arm in rows.arms)
    arms = tuple(sorted(arms, key=lambda result: _place(result, primary)))
    scored = [result for result in arms if result.estimates[primary].value is not None]
    compared = [result.arm for result in scored if not result.is_base]
    margin = settings.margin if settings.margin is not None else facts.margin
    pairs = compare([tables[primary].contrast(*pair) for pair in combinations(compared, 2)], margin, settings)
    costs = tables.get(cost, values_of(confirm.assign(**{cost: float("nan")}), cost))
    return Analysis(
        settings=settings,
        primary=primary,
        axes=tuple(name for name in facts.of_role("quality") if name != primary),
        cost=cost,
        margin=margin,
        arms=arms,
        best=next(iter(compared), None) or next((result.arm for result in scored), None),
        pairs=pairs,
        choice=None,
        pairs_subject_prompt=(),
        against_base=(),
        standings=standings(tables[primary], costs, {}, compared, settings),
        detectable=detectable_difference(tables[primary], pairs),
        schedules=(),
        factor_effects=(),
        budgets=(),
        exclusions=(),
        chosen={},
    )


def _place(result: ArmResult, primary: str) -> tuple[bool, float]:
    """Sort key: untrained models and arms without a value come last."""
    value = result.estimates[primary].value
    ordered = math.inf if value is None else -measure(primary).sign * value
    return result.is_base, ordered


def _arm_result(
    rows: Rows,
    confirm: pd.DataFrame,
    tables: Mapping[str, Values],
    arm: str,
    primary: str,
    settings: Settings,
) -> ArmResult:
    own = confirm[(confirm["arm"] == arm) & confirm[primary].notna()]
    nothing = Estimate(None, level=settings.level)
    # Words and tables that are written for studies look for their measures, too.
    estimates = dict.fromkeys((*ALL, TUNED_SECONDS, TUNED_FLOPS), nothing)
    for name, values in tables.items():
        estimates[name] = nothing
        if arm in values.arms:
            runs = int(confirm.loc[confirm["arm"] == arm, name].notna().sum())
            estimates[name] = estimate_of(values.means([arm])[0], runs, level=settings.level)
    return ArmResult(
        arm=arm,
        method=rows.methods.get(arm, ""),
        estimates=estimates,
        n=len(own),
        subjects=tuple(distinct(own["subject"])),
        seeds=tuple(int(seed) for seed in distinct(own["seed"])),
        quality_iqm=None,
    )


def repeated_cells(rows: Rows, facts: External) -> int:
    """How many combinations of arm, subject and seed have several runs with a value; only where seeds are named."""
    own = rows.confirm[rows.confirm[facts.primary].notna()]
    counts = Counter(zip(own["arm"], own["subject"], own["seed"], strict=True))
    return sum(count > 1 for count in counts.values()) if facts.has_seeds else 0
