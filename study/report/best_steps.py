"""At which share of the training the runs of an arm were best: whether longer or shorter training would have done."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from study.report.formatting import listing, plural
from study.report.prepared import Rows, distinct, section
from study.report.tables import Column, Table, assemble, count_cell, estimate_column, number_cell, text_cell
from study.statistics.paired import Estimate, mean_interval
from trainables.evaluation.metrics_table import HELD_OUT_LOSS, METRICS

_MOST = 0.5  # of an arm's runs


@dataclass(frozen=True)
class BestSteps:
    """The best steps of an arm's complete confirm runs.

    Attributes:
        metrics: By which they were best: one, unless it is unknown in some runs (see `BestStep.metric`).
        runs: With several evaluations.
        at_end: Share of them, 0..1, that were best at their end.
        by_chance: What `at_end` would be on average if all evaluations of a run were equally good.
        share: Of its training at which a run was best, 0..1; over subjects.
        gain: Of the best value over that of the end, positive where the end is worse; over subjects. None where the end
            is not known.
    """

    arm: str
    metrics: tuple[str, ...]
    runs: int
    at_end: float
    by_chance: float
    share: Estimate
    gain: Estimate


def best_steps(rows: Rows, level: float) -> tuple[BestSteps, ...]:
    """One entry an arm that trains and was evaluated on the way, in the order of arms."""
    frame = rows.confirm
    known = frame["best_step"].notna() & frame["best_metric"].isin(list(METRICS)) & (frame["train_steps"] > 0)
    found = (_of_arm(rows, arm, frame[known & (frame["arm"] == arm)], level) for arm in rows.trained_arms)
    return tuple(one for one in found if one is not None)


def _of_arm(rows: Rows, arm: str, runs: pd.DataFrame, level: float) -> BestSteps | None:
    if runs.empty:
        return None
    sign = runs["best_metric"].map(lambda metric: 1.0 if METRICS[metric].direction == "higher" else -1.0)
    gain = sign * (runs["best_value"] - runs["best_end_value"])
    subjects = runs["subject"].tolist()
    return BestSteps(
        arm,
        tuple(distinct(runs["best_metric"])),
        len(runs),
        float((runs["best_step"] >= runs["train_steps"]).mean()),
        float((1 / _evaluations(rows, runs)).mean()),
        mean_interval((runs["best_step"] / runs["train_steps"]).to_numpy(dtype=float), subjects, level=level),
        mean_interval(gain.to_numpy(dtype=float), subjects, level=level)
        if gain.notna().all()
        else Estimate(None, level=level),
    )


def _evaluations(rows: Rows, runs: pd.DataFrame) -> pd.Series:
    """How many evaluations each run has, at least the two that were compared."""
    metric = rows.curves["run_key"].map(runs.set_index("run_key")["best_metric"])
    own = rows.curves[rows.curves["metric"] == metric].drop_duplicates(["run_key", "step"])
    counts = own.groupby("run_key")["step"].count()
    return runs["run_key"].map(counts).fillna(2).clip(lower=2).astype(float)


def best_steps_table(found: tuple[BestSteps, ...]) -> Table | None:
    """A line an arm; None where no run was evaluated on the way."""
    if not found:
        return None
    metrics = listing(dict.fromkeys(METRICS[metric].title.lower() for one in found for metric in one.metrics))
    columns = [
        (Column("arm", "Arm"), [text_cell(one.arm) for one in found]),
        (Column("runs", "Runs", numeric=True), [count_cell(one.runs) for one in found]),
        (
            Column("at_end", "Best at the end", numeric=True),
            [number_cell(one.at_end, digits=2) for one in found],
        ),
        (
            Column("by_chance", "By chance", numeric=True),
            [number_cell(one.by_chance, digits=2) for one in found],
        ),
        estimate_column("share", "Best at share of training", "", None, [one.share for one in found]),
        estimate_column("gain", "Better than the end by", "", None, [one.gain for one in found]),
    ]
    notes = (
        f"Of the evaluations of each complete confirm run on the way and at its end, by {metrics}. By chance: the "
        "share of runs that would be best at their end if all evaluations of a run were equally good.",
        "The best of several noisy values is too good: by the last column the best seems better than the end, and a "
        "part of it is luck. No result is such a value.",
    )
    return assemble("best-steps", "At which step the runs of each arm were best.", columns, notes)


def best_steps_words(found: tuple[BestSteps, ...]) -> tuple[str, ...]:
    """Whether longer or shorter training would have done."""
    if not found:
        return ()
    words = []
    late = [one.arm for one in found if one.at_end > max(_MOST, one.by_chance)]
    early = [one.arm for one in found if 1 - one.at_end > max(_MOST, 1 - one.by_chance)]
    if late:
        words.append(f"Most runs of {listing(late)} were best at their end: longer training may have helped.")
    if early:
        words.append(
            f"More runs of {listing(early)} were best before their end than chance would have it: longer training "
            "would hardly have helped, and shorter training may have done."
        )
    if not words:
        words.append(
            f"Of {plural(len(found), 'arm')}, none was clearly best at its end or before it: its evaluations are about "
            "equally good."
        )
    return tuple(words)


def restored_by(rows: Rows) -> str | None:
    """The metric by which runs restored their best step; None where they kept their end."""
    stated = section(rows.meta, "spec", "evaluation").get("restore_best")
    return str(stated) if stated in METRICS else None


def restored_words(rows: Rows) -> tuple[str, ...]:
    """By what the step of each run was chosen, and that nothing of it judges the result; nothing where none was."""
    metric = restored_by(rows)
    if metric is None:
        return ()
    title, field = METRICS[metric].title.lower(), f"`evaluation.restore_best: {metric}`"
    if metric == HELD_OUT_LOSS:
        chosen = f"chosen by the {title} on every second held-out image."
        more = (
            "The results rest on the other held-out images, which chose nothing; curves end with the result."
        )
    else:
        chosen = f"chosen by {title} on the prompts of the search, noise of its own and every second held-out image."
        more = (
            "The results rest on the confirm prompts, other noise and the other held-out images, which chose nothing. "
            "Values on the way are of what chose; curves end with the result."
        )
    words = [f"Every run has the weights of its best step ({field}), {chosen} {more}"]
    if unchosen := _unchosen(rows, metric):
        words.append(
            f"But {plural(unchosen, 'run')} kept the weights of the end: no evaluation that was to choose a step had a "
            f"value of {metric}."
        )
    return tuple(words)


def _unchosen(rows: Rows, metric: str) -> int:
    """How many complete confirm runs were to restore their best step, and had no value to choose it by."""
    frame = rows.confirm
    return int((frame["best_step"].isna() & (frame["best_metric"] == metric)).sum())
