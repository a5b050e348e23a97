"""The tables of the downstream phase among a report's data: written, and read back as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from study.results.csv_cells import Kind
from study.results.dictionary import Entry
from study.results.downstream import Downstream, is_probability
from study.results.downstream_columns import (
    DOWNSTREAM,
    GENERATED,
    GENERATED_COLUMNS,
    PREDICTED,
    PREDICTION_COLUMNS,
    RUN_COLUMNS,
    RUN_LATER,
    downstream_entries,
    type_of,
    typed,
)
from study.results.parquet_files import read_table, write_table
from study.storage.layout import DOWNSTREAM_CSV, GENERATED_CSV, PREDICTIONS_PARQUET

#: Reads a CSV file by the columns that it needs and their kinds; gives its rows, and what cannot be read in it.
ReadSheet = Callable[[Path, Sequence[str], Callable[[str], Kind]], tuple[list[dict[str, Any]], Sequence[str]]]


def write_downstream(found: Downstream, folder: Path) -> tuple[list[Path], list[Entry]]:
    """Writes the tables that hold something, the same bytes for the same rows; returns them, and their columns."""
    files: list[Path] = []
    entries: list[Entry] = []
    for table, name, frame in (
        (DOWNSTREAM, DOWNSTREAM_CSV, found.runs),
        (PREDICTED, PREDICTIONS_PARQUET, found.predictions),
        (GENERATED, GENERATED_CSV, found.generated),
    ):
        path = folder / name
        if frame.empty:
            path.unlink(missing_ok=True)  # of other results that were written there before
            continue
        own = downstream_entries(table, list(frame.columns))
        if path.suffix == ".csv":
            frame.to_csv(path, index=False, lineterminator="\n")
        else:
            write_table(frame, own, path)
        files.append(path)
        entries += own
    return files, entries


def read_downstream(folder: Path, read_sheet: ReadSheet) -> tuple[Downstream, list[str]]:
    """Reads what `write_downstream` wrote; tables that are missing are empty.

    Returns:
        The tables, and what cannot be read in them.
    """
    problems: list[str] = []
    sheets = []
    for name, columns in ((DOWNSTREAM_CSV, RUN_COLUMNS), (GENERATED_CSV, GENERATED_COLUMNS)):
        needed = [column for column in columns if column not in RUN_LATER]
        rows, told = read_sheet(folder / name, needed, _kind_in(columns))
        problems += told
        sheets.append(typed([] if told else rows, columns))
    predictions = typed([], PREDICTION_COLUMNS)
    try:
        predictions = _predictions(folder / PREDICTIONS_PARQUET)
    except (TypeError, ValueError) as error:
        problems.append(str(error))
    return Downstream(sheets[0], predictions, sheets[1]), problems


def _kind_in(columns: Sequence[str]) -> Callable[[str], Kind]:
    def kind(name: str) -> Kind:
        found = type_of(name, columns)
        return "text" if found == "text" else "integer" if found == "integer" else "number"

    return kind


def _predictions(path: Path) -> Any:
    if not path.is_file():
        return typed([], PREDICTION_COLUMNS)
    import pyarrow.parquet as pq

    remedy = "take it from the report again, or remove it to do without the downstream comparison"
    try:
        columns = list(pq.read_schema(path).names)
    except Exception as error:  # pyarrow raises many kinds
        raise ValueError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    numbers = sorted(filter(is_probability, columns), key=lambda name: int(name[1:]))
    wanted = (*PREDICTION_COLUMNS, *numbers)
    return typed(read_table(path, wanted, remedy), wanted)
