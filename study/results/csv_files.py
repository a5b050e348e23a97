"""Results as CSV files: written in one way, read also as a spreadsheet has saved them."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from study.results.columns import (
    CURVE_COLUMNS,
    IDENTITY,
    IMAGE_COLUMNS,
    INTEGERS,
    PARAM_PREFIX,
    RUN_COLUMNS,
    SCORE_COLUMNS,
    TEXTS,
    TIMES,
)
from study.results.csv_cells import BOOLEANS, CellError, Kind, Notation, boolean, param_kind
from study.results.dictionary import SCORES, table_entries, to_dictionary
from study.results.downstream import Downstream
from study.results.downstream_files import read_downstream, write_downstream
from study.results.frames import Results, frame_of, scores_of, table_of
from study.results.image_scores import read_parquet, write_parquet
from study.results.parquet_files import read_table
from study.results.run_rows import parse_param
from study.results.written_tables import write_tables
from study.storage.layout import (
    CURVES_CSV,
    CURVES_PARQUET,
    DICTIONARY_CSV,
    IMAGES_CSV,
    META_JSON,
    REPORT_DATA,
    RUNS_CSV,
)
from study.storage.run_key import DOWNSTREAM_PHASES, FOREIGN, PHASES, STATES, RunKey
from trainables.errors import UserError

MOST_PROBLEMS = 10
DELIMITERS = ",;\t"
_ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_IDENTITY = ("phase", "arm", "trial", "subject", "seed")
_NEVER_EMPTY = {*_IDENTITY, "method", "run_key", "step", "metric", "key", "path"}
_CHOICES = {"phase": (*PHASES, FOREIGN), "state": STATES}
_NUMBER_OF_ID = re.compile(r"\d([.,]\d+)?[eE]\+\d+")
_AS_UTF8 = "save it as 'CSV UTF-8' (Excel) or with the character set UTF-8 (LibreOffice)"


def write_csv(results: Results, folder: Path, *, compact: bool = False) -> list[Path]:
    """Writes runs, curves and images as CSV and as Parquet, ``meta.json``, the dictionary of all columns and, where
    there are scores of single images, ``image_scores.parquet``; `read_csv` gives the same results.

    Images are named, not copied: paths inside `folder` relative to it.

    Args:
        compact: Whether each table is written once: runs and images as CSV, curves as Parquet.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, entries = write_tables(results, folder, compact=compact)
    meta = folder / META_JSON
    meta.write_text(json.dumps(results.meta, indent=1, sort_keys=True) + "\n")
    if (scores := write_parquet(results.image_scores, folder)) is not None:
        files.append(scores)
        entries += table_entries(SCORES, results.image_scores[list(SCORE_COLUMNS)])
    more, about_them = write_downstream(results.downstream or Downstream(), folder)
    files += more
    entries += about_them
    dictionary = folder / DICTIONARY_CSV
    dictionary.write_text(to_dictionary(entries), encoding="utf-8")
    return [*files, meta, dictionary]


def read_csv(folder: Path) -> Results:
    """Reads what `write_csv` wrote, also after a spreadsheet has saved it; only ``runs.csv`` must be there.

    Delimiter, decimal mark, thousands, dates, booleans and encoding may be a spreadsheet's own, as long as each file
    can be read in one way only.

    Args:
        folder: With ``runs.csv``, or a report's folder, which holds it under ``data/``.

    Raises:
        UserError: There is no ``runs.csv``, or cells that cannot be read: each with file, row, column, value and what
            is expected there.
    """
    folder = data_folder(folder)
    problems: list[str] = []
    meta = _read_meta(folder / META_JSON, problems)
    # Others' runs have no columns for what only runs of this program have.
    needed = IDENTITY if "external" in meta else RUN_COLUMNS
    runs = _Sheet.read(folder / RUNS_CSV, needed, _run_kind)
    curves = _Sheet.read(folder / CURVES_CSV, CURVE_COLUMNS, _point_kind)
    if not (folder / CURVES_CSV).exists():
        curves = _of_parquet(folder / CURVES_PARQUET, CURVE_COLUMNS)
    images = _Sheet.read(folder / IMAGES_CSV, IMAGE_COLUMNS, _point_kind)
    unread = [*runs.problems, *curves.problems, *images.problems]
    problems = [*unread, *problems]
    if not unread:
        problems += [*_broken_runs(runs), *runs.repeated("run_key")]
        problems += curves.repeated("run_key", "metric", "step")
    scores = scores_of([])
    try:
        scores = read_parquet(folder)
    except ValueError as error:
        problems.append(str(error))
    downstream, unsound = read_downstream(folder, _read_sheet)
    problems += unsound
    if problems:
        more = len(problems) - MOST_PROBLEMS
        raise UserError(*problems[:MOST_PROBLEMS], *([f"and {more} more of this kind"] if more > 0 else []))
    shown = [{**image, "path": str(folder / image["path"])} for image in images.rows]
    return Results(
        frame=frame_of(_completed(runs.rows) if "external" in meta else runs.rows),
        curves=table_of(curves.rows, CURVE_COLUMNS),
        images=table_of([image for image in shown if _is_picture(Path(image["path"]))], IMAGE_COLUMNS),
        meta=meta,
        image_scores=scores,
        downstream=None if downstream.empty else downstream,
    )


def _read_sheet(
    path: Path, needed: Sequence[str], kind: Callable[[str], Kind]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of another table, whose phases are those of classifiers; and what cannot be read in it."""
    sheet = _Sheet.read(path, needed, kind, {**_CHOICES, "phase": DOWNSTREAM_PHASES})
    repeated = () if sheet.problems or "phase" not in needed else sheet.repeated("run_key")
    return sheet.rows, [*sheet.problems, *repeated]


def _completed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of others with the columns that were left out because nobody fills them; whole rows stay as they are."""
    columns = (*RUN_COLUMNS, "run_key", "reason")
    whole = not rows or all(name in rows[0] for name in columns)
    return rows if whole else [{**dict.fromkeys(columns), **row} for row in rows]


def _of_parquet(path: Path, columns: Sequence[str]) -> _Sheet:
    """The rows of a Parquet file, whose types are its own; one that is not there is empty."""
    sheet, remedy = _Sheet(path), "take it from the report again, or remove it to do without it"
    if not path.is_file():
        return sheet
    try:
        sheet.rows = read_table(path, columns, remedy)
        table_of(sheet.rows, tuple(columns))
    except (TypeError, ValueError) as error:
        sheet.problems.append(str(error) if remedy in str(error) else f"{path}: {error}; {remedy}")
    sheet.numbers = list(range(1, len(sheet.rows) + 1))
    return sheet


def data_folder(folder: Path) -> Path:
    """Returns the folder with ``runs.csv``: the one that is given, or ``data/`` in a report's.

    Raises:
        UserError: There is none.
    """
    for found in (folder, folder / REPORT_DATA, folder.parent if folder.name == RUNS_CSV else folder):
        if (found / RUNS_CSV).is_file():
            return found
    other = sorted(path.name for path in folder.glob("runs*")) if folder.is_dir() else []
    named = f" (but {', '.join(other)}; export a table as CSV under that name)" if other else ""
    other_table = (
        "; of any other table say what its columns mean, by --arm and --quality" if folder.is_file() else ""
    )
    raise UserError(
        f"{folder} holds no {RUNS_CSV}{named}; name the folder of an earlier report, or its data/{other_table}"
    )


def holds_report(folder: Path) -> bool:
    """Whether it is the folder of a report, or the ``data/`` of one."""
    return any((found / RUNS_CSV).is_file() for found in (folder, folder / REPORT_DATA))


@dataclass
class _Sheet:
    """One CSV file: its typed rows, their numbers in a spreadsheet, and what cannot be read in it."""

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    choices: Mapping[str, Sequence[str]] = field(default_factory=lambda: _CHOICES)

    @classmethod
    def read(
        cls,
        path: Path,
        needed: Sequence[str],
        kind: Callable[[str], Kind],
        choices: Mapping[str, Sequence[str]] | None = None,
    ) -> _Sheet:
        """Reads a file; one that is not there is empty.

        Args:
            choices: What columns may hold; None: those of the runs.
        """
        sheet = cls(path) if choices is None else cls(path, choices=choices)
        if path.exists():
            try:
                delimiter, records = _records(path, needed)
                sheet._fill(delimiter, records, needed, kind)
            except CellError as error:
                sheet.problems.append(f"{path}: {error}")
        return sheet

    def _fill(
        self, delimiter: str, records: list[list[str]], needed: Sequence[str], kind: Callable[[str], Kind]
    ) -> None:
        header, body = _header(records, needed)
        kinds = [kind(name) for name in header]
        self._check_widths(header, body)
        if self.problems:
            return
        cells = [(number, _padded(row, kinds)) for number, row in body]

        def of(*wanted: str) -> Iterable[str]:
            return (row[k] for _, row in cells for k in range(len(header)) if kinds[k] in wanted and row[k])

        notation = Notation.of(delimiter, of("integer", "number"), of("time"))
        readers = {name: _reader(one, notation) for name, one in zip(header, kinds, strict=True)}
        for number, row in cells:
            values: dict[str, Any] = {}
            for name, text in zip(header, row, strict=False):
                try:
                    values[name] = readers[name](text) if text else None
                    self._check_choice(name, values[name])
                except CellError as error:
                    self.problems.append(f"{self.path}, row {number}, column {name}: {error}")
            self.rows.append(values)
            self.numbers.append(number)

    def _check_widths(self, header: list[str], body: list[tuple[int, list[str]]]) -> None:
        for number, row in body:
            if any(cell.strip() for cell in row[len(header) :]):
                self.problems.append(
                    f"{self.path}, row {number}: it has {len(row)} cells for {len(header)} columns; put cells that "
                    "hold the delimiter into quotation marks"
                )

    def _check_choice(self, name: str, value: Any) -> None:
        allowed = self.choices.get(name)
        if allowed is not None and value not in allowed:
            raise CellError(f"{value or ''!r} is not one of {', '.join(allowed)}")
        if value is None and name in _NEVER_EMPTY:
            raise CellError("the cell is empty; it tells which run or point the row is about")

    def repeated(self, *names: str) -> Iterable[str]:
        """Names rows that are about the same thing: counted twice, they would change means in silence."""
        first: dict[tuple[Any, ...], int] = {}
        for number, row in zip(self.numbers, self.rows, strict=True):
            key = tuple(row.get(name) for name in names)
            before = first.setdefault(key, number)
            if before != number:
                shown = ", ".join(str(part) for part in key)
                yield f"{self.path}, row {number}: {shown} stands in row {before} already; keep one of the two"


# ---------------------------------------------------------------------- from bytes to cells


def _records(path: Path, needed: Sequence[str]) -> tuple[str, list[list[str]]]:
    """Returns the delimiter and the records of a file; raises CellError if it is no such table."""
    text = decoded_csv(path.read_bytes())
    hint = text.partition("\n")[0].strip()  # Excel's own: "sep=;"
    if hint.lower().startswith("sep=") and len(hint) == 5:
        return hint[4], parsed_csv(text.partition("\n")[2], hint[4])
    tried = [(delimiter, parsed_csv(text, delimiter)) for delimiter in DELIMITERS if delimiter in hint]

    def known(item: tuple[str, list[list[str]]]) -> int:
        return len({name.strip() for name in item[1][0]} & set(needed)) if item[1] else 0

    best = max(tried, key=known, default=None)
    if best is None or not known(best):
        raise CellError(
            f"its first row names no columns of this table; expected {', '.join(needed[:3])}, ... separated by ',', "
            "';' or tabs"
        )
    delimiter, records = best
    if len(records[-1]) < len(records[0]) and not text.endswith(("\n", "\r")):
        raise CellError(f"it breaks off in row {len(records)}; take a whole copy of it")
    return delimiter, records


def decoded_csv(content: bytes) -> str:
    """Returns the text of a CSV file; raises CellError if it is a spreadsheet, or in another encoding."""
    if content.startswith(b"PK\x03\x04"):
        raise CellError("it is a spreadsheet, not a CSV file; " + _AS_UTF8)
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        row = content[: error.start].count(b"\n") + 1
        bad = content[error.start : error.end]
        raise CellError(
            f"row {row} holds bytes {bad!r} that are not {encoding.upper()}; {_AS_UTF8}"
        ) from None
    if "\0" in text[:64]:
        raise CellError("it begins with NUL characters, as UTF-16 without a mark does; " + _AS_UTF8)
    return text


def parsed_csv(text: str, delimiter: str) -> list[list[str]]:
    """Returns the records of a CSV file; raises CellError where quotes do not end."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise CellError(
            f"it is no sound CSV ({error}); save it again, cells with line breaks in quotes"
        ) from None


def _padded(row: list[str], kinds: list[Kind]) -> list[str]:
    """A row's cells, one a column; spreadsheets leave out empty ones at the end."""
    whole = [*row, *[""] * (len(kinds) - len(row))]
    return [text if kind == "text" else text.strip() for text, kind in zip(whole, kinds, strict=False)]


def _header(records: list[list[str]], needed: Sequence[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the names of the columns, and the rows that hold something with their numbers."""
    header = [name.strip() for name in records[0]]
    body = [(k, row) for k, row in enumerate(records[1:], start=2) if any(cell.strip() for cell in row)]
    while header and not header[-1] and not any("".join(row[len(header) - 1 :]).strip() for _, row in body):
        header.pop()
    missing = [name for name in needed if name not in header]
    twice = sorted({name for name in header if header.count(name) > 1})
    remedy = "the first row must hold the names that the report wrote"
    if missing:
        raise CellError(f"{len(missing)} of the columns are missing: {', '.join(missing)}; {remedy}")
    if twice or "" in header:
        named = ", ".join(map(repr, twice or [""]))
        raise CellError(f"columns called {named} stand there twice or without a name; {remedy}")
    return header, body


# ---------------------------------------------------------------------- from cells to values


def _run_kind(name: str) -> Kind:
    if name in TEXTS:
        return "text"
    if name in TIMES:
        return "time"
    if name in INTEGERS:
        return "integer"
    return param_kind(name.removeprefix(PARAM_PREFIX)) if name.startswith(PARAM_PREFIX) else "number"


def _point_kind(name: str) -> Kind:
    if name in ("trial", "seed", "step"):
        return "integer"
    return "number" if name == "value" else "text"


def _reader(kind: Kind, notation: Notation) -> Callable[[str], Any]:
    readers: dict[Kind, Callable[[str], Any]] = {
        "text": str,
        "integer": notation.integer,
        "number": lambda text: float(notation.number(text)),
        "time": notation.time,
        "boolean": boolean,
        "param": partial(_param, notation),
    }
    return readers[kind]


def _param(notation: Notation, text: str) -> Any:
    """A field of any type: a boolean or a number in the file's notation, else a text."""
    if text.casefold() in BOOLEANS:
        return BOOLEANS[text.casefold()]
    try:
        return float(notation.number(text))
    except CellError:
        return parse_param(text)


def _broken_runs(runs: _Sheet) -> Iterable[str]:
    """Spreadsheets turn names into dates and numbers: what a run is called must agree with what it was."""
    for number, row in zip(runs.numbers, runs.rows, strict=True):
        key = RunKey(*(row[name] for name in _IDENTITY))
        for name in ("mlflow_run_id", "config_digest"):
            if _NUMBER_OF_ID.fullmatch(row.get(name) or ""):
                yield (
                    f"{runs.path}, row {number}, column {name}: {row[name]!r} is a number that a spreadsheet has made "
                    "of an id; put the id there as text, or leave the cell empty"
                )
        if "run_key" in row and row["run_key"] != key.name:
            yield (
                f"{runs.path}, row {number}, column run_key: {row['run_key']!r} is not the run of the row's phase, "
                f"arm, trial, subject and seed, which is {key.name!r}; one of them has been altered"
            )


def _read_meta(path: Path, problems: list[str]) -> dict[str, Any]:
    """What is known of the study; nothing without the file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        content = None
    if isinstance(content, dict):
        return content
    problems.append(f"{path} is damaged; restore it, or remove it to do without the study file")
    return {}


def _is_picture(path: Path) -> bool:
    """Whether a report may show the file: a table that somebody else made must not draw other files into it."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
            return head.startswith(b"\x89PNG\r\n\x1a\n") or (head[:4] == b"RIFF" and head[8:] == b"WEBP")
    except (OSError, ValueError):
        return False
