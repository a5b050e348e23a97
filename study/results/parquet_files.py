"""Tables as Parquet: typed as their dictionary says, each column's meaning in its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.results.dictionary import Entry, Type

if TYPE_CHECKING:
    from pandas import DataFrame

_LEVEL = 12  # of zstandard: a few per cent larger than at its highest, in a tenth of the time


def write_table(table: DataFrame, entries: Sequence[Entry], path: Path) -> Path:
    """Writes a table, the same bytes for the same values with the same pyarrow.

    No pandas metadata is written, which would name versions; numbers are split into streams of their bytes, which makes
    them a quarter smaller.

    Args:
        entries: One a column, in their order; ``unit``, ``range``, ``direction`` and ``meaning`` become metadata.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = arrow_types()
    arrays = [
        pa.array(_plain(table[entry.column], entry.type), type=types[entry.type], from_pandas=True)
        for entry in entries
    ]
    schema = pa.schema(
        [pa.field(entry.column, types[entry.type], metadata=_metadata(entry)) for entry in entries]
    )
    numbers = [entry.column for entry in entries if entry.type == "number"]
    others = [entry.column for entry in entries if entry.type != "number"]
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=schema),
        path,
        compression="zstd",
        compression_level=_LEVEL,
        use_dictionary=others,
        use_byte_stream_split=numbers,
    )
    return path


def arrow_types() -> dict[Type, Any]:
    """The types of Parquet for those of the dictionary."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "time": pa.timestamp("ms", tz="UTC"),
    }


def _plain(values: Any, kind: Type) -> Any:
    """Values of which pyarrow makes an array: missing ones as missing, whole numbers without a fraction."""
    if kind == "integer":
        return values.astype("Int64")
    return values.astype("str") if kind == "text" else values


def _metadata(entry: Entry) -> dict[str, str]:
    known = {"unit": entry.unit, "range": entry.range, "direction": entry.direction, "meaning": entry.meaning}
    return {name: text for name, text in known.items() if text}


def read_table(
    path: Path, columns: Sequence[str], remedy: str, later: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Returns the rows of a Parquet file; missing values are None or NaN.

    Args:
        remedy: What a user can do about a file that is no good.
        later: Of the columns those that older files lack.

    Raises:
        ValueError: It is damaged, or another table.
    """
    import pandas as pd

    try:
        found = pd.read_parquet(path, engine="pyarrow")
    except Exception as error:  # pyarrow raises many kinds
        raise ValueError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    found = found.assign(**{name: None for name in later if name not in found.columns})
    if missing := [name for name in columns if name not in found.columns]:
        raise ValueError(f"{path} lacks the columns {', '.join(missing)}; {remedy}")
    values = [found[name].tolist() for name in columns]
    return [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
