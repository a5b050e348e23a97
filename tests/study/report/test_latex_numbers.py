"""Numbers in LaTeX's tables: their points stand under each other, with siunitx and without."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from study.report.formatting import number
from study.report.latex import escape_latex, to_latex
from study.report.latex_numbers import DIGIT_SPACE, POINT_SPACE, with_numbers, with_points_aligned
from study.report.tables import Cell, Column, Table, assemble
from tests.helpers.tex import compiled

TEXTS = ("0", "−0.296", "12.5", "1,230", "<0.001", "--")


def table_of(*texts: str, numeric: bool = True) -> Table:
    cells = [Cell(text, rank=2 if k == 0 else 1 if k == 1 else None) for k, text in enumerate(texts)]
    names = [Cell("arm") for _ in texts]
    return assemble("t", "C", [(Column("a", "Arm"), names), (Column("n", "N", numeric=numeric), cells)])


def texts_of(table: Table) -> list[str]:
    return [row[1].text.replace(DIGIT_SPACE, "_").replace(POINT_SPACE, ".") for row in table.rows]


@pytest.mark.parametrize(
    ("texts", "padded"),
    [
        (TEXTS, ["0.___", "−0.296", "12.5__", "1,230.___", "<0.001", "--"]),
        (("0.10", "0.25"), ["0.10", "0.25"]),
        (("1", "20", "300"), ["1", "20", "300"]),
        (("4 (2 × 2)", "0.25"), ["4 (2 × 2)", "0.25"]),  # no common point
        (("1e-05", "0.25"), ["1e-05", "0.25"]),
        (("≥ 8", "2.5"), ["≥ 8._", "2.5"]),
        (("", "2.5", "1"), ["", "2.5", "1._"]),
        (("--",), ["--"]),
    ],
)
def test_numbers_have_the_space_of_missing_decimals(texts: tuple[str, ...], padded: list[str]) -> None:
    assert texts_of(with_points_aligned(table_of(*texts))) == padded


def test_texts_are_left_alone() -> None:
    assert texts_of(with_points_aligned(table_of("1", "2.5", numeric=False))) == ["1", "2.5"]


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("−0.05", r"\num{-0.05}"),
        ("+0.05", r"\num{+0.05}"),
        ("1,230", r"\num{1,230}"),
        ("[−0.05, 0.02]", r"[\num{-0.05}, \num{0.02}]"),
        ("4 (2 × 2)", r"\num{4} (\num{2} $\times$ \num{2})"),
        ("3-5", r"\num{3}-\num{5}"),
        ("<0.001", r"\textless{}\num{0.001}"),
        ("2.1e+11", r"\num{2.1e+11}"),
        (number(1.5e-5), r"\num{1.50e-05}"),
        (number(-2.1e11), r"\num{-2.10e+11}"),
        ("240,000", r"\num{240,000}"),
        ("--", "--"),
    ],
)
def test_numbers_go_through_one_command(text: str, latex: str) -> None:
    assert with_numbers(text, escape_latex) == latex


def test_a_mark_does_not_take_in_the_space() -> None:
    text = to_latex(table_of(*TEXTS))
    assert r"\underline{\num{0}}\phantom{.000}" in text
    assert r"\textbf{\num{-0.296}}" in text


HAS_TEX = pytest.mark.skipif(
    not all(map(shutil.which, ("pdflatex", "pdftotext", "pdffonts"))), reason="no TeX or no poppler here"
)


def has_siunitx() -> bool:
    found = shutil.which("kpsewhich")
    return bool(found) and not subprocess.run([str(found), "siunitx.sty"], capture_output=True).returncode


def page(folder: Path, preamble: str, *texts: str) -> dict[str, float]:
    """The words of a page with a table of numbers, and where each ends, in points."""
    (folder / "t.tex").write_text(to_latex(table_of(*texts)))
    compiled(folder, "pdflatex", "onecolumn", "t", preamble=preamble)
    subprocess.run(["pdftotext", "-bbox", "article.pdf"], cwd=folder, check=True)
    found = re.findall(r'xMax="([\d.]+)".*?>([^<]*)</word>', (folder / "article.html").read_text())
    return {text: float(right) for right, text in found}


@HAS_TEX
@pytest.mark.parametrize("loaded", [False, True], ids=["plain", "siunitx"])
def test_points_stand_under_each_other_on_the_page(loaded: bool, tmp_path: Path) -> None:
    if loaded and not has_siunitx():
        pytest.skip("no siunitx here")
    preamble = r"\usepackage{siunitx}\sisetup{group-minimum-digits=9}" if loaded else ""
    places = page(tmp_path, preamble, "0.5", "−0.296", "12.5", "1,230.25", "<0.001", "7")
    [thousands] = [text for text in places if text in ("1,230.25", "1230.25")]
    assert thousands == ("1230.25" if loaded else "1,230.25"), "groups of digits are the document's"
    digit = places[thousands] - places["12.5"]
    assert 3 < digit < 6
    assert places["0.5"] == pytest.approx(places["12.5"], abs=0.1)
    assert places["7"] == pytest.approx(places["12.5"] - 1.5 * digit, abs=0.5), "a point is half as wide"


@HAS_TEX
@pytest.mark.skipif(not has_siunitx(), reason="no siunitx here")
def test_settings_of_a_document_change_no_value(tmp_path: Path) -> None:
    settings = "round-mode=places,round-precision=1,exponent-mode=scientific,output-decimal-marker={,}"
    places = page(
        tmp_path,
        rf"\usepackage{{siunitx}}\sisetup{{{settings}}}",
        "0.25",
        "0.50",
        "−0.296",
        "8",
        "0.00012345",
        "240,000",
    )
    assert {"0,25", "0,50", "8", "0,00012345"} <= {*places}
    assert "240" in places
    assert "000" in places
    fonts = subprocess.run(
        ["pdffonts", "article.pdf"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Type 3" not in fonts.stdout


@HAS_TEX
def test_a_command_of_the_document_keeps_its_meaning_outside(tmp_path: Path) -> None:
    places = page(tmp_path, r"\newcommand\num[1]{own}\AtEndDocument{\num{1}}", "0.25", "0.5")
    assert {"0.25", "0.5", "own"} <= {*places}
