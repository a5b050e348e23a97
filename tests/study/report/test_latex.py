"""LaTeX of tables: harmless whatever the names, and compiled by a plain article with every engine there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from study.report.latex import escape_latex, to_latex
from study.report.latex_layout import FORMS, heading_lines, layouts
from study.report.tables import Cell, Column, Table, assemble, text_cell
from tests.helpers.tex import compiled

NASTY = '\\input{x} 100% _a_ #1 $x$ {y} ~^ <b> | "q" `z` &'
NAMES = ("Größe", "Ångström", "naïve", "Čapek", "λ→∞", "小猫", "кот", "🙂", "a\u0301", "x\u00a0y", "x\u202fy")
ENGINES = [engine for engine in ("pdflatex", "xelatex", "lualatex") if shutil.which(engine)]


def column(key: str, title: str, cells: list[Cell], *, numeric: bool = True) -> tuple[Column, list[Cell]]:
    return Column(key, title, "s", "min", numeric=numeric, has_interval=numeric), cells


def sample(rows: int = 3, columns: int = 2, names: tuple[str, ...] = (NASTY,)) -> Table:
    texts = [text_cell(names[k % len(names)]) for k in range(rows)]
    numbers = [
        Cell("0.50", "[0.40, 0.60]", 0.5, 0.4, 0.6, 1 if k == 0 else 2 if k == 1 else None)
        for k in range(rows)
    ]
    made = [column(str(k), f"Measure number {k}", numbers) for k in range(columns)]
    return assemble("t", f"A caption: {NASTY}", [(Column("arm", "Arm"), texts), *made], ("A note.",))


def bare(text: str) -> str:
    """Without comments, the definitions at the head, escaped characters and line ends."""
    body = text.split("\n", 3)[3]
    return re.sub(r"\\[{}%#&_$]", "", body.replace(r"\\", " "))


def test_it_is_balanced_and_has_no_command_of_the_user() -> None:
    text = to_latex(sample())
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"\textbf{\num{0.50}}" in text
    assert r"\underline{\num{0.50}}" in text
    rest = bare(text)
    assert rest.count("{") == rest.count("}")
    assert not re.search(r"[%#]", rest)
    assert r"\input" not in rest
    assert '"' not in rest, "OT1 has no straight quote"


def test_intervals_stand_below_their_means_and_rows_are_apart() -> None:
    lines = [line.strip() for line in to_latex(sample(names=("one", "two", "three"))).splitlines()]
    start = lines.index(r"\midrule")
    assert lines[start + 1 : start + 5] == [
        r"one & \textbf{\num{0.50}} & \textbf{\num{0.50}} \\",
        " & ".join(["", *[r"{\scriptsize [\num{0.40}, \num{0.60}]}"] * 2]).strip() + r" \\",
        r"\addlinespace",
        r"two & \underline{\num{0.50}} & \underline{\num{0.50}} \\",
    ]
    assert "shortstack" not in " ".join(lines)


@pytest.mark.parametrize("name", ["[x]", "*star"])
def test_a_name_does_not_become_an_argument_of_the_line_before(name: str) -> None:
    table = assemble("t", "C", [(Column("a", "A"), [text_cell("first"), text_cell(name)])])
    assert "\n{}" + name in to_latex(table)


def layouts_of(text: str) -> list[str]:
    """The layouts of a file: for a narrow text and for a wide one, or one for both."""
    return re.split(r"^\\else.*$", text, flags=re.M)


def test_what_fits_into_one_column_takes_one() -> None:
    text = to_latex(sample(columns=2, names=("one", "two")))
    assert r"\begin{table}[htbp]" in text
    assert r"\end{table}" in text
    assert "table*" not in text
    assert r"\ifdim" not in text


def test_what_needs_both_columns_is_one_tabular_over_both() -> None:
    """Six columns, as in the summary of a report."""
    text = to_latex(sample(columns=5, names=("custom-diffusion", "dreambooth")))
    assert text.count(r"\begin{table*}") == 1
    assert text.count(r"\toprule") == 1
    assert r"\ifdim" not in text


def test_a_wide_table_is_whole_where_both_columns_have_room_for_it() -> None:
    """And in pieces in the text of a one-column article."""
    text = to_latex(sample(columns=8, names=("custom-diffusion", "dreambooth")))
    narrow, wide = layouts_of(text)
    assert re.search(r"\\ifdim\\textwidth<(\d+)pt", narrow)[1] <= "450"  # type: ignore[index]
    assert narrow.count(r"\toprule") == 2
    assert wide.count(r"\begin{table*}") == wide.count(r"\toprule") == 1
    assert wide.count("Measure") == 8
    assert wide.rstrip().endswith(r"\fi")


def test_a_very_wide_table_is_cut_into_panels_with_the_names_in_each() -> None:
    for text in layouts_of(to_latex(sample(columns=20, names=("one", "two")))):
        panels = text.count(r"\toprule")
        assert panels > 1
        assert text.count(r"one & ") == panels * 2, "rows one and three bear the name"
        assert text.count("Measure") == 20
        specs = [len(spec) for spec in re.findall(r"@\{\}(l[lr]*)@\{\}", text)]
        assert max(specs) - min(specs) <= 2, "about as many columns in each"
        assert "resizebox" not in text, "nothing is scaled down"
        assert r"\tiny" not in text


def test_panels_repeat_as_many_columns_as_tell_the_rows_apart() -> None:
    firsts, seconds = ["one", "one", "two"], ["two", "three", "three"]
    names = [
        (Column("arm", "Arm"), [text_cell(name) for name in firsts]),
        (Column("against", "Against"), [text_cell(name) for name in seconds]),
    ]
    numbers = [column(str(k), f"Measure number {k}", [Cell("0.50")] * 3) for k in range(24)]
    for table, repeated in (
        (assemble("t", "C", [*names, *numbers]), 2),
        (assemble("t", "C", names[1:] + numbers), 1),
    ):
        for layout in layouts(table):
            panels = [panel.columns for part in layout.floats for panel in part]
            assert len(panels) > 1
            assert [panel[:repeated] for panel in panels] == [tuple(range(repeated))] * len(panels)
            told = sorted(k for panel in panels for k in panel[repeated:])
            assert told == list(range(repeated, len(table.columns)))


def test_a_long_table_is_cut_into_floats() -> None:
    rows = 150
    table = assemble("t", "C", [(Column("a", "A"), [text_cell(f"row-{k}-") for k in range(rows)])])
    text = to_latex(table)
    floats = text.count(r"\begin{table}")
    assert floats == 3
    assert text.count(r"\label{tab:t}") == 1
    assert f"(part {floats} of {floats})" in text
    assert [k for k in range(rows) if f"row-{k}-" not in text] == []


def test_texts_are_broken_into_lines_as_long_as_there_is_room_for() -> None:
    words, digest = " ".join(["word"] * 40), "0123456789abcdef" * 8
    text = to_latex(assemble("t", "C", [(Column("a", "A"), [text_cell(words), text_cell(digest)])]))
    lines = [line for line in text.splitlines() if "word" in line]
    assert len(lines) in range(3, 9)
    assert max(map(len, lines)) < 90
    assert text.count("word") == 40


def test_a_unit_stays_with_the_heading_only_where_it_is_no_longer_for_it() -> None:
    for title, lines in ("Memory", ["Memory (s)"]), ("Training time", ["Training time", "(s)"]):
        assert heading_lines(Column("a", title, "s", None), FORMS[0]) == lines


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b", r"a\_b"), ("100%", r"100\%"), ("x & y", r"x \& y"), ("$1$", r"\$1\$"), ("#1", r"\#1"),
        ("\\", r"\textbackslash{}"), ("{}", r"\{\}"), ("a\nb", "a b"), ('"q"', "''q''"), ("é", r"\'{e}"),
        ("Å", r"\r{A}"), ("ï", r"\"{\i}"), ("č", r"\v{c}"), ("ø", r"\o{}"), ("λ", r"$\lambda$"), ("Ω", r"$\Omega$"),
        ("猫", r"\studychar{732B}"), ("a\x07b\u200b", "ab"),
    ],
)  # fmt: skip
def test_escapes(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


@pytest.mark.skipif(not ENGINES, reason="no TeX here")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", ["onecolumn", "twocolumn"])
def test_a_plain_article_compiles_them_and_nothing_sticks_out(
    engine: str, options: str, tmp_path: Path
) -> None:
    """Without T1 fonts, packages but booktabs, or options; every name that a user may type."""
    tables = {
        "nasty": sample(), "names": sample(rows=len(NAMES), names=NAMES), "wide": sample(columns=16, names=("one",)),
        "long": sample(rows=60, names=("one",)),
        **{f"of-{k}": sample(columns=k, names=("custom-diffusion",)) for k in range(1, 14)},
    }  # fmt: skip
    for name, table in tables.items():
        (tmp_path / f"{name}.tex").write_text(to_latex(table), encoding="utf-8")
    log = compiled(tmp_path, engine, options, *tables)
    assert "too large for page" not in log
    assert [line for line in log.splitlines() if line.startswith("Overfull")] == []
