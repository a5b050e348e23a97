"""What the study file says of its search: the objective, independent repeats, and what every run may spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from study.report.formatting import listing, number, plural, scale_for
from study.report.measures import measure
from study.report.prepared import Rows, distinct, section, value_or_none
from study.spec.phases import Constraint, SearchSpec
from study.spec.sections import code_of
from trainables.evaluation.metrics_table import METRICS, QUALITY


@dataclass(frozen=True)
class Objective:
    """What the search optimised; of several metrics the first is shown, and constraints are on means over runs."""

    metrics: tuple[str, ...] = (QUALITY,)
    constraints: tuple[Constraint, ...] = ()

    @property
    def metric(self) -> str:
        """The metric that histories show."""
        return self.metrics[0]

    @property
    def words(self) -> str:
        """E.g. "quality (subject, prompt), where class kept >= 0.8"."""
        names = listing(measure(name).title.lower() for name in self.metrics)
        bounds = listing(map(bound_words, self.constraints))
        return f"{names}, where {bounds}" if bounds else names


def bound_words(constraint: Constraint) -> str:
    """E.g. "class kept >= 0.8"."""
    return f"{measure(constraint.metric).title.lower()} {constraint.relation} {constraint.bound:g}"


def search_objective(rows: Rows) -> Objective:
    """The objective of the study file; quality where it states none that can be read."""
    for place in (rows.meta, section(rows.meta, "spec", "search")):
        for name in ("objective", "objectives"):
            value = place.get(name)
            if name == "objective" and isinstance(value, (list, tuple)):
                name = "objectives"  # as older records have it
            if value and (found := _parsed(name, value)):
                return found
    return Objective()


def _parsed(name: str, value: object) -> Objective | None:
    if isinstance(value, (list, tuple)):
        known = tuple(metric for metric in value if isinstance(metric, str) and _directed(metric))
        return Objective(known) if known else None
    try:
        spec = SearchSpec.model_validate({name: value})
    except ValueError:  # pydantic's own included: a record that this version cannot read
        return None
    return Objective(spec.metrics, spec.constraints)


def _directed(metric: str) -> bool:
    return metric in METRICS and METRICS[metric].direction != "none"


# ------------------------------------------------------------------ repeats


def repeats_of(rows: Rows) -> int:
    """How many independent searches each arm had (`search.repeats`)."""
    found = value_or_none(section(rows.meta, "spec", "search").get("repeats"))
    return int(found) if found is not None and found >= 1 else 1


def trials_of_search(rows: Rows, arm: str) -> int:
    """Number of trials that one search of an arm was to have, by which trials are numbered (at least 1).

    Trial n belongs to search n // trials. The study file says how many they are; where it does not, the highest number
    that was seen tells.
    """
    search = section(rows.meta, "spec", "search")
    trials = value_or_none(search.get("trials"))
    shared = value_or_none(search.get("trials_per_method"))
    own = rows.frame[(rows.frame["arm"] == arm) & (rows.frame["phase"] == "search")]
    if shared is not None:
        alike = _arms_of_its_method(rows, arm)
        if arm in alike:
            share, rest = divmod(int(shared), len(alike))
            trials = share + (alike.index(arm) < rest)
    seen = int(own["trial"].max()) + 1 if len(own) else 1
    repeats = repeats_of(rows)
    if (
        trials is None or trials * repeats < seen or search.get("sampler") == "grid"
    ):  # a grid may hold fewer points
        return max(1, -(-seen // repeats))
    return max(1, int(trials))


def _arms_of_its_method(rows: Rows, arm: str) -> list[str]:
    """Arms over which the trials of an arm's method are dealt out, in the order of `StudySpec.trials_of`."""
    arms = section(rows.meta, "spec", "arms") or {
        name: {"method": rows.methods.get(name)} for name in rows.arms
    }
    codes = {
        name: code_of(str(section(arms, name).get("method")))
        for name in arms
        if section(arms, name).get("search_space") != "fixed"
    }
    return sorted(name for name, code in codes.items() if code == codes.get(arm))


def default_trials(rows: Rows, arm: str) -> tuple[int, ...]:
    """Trials of an arm that were its default: the first of each search; none in a grid, and in older studies."""
    search = section(rows.meta, "spec", "search")
    if "repeats" not in search or search.get("sampler") == "grid" or not (rows.search["arm"] == arm).any():
        return ()
    return tuple(range(0, trials_of_search(rows, arm) * repeats_of(rows), trials_of_search(rows, arm)))


def repeat_of(rows: Rows, arm: str) -> pd.Series:
    """The search, counted from 0, that each of the frame's runs of an arm belongs to."""
    own = rows.frame[rows.frame["arm"] == arm]
    if repeats_of(rows) == 1:
        return pd.Series(0, index=own.index)
    return (own["trial"] // trials_of_search(rows, arm)).clip(upper=repeats_of(rows) - 1)


def repeats_words(rows: Rows) -> tuple[str, ...]:
    """What the intervals hold of the search's own chance, and how the confirm subjects were dealt out."""
    repeats = repeats_of(rows)
    if rows.search.empty:
        return ()
    if repeats == 1:
        return (
            "Each arm was searched once, so that intervals are those of one tuned configuration: how the search "
            "itself might have ended otherwise is not in them (`search.repeats` in the study file).",
        )
    dealt = []
    for repeat in range(repeats):
        subjects: set[str] = set()
        for arm in rows.trained_arms:
            numbers = repeat_of(rows, arm)
            own = rows.frame.loc[numbers.index[numbers == repeat]]
            subjects |= set(own.loc[own["phase"] == "confirm", "subject"])
        dealt.append(f"search {repeat + 1}: {listing(distinct(subjects)) or 'none'}")
    count = rows.frame.loc[rows.frame["phase"] == "confirm", "subject"].nunique()
    holds = "the chance of the search" if repeats >= count else "only part of the search's chance; see Beware"
    return (
        f"Each arm was searched {repeats} times, independently and on other subjects, and the confirm subjects were "
        f"dealt out over what the searches chose, alike for every arm ({'; '.join(dealt)}): intervals over subjects "
        f"hold {holds}.",
    )


# ------------------------------------------------------------------ what a run may spend


def budget_words(rows: Rows) -> tuple[str, ...]:
    """The currency of the budget, and whether the length of training was tuned inside it."""
    budget = section(rows.meta, "spec", "budget")
    words = {
        "train_flops": "floating-point operations of training, the same on every machine",
        "train_seconds": "seconds of training, which differ from machine to machine",
        "max_train_steps": "whatever a step costs",
    }
    for name, meaning in words.items():
        value = value_or_none(budget.get(name))
        if value is not None:
            images = _class_images(rows, name)
            return (f"Budget of a run: {_amount(name, value)} ({meaning}){images}. {_tuned(budget)}",)
    return ()


def _class_images(rows: Rows, currency: str) -> str:
    """What class images cost, in the budget or beside it, a mean over the runs that use any; empty where none does."""
    name, unit = (
        ("class_image_seconds", "s") if currency == "train_seconds" else ("class_image_flops", "FLOP")
    )
    spent = rows.frame.loc[(rows.frame["state"] == "COMPLETE") & (rows.frame[name] > 0), name]
    if spent.empty:
        return ""
    scale = scale_for(unit, [float(spent.mean())])
    place = "outside it" if currency == "max_train_steps" else "paid from it"
    return (
        f"; class images are {place} ({number(float(spent.mean()), scale)} {scale.unit} a run that uses them)"
    )


def _amount(name: str, value: float) -> str:
    if name == "max_train_steps":
        return plural(int(value), "optimizer step")
    scale = scale_for("FLOP" if name == "train_flops" else "s", [value])
    return f"{number(value, scale)} {scale.unit}"


def _tuned(budget: Mapping[str, object]) -> str:
    share = value_or_none(budget.get("tuned_from"))
    if share is None:
        return "Every run took all of it, unless its arm says otherwise; its share was not tuned."
    return f"How much of it a run takes was tuned by each search, from {100 * share:g} % on."


def captions_dealt_out(rows: Rows) -> bool:
    """Whether search and confirm runs were asked for other captions whatever the study lets them share: those of a data
    set are dealt out between the two, unless the study names prompts of its own.
    """
    return rows.of_data_sets and section(rows.meta, "spec", "evaluation").get("prompts") is None


def search_warnings(rows: Rows) -> list[str]:
    """What makes the search unfair or its results too good."""
    if section(rows.meta, "spec", "search").get("allow_overlap") is not True:
        return []
    if captions_dealt_out(rows):
        return [
            "Search and confirm runs may share data sets (`search.allow_overlap`), with what is trained on and the "
            "held-out images, though not the captions that they are asked for, which are dealt out: configurations may "
            "have been chosen on what they are judged by, which makes every searched arm look better than it is."
        ]
    return [
        "Search and confirm runs may share subjects or prompts (`search.allow_overlap`): configurations may have been "
        "chosen on what they are judged by, which makes every searched arm look better than it is."
    ]
