"""Weights that were trained elsewhere and judged by the study's plan: beside its arms, and part of no verdict."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from study.report.formatting import plural
from study.report.measures import measure
from study.report.prepared import Rows, distinct, value_or_none
from study.report.results_tables import texts
from study.report.tables import Column, Table, assemble, score_cell
from study.results.columns import PARAM_PREFIX
from study.statistics.paired import Estimate
from study.storage.run_key import FOREIGN
from trainables.evaluation.metrics_table import QUALITY

_SHOWN = (QUALITY, "subject_fidelity_scaled", "prompt_fidelity_scaled", "class_kept", "failed_images")
_DIGEST = 12  # digits of a SHA-256 that tell files apart
_COMPLETE = "COMPLETE"


def foreign_words(rows: Rows) -> tuple[str, ...]:
    """What the table of these weights does not say."""
    short = int((rows.foreign["state"] != _COMPLETE).sum())
    failed = f" {plural(short, 'run')} did not complete." if short else ""
    return (
        "These files were judged as the confirm runs are: by the same prompts, held-out images, noise and metric "
        "models (`study evaluate`). They are in no comparison, interval or verdict of this report, since nothing is "
        f"known of their budget, of their tuning, and of the images that they were trained on.{failed}",
    )


def foreign_table(rows: Rows) -> Table | None:
    """Each file beside the study's arms on the same subject and seeds; None where no file was judged."""
    lines: list[tuple[str, str, pd.DataFrame]] = []
    for subject in distinct(rows.foreign["subject"]):
        theirs = rows.foreign[rows.foreign["subject"] == subject]
        own = rows.confirm[(rows.confirm["subject"] == subject) & rows.confirm["seed"].isin(theirs["seed"])]
        lines += [
            (subject, f"{FOREIGN}/{name}", theirs[theirs["arm"] == name]) for name in distinct(theirs["arm"])
        ]
        lines += [(subject, arm, own[own["arm"] == arm]) for arm in rows.arms if (own["arm"] == arm).any()]
    if not lines:
        return None
    runs = [of_line for _, _, of_line in lines]
    columns = [
        texts("subject", "Subject", [subject for subject, _, _ in lines]),
        texts("weights", "Weights", [name for _, name, _ in lines]),
        texts("n", "n", [_count(of_line) for of_line in runs]),
        *(_scores(name, runs) for name in _SHOWN),
        texts("file", "File", [_stated(of_line, "file") for of_line in runs]),
        texts("layout", "Layout", [_stated(of_line, "layout") for of_line in runs]),
        texts(
            "sha256", "SHA-256", [(_stated(of_line, "sha256") or "")[:_DIGEST] or None for of_line in runs]
        ),
    ]
    notes = (
        "Means over the complete runs of one subject, with the seeds of the files; n: how many (of how many, where "
        "some did not complete).",
    )
    return assemble(
        "foreign",
        "Weights from elsewhere, beside the arms of this study on the same subjects.",
        columns,
        notes,
    )


def _count(runs: pd.DataFrame) -> str:
    complete = int((runs["state"] == _COMPLETE).sum())
    return str(complete) if complete == len(runs) else f"{complete} of {len(runs)}"


def _scores(name: str, lines: Sequence[pd.DataFrame]) -> tuple[Column, list]:
    about = measure(name)
    values = [value_or_none(runs.loc[runs["state"] == _COMPLETE, name].mean()) for runs in lines]
    return Column(name, about.title, about.unit, about.direction, numeric=True), [
        score_cell(Estimate(value)) for value in values
    ]


def _stated(runs: pd.DataFrame, field: str) -> str | None:
    """What a file's runs state of it; None for the study's own."""
    column = PARAM_PREFIX + field
    known = runs.loc[runs["phase"] == FOREIGN, column].dropna() if column in runs else None
    return None if known is None or known.empty else str(known.iloc[0])
