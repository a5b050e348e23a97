"""The scores of single images, as runs leave them (``image_scores.csv``) and as results keep them (Parquet)."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.results.columns import (
    SCORE_COLUMNS,
    SCORE_INTEGERS,
    SCORE_LATER,
    SCORE_NUMBERS,
    SCORE_RUN,
    SCORE_TEXTS,
)
from study.results.dictionary import SCORES, table_entries
from study.results.frames import scores_of
from study.results.parquet_files import read_table, write_table
from study.storage.layout import SCORES_PARQUET
from study.storage.safe_paths import inside
from trainables.events import IMAGE_SCORES

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_BYTES = 16 * 2**20  # of one run's file, which has some 20 kB; beyond it something else lies there
_LARGEST = 2**53  # of a count


def read_scores(folder: Path, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the scores of a run's images, in the order of its file; none where it left no file that can be read.

    Args:
        folder: Where ``image_scores.csv`` lies; a file that leads out of it is not read.
        run: The run's row, of which `SCORE_RUN` is kept.
    """
    path = inside(folder, IMAGE_SCORES)
    shared = {name: run[name] for name in SCORE_RUN}
    try:
        if path is None or path.stat().st_size > MOST_BYTES:
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return [{**shared, **_typed(row)} for row in csv.DictReader(file)]
    except (OSError, ValueError, csv.Error):  # a damaged file: the run's own numbers matter more
        return []


def _typed(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: row.get(name) or None for name in SCORE_TEXTS}
    numbers = {name: _number(row.get(name)) for name in (*SCORE_NUMBERS, *SCORE_INTEGERS)}
    return {**texts, **numbers, **{name: _whole(numbers[name]) for name in SCORE_INTEGERS}}


def _number(text: Any) -> float | None:
    """A finite number, None for an empty cell; raises ValueError for anything else."""
    if not text:
        return None
    value = {"true": 1.0, "false": 0.0}.get(str(text).lower())
    value = float(text) if value is None else value
    return value if math.isfinite(value) else None


def _whole(value: float | None) -> int | None:
    return None if value is None or abs(value) > _LARGEST else round(value)


def write_parquet(scores: DataFrame, folder: Path) -> Path | None:
    """Writes ``image_scores.parquet``, the same bytes for the same scores; nothing where there are none."""
    path = folder / SCORES_PARQUET
    if scores.empty:
        path.unlink(missing_ok=True)  # of other results that were written there before
        return None
    ordered = scores[list(SCORE_COLUMNS)].sort_values(["run_key", "kind", "prompt", "image"], kind="stable")
    return write_table(ordered.reset_index(drop=True), table_entries(SCORES, ordered), path)


def read_parquet(folder: Path) -> DataFrame:
    """Reads what `write_parquet` wrote; raises ValueError if it is damaged or another table. Empty without a file."""
    path = folder / SCORES_PARQUET
    if not path.is_file():
        return scores_of([])
    remedy = "take it from the report again, or remove it to do without the scores of single images"
    rows = read_table(path, SCORE_COLUMNS, remedy, later=SCORE_LATER)
    try:
        return scores_of(rows)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds values of another kind ({error}); {remedy}") from error
