"""Records from any table: a CSV file with a header, in whatever notation a spreadsheet has saved it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from study.results.csv_cells import CellError, Notation
from study.results.csv_files import DELIMITERS, decoded_csv, parsed_csv
from study.results.records import UNKNOWN, Record, Source
from trainables.errors import UserError
from trainables.util.files import sha256_of

MOST_BYTES = 256 * 2**20


def table_source(path: Path) -> Source:
    """Reads a table; each row is a record, each column a field.

    Raises:
        UserError: There is no such file, it is no table, it has no rows, or two columns bear one name.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; name the CSV file itself")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{path} has more than {MOST_BYTES // 2**20} MiB, and is read into memory; take a part"
            )
        delimiter, rows = _rows(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except CellError as error:
        raise UserError(f"{path}: {error}") from None
    header = [name.strip() for name in rows[0]] if rows else []
    body = [
        (number, row) for number, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row)
    ]
    if problems := _problems(header, body):
        raise UserError(*(f"{path}{problem}" for problem in problems))
    records = [
        Record(f"row {number}", {n: c.strip() for n, c in zip(header, row, strict=False) if n}, {})
        for number, row in body
    ]
    origin = {"table_sha256": sha256_of(path)}
    everything = Notation.of(delimiter, (cell.strip() for _, row in body for cell in row), ())

    def numbers_of(cells: Iterable[str]) -> Callable[[str], float | None]:
        return functools.partial(_number, _notation(delimiter, list(cells), everything))

    return Source(
        f"the table {path.name}", path.stem, records, "column", "column", numbers_of=numbers_of, origin=origin
    )


def _notation(delimiter: str, cells: Sequence[str], everything: Notation) -> Notation:
    """The notation of the cells that are numbers.

    Where they do not tell their decimal mark, other cells of the file do, if these have no other mark: a name such as
    "1.5" does not make a thousand of "1,234".
    """
    own = Notation.of(delimiter, cells, ())
    other = {".": ",", ",": "."}.get(everything.mark or "")
    if own.mark is None and other and not any(other in cell for cell in cells):
        return everything
    return own


def _number(notation: Notation, text: str) -> float | None:
    if text.strip().lower() in UNKNOWN:
        return None
    value = float(notation.number(text.strip()))
    return value if math.isfinite(value) else None


def _rows(content: bytes) -> tuple[str, list[list[str]]]:
    """The delimiter, the one with which the header has the most columns, and the records."""
    text = decoded_csv(content)
    hint = text.partition("\n")[0].strip()  # Excel's own: "sep=;"
    if hint.lower().startswith("sep=") and len(hint) == 5:
        return hint[4], parsed_csv(text.partition("\n")[2], hint[4])
    delimiter = max(f"{DELIMITERS}|", key=hint.count)
    return delimiter, parsed_csv(text, delimiter)


def _problems(header: list[str], body: list[tuple[int, list[str]]]) -> list[str]:
    found = []
    if not any(header):
        return [" is empty; its first row must name the columns"]
    if not body:
        found.append(" has no row under its header, so that there is nothing to compare")
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        found.append(
            f": columns called {', '.join(map(repr, twice))} stand there twice; rename or remove one"
        )
    for number, row in body:
        if any(cell.strip() for cell in row[len(header) :]):
            found.append(
                f", row {number}: it has {len(row)} cells for {len(header)} columns; put cells that hold the delimiter "
                "into quotation marks"
            )
    more = len(found) - 10
    return [*found[:10], *([f": and {more} more of this kind"] if more > 0 else [])]
