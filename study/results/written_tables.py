"""Runs, curves and images as they are written: as CSV, which a person and a spreadsheet read, and as Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.results.columns import COUNTS, IDENTITY
from study.results.dictionary import CURVES, IMAGES, RUNS, Entry, table_entries
from study.results.frames import Results
from study.results.parquet_files import write_table
from study.storage.layout import (
    CURVES_CSV,
    CURVES_PARQUET,
    IMAGES_CSV,
    IMAGES_PARQUET,
    RUNS_CSV,
    RUNS_PARQUET,
)
from study.util.units import iso_time

if TYPE_CHECKING:
    from pandas import DataFrame

_FILES = {
    RUNS: (RUNS_CSV, RUNS_PARQUET),
    CURVES: (CURVES_CSV, CURVES_PARQUET),
    IMAGES: (IMAGES_CSV, IMAGES_PARQUET),
}
_NOT_TWICE = (RUNS_PARQUET, CURVES_CSV, IMAGES_PARQUET)  # curves are long, and in CSV twenty times as large


def write_tables(results: Results, folder: Path, *, compact: bool) -> tuple[list[Path], list[Entry]]:
    """Writes the three tables into a folder; returns the files, and what their columns mean.

    Args:
        compact: Whether each table is written once: runs and images as CSV, curves as Parquet.
    """
    external = results.meta.get("external")
    measures = (external or {}).get("measures") or ()
    of_others = external is not None and (external.get("others") or not external.get("studies"))
    runs = _with_values(results.frame, measures) if of_others else results.frame
    frames = {
        RUNS: _with_line_feeds(runs),
        CURVES: results.curves,
        IMAGES: _paths_inside(results.images, folder),
    }
    files, entries = [], []
    for table, frame in frames.items():
        found = table_entries(table, frame, measures)
        entries += found
        for name in _FILES[table]:
            path = folder / name
            if compact and name in _NOT_TWICE:
                path.unlink(missing_ok=True)  # of other results that were written there before
                continue
            if path.suffix == ".csv":
                _as_csv(frame, found).to_csv(path, index=False, lineterminator="\n")
            else:
                write_table(frame, found, path)
            files.append(path)
    return files, entries


def _with_values(frame: DataFrame, measures: Iterable[Mapping[str, Any]]) -> DataFrame:
    """The runs of others without the columns that only runs of this program fill: those that are empty throughout.

    Args:
        measures: What is compared; its columns stay, as do those that say which run a row is.
    """
    kept = {*IDENTITY, "run_key", *(measure["name"] for measure in measures)}
    return frame[[name for name in frame.columns if name in kept or frame[name].notna().any()]]


def _with_line_feeds(frame: DataFrame) -> DataFrame:
    """The frame with one kind of line end: a bare "\\r", as progress bars print it, ends a CSV's row."""
    import pandas as pd

    texts = [name for name in frame.columns if pd.api.types.is_string_dtype(frame[name])]
    return frame.assign(**{name: frame[name].str.replace("\r\n?", "\n", regex=True) for name in texts})


def _paths_inside(images: DataFrame, folder: Path) -> DataFrame:
    """The images with those paths relative that lead into the folder."""
    import pandas as pd

    root = folder.resolve()
    whole = [(path, Path(path).resolve()) for path in images["path"]]
    paths = [str(there.relative_to(root)) if there.is_relative_to(root) else path for path, there in whole]
    return images.assign(path=pd.Series(paths, index=images.index, dtype="str"))


def _as_csv(frame: DataFrame, entries: Iterable[Entry]) -> DataFrame:
    """The frame as CSV shows it: times in ISO 8601, counts without a fraction, booleans in lower case."""
    import pandas as pd

    shown: dict[str, Any] = {}
    for entry in entries:
        values = frame[entry.column]
        if entry.type == "time":
            shown[entry.column] = [None if pd.isna(time) else iso_time(time.timestamp()) for time in values]
        elif entry.column in COUNTS:
            shown[entry.column] = values.astype("Int64")
        elif entry.type == "boolean":
            shown[entry.column] = values.map({True: "true", False: "false"})
    return frame.assign(**shown)
