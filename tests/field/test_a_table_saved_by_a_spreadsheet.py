"""A report's ``runs.csv`` was opened in a spreadsheet and saved: it is read right, or refused in a line."""

from __future__ import annotations

import atexit
import csv
import functools
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from study.cli.main import main
from study.results.csv_cells import CellError, Notation
from study.results.csv_files import read_csv, write_csv
from study.results.frames import Results
from trainables.errors import UserError

DATA = Path(__file__).resolve().parents[2] / "reports" / "quickstart" / "data"
TABLES = ("runs.csv", "curves.csv", "meta.json")
Records = list[list[str]]


@pytest.fixture(scope="module")
def original() -> pd.DataFrame:
    return read_csv(DATA).frame


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A full report's tables as CSV, without its images."""
    for name in TABLES:
        shutil.copy(_whole() / name, tmp_path / name)
    return tmp_path


@functools.cache
def _whole() -> Path:
    """A folder with the tables of the shipped report, which is a compact one, as those of a full one."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place)
    shipped = read_csv(DATA)
    assert shipped.images is not None
    write_csv(Results(shipped.frame, shipped.curves, shipped.images[:0], shipped.meta), place)
    return place


def resave(
    path: Path,
    cell: Callable[[str, str], str] = lambda name, text: text,
    *,
    delimiter: str = ",",
    encoding: str = "utf-8",
    end: str = "\n",
    quoting: int = csv.QUOTE_MINIMAL,
    padding: Records | None = None,
) -> None:
    """Saves a table anew as a spreadsheet would; `cell` renders a cell by its column and text."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(header + ["", ""] * bool(padding))
    for row in rows:
        writer.writerow(
            [cell(name, text) for name, text in zip(header, row, strict=True)] + ["", ""] * bool(padding)
        )
    writer.writerows(padding or [])
    path.write_bytes(out.getvalue().encode(encoding))


def excel(mark: str, date: str, true: str, false: str) -> Callable[[str, str], str]:
    """Renders cells as Excel does in one locale: 15 digits, its own exponents, dates, booleans."""

    def cell(name: str, text: str) -> str:
        if name in ("started", "ended") and text:
            return datetime.fromisoformat(text).strftime(date)
        if text in ("true", "false"):
            return true if text == "true" else false
        try:
            number = float(text)
        except ValueError:
            return text
        shown = f"{number:.15g}" if abs(number) >= 1e-4 or not number else f"{number:.14E}"
        return shown.replace(".", mark)

    return cell


def german(name: str, text: str) -> str:
    return excel(",", "%d.%m.%Y %H:%M", "WAHR", "FALSCH")(name, text)


def integers_as_floats(name: str, text: str) -> str:
    return f"{text}.0" if name in ("trial", "seed", "max_train_steps", "step", "attempts") and text else text


def grouped(name: str, text: str) -> str:
    return f"{int(text):,}".replace(",", ".") if name == "train_flops" and text else german(name, text)


SAVED: dict[str, Callable[[Path], None]] = {
    "german Excel": lambda path: resave(path, german, delimiter=";", encoding="utf-8-sig", end="\r\n"),
    "american Excel": lambda path: resave(
        path, excel(".", "%m/%d/%Y %I:%M %p", "TRUE", "FALSE"), encoding="utf-8-sig", end="\r\n"
    ),
    "british Excel": lambda path: resave(path, excel(".", "%d/%m/%Y %H:%M", "TRUE", "FALSE")),
    "unicode text": lambda path: resave(path, german, delimiter="\t", encoding="utf-16", end="\r\n"),
    "quoted everything, commas throughout": lambda path: resave(path, german, quoting=csv.QUOTE_ALL),
    "thousands set apart": lambda path: resave(path, grouped, delimiter=";"),
    "integers as floats": lambda path: resave(path, integers_as_floats),
    "empty columns and rows": lambda path: resave(path, padding=[[], ["", ""], [""] * 60]),
    "old line ends": lambda path: resave(path, end="\r"),
}


@pytest.mark.parametrize("way", SAVED)
@pytest.mark.parametrize("name", ["runs.csv", "curves.csv"])
def test_it_is_read_right(folder: Path, original: pd.DataFrame, way: str, name: str) -> None:
    curves = read_csv(folder).curves
    SAVED[way](folder / name)
    assert (folder / name).read_bytes() != (_whole() / name).read_bytes()
    found = read_csv(folder)
    times = ["started", "ended"]
    pd.testing.assert_frame_equal(
        found.frame.drop(columns=times), original.drop(columns=times), rtol=1e-13, atol=0
    )
    gaps = (found.frame[times] - original[times]).abs()
    assert (gaps < pd.Timedelta(minutes=1)).all(axis=None)
    pd.testing.assert_frame_equal(found.curves, curves, rtol=1e-13, atol=0)


def test_excels_line_with_the_delimiter_is_obeyed(folder: Path, original: pd.DataFrame) -> None:
    resave(folder / "runs.csv", delimiter=";")
    (folder / "runs.csv").write_text("sep=;\r\n" + (folder / "runs.csv").read_text())
    pd.testing.assert_frame_equal(read_csv(folder).frame, original)


def altered(column: str, value: str, row: int = 3) -> Callable[[Path], None]:
    """Puts one other value into the table."""

    def alter(path: Path) -> None:
        with path.open(newline="", encoding="utf-8") as file:
            records = list(csv.reader(file))
        records[row - 1][records[0].index(column)] = value
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(records)

    return alter


def without(column: str) -> Callable[[Path], None]:
    def alter(path: Path) -> None:
        pd.read_csv(path, dtype=str).drop(columns=column).to_csv(path, index=False)

    return alter


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def repeated(path: Path) -> None:
    path.write_text(path.read_text() + path.read_text().splitlines()[4] + "\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (altered("quality", "0,4175"), r"row 3, column quality: '0,4175'.*decimal mark is '\.'.*expected"),
        (altered("quality", "good"), "row 3, column quality: 'good' is not a number; expected"),
        (altered("quality", "41.8%"), "row 3, column quality: '41.8%' is not a number"),
        (altered("quality", "#####"), "row 3, column quality"),
        (altered("seed", "0.5"), "row 3, column seed: '0.5' is not a whole number"),
        (altered("seed", "1"), "row 3, column run_key: .* is not the run of the row's"),
        (altered("subject", "1. Mai"), "row 3, column run_key"),
        (altered("arm", ""), "row 3, column arm: the cell is empty"),
        (altered("phase", "Confirm"), "row 3, column phase: 'Confirm' is not one of search, confirm"),
        (altered("state", "DONE"), "row 3, column state: 'DONE' is not one of RUNNING"),
        (altered("started", "46:34.1"), "row 3, column started: '46:34.1' is not a date with a time; expected 2026-"),
        (altered("started", "46347.157"), "row 3, column started"),
        (altered("started", "04/05/2026 14:03"), "row 3, column started: .* day or the month first"),
        (altered("started", "26/11/28 14:03"), "row 3, column started"),
        (altered("param.with_prior_preservation", "TOSI"), "is neither true nor false"),
        (altered("mlflow_run_id", "5,6E+31"), "row 3, column mlflow_run_id: .* made of an id"),
        (without("quality"), "columns are missing: quality"),
        (cut, "it breaks off in row"),
        (repeated, r"row \d+: .* stands in row 5 already"),
        (lambda path: path.write_text(""), "names no columns of this table"),
        (lambda path: path.write_bytes(b"PK\x03\x04x"), "a spreadsheet, not a CSV file"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"cat-", b"k\xe4tze-", 1)), "row 2 holds bytes"),
        (lambda path: path.write_text(path.read_text().replace("\nquick", '\n"quick', 1)), "no sound CSV"),
        (lambda path: path.write_bytes(path.read_text().encode("utf-16-le")), "UTF-16 without a mark"),
        (lambda path: path.rename(path.with_suffix(".xlsx")), r"holds no runs.csv \(but runs.xlsx"),
    ],
)  # fmt: skip
def test_it_is_refused_in_a_line(folder: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(folder / "runs.csv")
    with pytest.raises(UserError, match=said) as error:
        read_csv(folder)
    assert all("\n" not in problem and "runs.csv" in problem for problem in error.value.problems)


def test_a_number_that_can_be_read_in_two_ways_is_not_guessed() -> None:
    assert Notation.of(",", ["1.234"], []).number("1.234") == Decimal("1.234")
    assert Notation.of(";", ["1.234", "0,5"], []).number("1.234") == 1234
    assert Notation.of(";", ["1.234", "0.5"], []).number("1.234") == Decimal("1.234")
    assert Notation.of("\t", ["1.234.567"], []).number("1.234.567") == 1234567
    assert Notation.of(";", ["1’234.5", "1 234"], []).number("1 234") == 1234
    with pytest.raises(CellError, match="may be a fraction"):
        Notation.of(";", ["1.234"], []).number("1.234")
    with pytest.raises(CellError, match="not a number where the decimal mark"):
        Notation.of(";", ["0.5", "0.25", "0,5"], []).number("0,5")
    with pytest.raises(CellError, match="not a number where the decimal mark"):
        Notation.of(",", ["0.5"], []).number("0,123")


def test_the_command_says_it_without_a_traceback(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    altered("quality", "x")(folder / "runs.csv")
    altered("quality", "y", row=9)(folder / "runs.csv")
    (folder / "meta.json").write_text("{")
    with pytest.raises(SystemExit) as ended:
        main(["report", "quickstart", "--from-csv", str(folder), "--reports", "out"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 3
    assert not (folder / "out").exists()


def test_without_the_study_file_there_is_a_report_all_the_same(folder: Path) -> None:
    (folder / "meta.json").unlink()
    assert read_csv(folder).meta == {}
    (folder / "meta.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"study": "s"}).encode())
    assert read_csv(folder).meta == {"study": "s"}


def test_any_text_of_a_failure_comes_back(folder: Path) -> None:
    whole = read_csv(folder)
    reasons = ["50 %\r100 %\r\nout of memory", '"quoted"; 1,5', " =1+1\n", "nan", "null", "é 你"]
    frame = whole.frame.copy()
    frame["reason"] = pd.Series([*reasons, *[None] * (len(frame) - len(reasons))], dtype="str")
    write_csv(Results(frame, whole.curves, whole.images, whole.meta), folder / "again")
    found = list(read_csv(folder / "again").frame["reason"][: len(reasons)])
    assert found == ["50 %\n100 %\nout of memory", *reasons[1:]], "a bare carriage return would end the row"
