"""Numbers as text, and one table drawn as CSV, Markdown, LaTeX and HTML with hostile names."""

from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest

from study.report.formatting import (
    Scale,
    decimals_for,
    fixed,
    interval,
    listing,
    number,
    p_value,
    plural,
    scale_for,
)
from study.report.tables import (
    FOLD_FROM,
    Cell,
    Column,
    Table,
    assemble,
    escape_html,
    escape_markdown,
    estimate_cell,
    estimate_column,
    marks,
    number_cell,
    text_cell,
    to_csv,
    to_html,
    to_markdown,
)
from study.statistics.paired import Estimate

HOSTILE = "<script>alert(1)</script> & 50% _a_ $x^2$ #1 {b} ~c \\input{d} | \"e\" 'f' *g* `h`\nü 猫"


@pytest.mark.parametrize(
    ("unit", "values", "expected"),
    [
        ("s", [13.4, 25.8, 0.0], "s"),
        ("s", [0.054], "ms"),
        ("s", [40_000, 90_000], "h"),
        ("FLOP", [1.8e12, 2.5e12], "TFLOP"),
        ("FLOP", [3e9], "GFLOP"),
        ("B", [393_216, 26_800_000], "MB"),
        ("B", [1.1e9], "GB"),
        ("count", [6.7e6], "M"),
        ("count", [98_304, 6_700_000], "k"),
        ("count", [768], "k"),
        ("count", [64], ""),
        ("FLOP", [0.0, None, float("nan")], "FLOP"),
        ("", [0.5], ""),
    ],
)
def test_units_follow_the_values(unit: str, values: list[float | None], expected: str) -> None:
    assert scale_for(unit, values).unit == expected


def test_digits_follow_the_uncertainty() -> None:
    assert [decimals_for(0.5731, half) for half in (0.046, 0.012, 0.36, 0.0035, 3.0, 41.0)] == [
        2,
        3,
        1,
        4,
        0 + 1,
        0,
    ]
    assert estimate_cell(Estimate(0.5731, 0.5261, 0.6192)).text == "0.57"
    assert estimate_cell(Estimate(0.5731, 0.5261, 0.6192)).detail == "[0.53, 0.62]"
    assert estimate_cell(Estimate(25_470.0, 25_030.0, 25_910.0), Scale(1e3, "k")).text == "25.5"


def test_no_interval_looks_like_none_beside_wide_ones() -> None:
    """Of a column that has one decimal."""
    wide, narrow = (
        estimate_cell(one, decimals=1) for one in (Estimate(5.0, 2.0, 8.0), Estimate(1.006, 0.988, 1.024))
    )
    assert (wide.text, wide.detail) == ("5.0", "[2.0, 8.0]")
    assert (narrow.text, narrow.detail) == ("1.006", "[0.988, 1.024]")


def test_small_values_keep_two_digits_in_a_column_of_large_ones() -> None:
    """As parameters that train: a word's 800 beside an adapter's 500,000, in thousands."""
    column, cells = estimate_column(
        "trainable_parameters", "Parameters", "count", "min",
        [Estimate(800.0, 449.7, 1150.3), Estimate(494_208.0, 305_393.0, 683_023.0),
         Estimate(316_464.0, 162_281.0, 470_647.0),
         Estimate(0.0, 0.0, 0.0), Estimate(800.0), Estimate(8_046_480.0, 8_046_480.0, 8_046_480.0)],
    )  # fmt: skip
    assert column.unit == "k"
    assert [cell.text for cell in cells] == ["0.80", "494", "316", "0", "0.80", "8046"]
    assert [cell.detail for cell in cells] == ["[0.45, 1.15]", "[305, 683]", "[162, 471]", "", "", ""]
    _, steps = estimate_column(
        "train_steps", "Steps", "", None, [Estimate(5.0), Estimate(100.0, 90.0, 110.0)]
    )
    assert [cell.text for cell in steps] == ["5", "100"]


def test_numbers_as_text() -> None:
    assert [number(v) for v in (None, float("nan"), float("inf"), True, "x")] == ["--"] * 5
    assert [number(v) for v in (0, 0.0, 1234.5, 0.01234, 98.304)] == ["0", "0", "1234", "0.0123", "98.3"]
    assert number(0.00001234) == "1.23e−05"
    assert fixed(-0.001, 2) == "0.00"
    assert fixed(-1.5, 1) == "−1.5"
    assert interval(None, None, 2) == ""
    assert [p_value(p) for p in (None, 0.0004, 0.0123, 0.125, 0.5)] == [
        "--",
        "< 0.001",
        "0.012",
        "0.125",
        "0.50",
    ]
    assert (plural(1, "run"), plural(2, "run")) == ("1 run", "2 runs")
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def estimates() -> list[Estimate]:
    return [
        Estimate(0.0, 0.0, 0.0, 4, 2),
        Estimate(0.61, 0.52, 0.70, 4, 2),
        Estimate(0.55, 0.50, 0.61, 4, 2),
        Estimate(None),
        Estimate(0.61, None, None, 1, 1),
    ]


def sample() -> Table:
    found = estimates()
    names = ["base", HOSTILE, "lora_b", "=cmd()", "only"]
    return assemble(
        "t",
        "Caption <b>50 %</b> of A_b & c.",
        [
            (Column("arm", "Arm"), [text_cell(name) for name in names]),
            estimate_column("quality", "Quality", "", "max", found, [False, True, True, True, True]),
            estimate_column("train_seconds", "Training time", "s", "min", found, None),
            (Column("n", "n", numeric=True), [number_cell(4.0)] * 5),
        ],
        ("A note with 5 % & <i>.",),
    )


def test_best_and_second_are_marked_with_ties_and_without_the_reference() -> None:
    ranks = [row[1].rank for row in sample().rows]
    assert ranks == [None, 1, 2, None, 1]
    assert [row[2].rank for row in sample().rows] == [1, None, 2, None, None]
    _, same = estimate_column("x", "X", "", "max", [Estimate(1.0), Estimate(1.0)])
    assert [cell.rank for cell in same] == [None, None]  # nobody is best where all are equal


def test_csv_holds_raw_numbers_with_their_intervals() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(sample()))))
    assert list(rows[0]) == [
        "arm", "quality", "quality_low", "quality_high",
        "train_seconds", "train_seconds_low", "train_seconds_high", "n",
    ]  # fmt: skip
    assert float(rows[1]["quality_low"]) == 0.52
    assert rows[3]["quality"] == ""
    assert rows[4]["quality_low"] == ""
    assert rows[1]["arm"] == HOSTILE  # the name itself: CSV is read by programs


class Reader(HTMLParser):
    """Collects elements, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_shows_hostile_text_as_text() -> None:
    reader = Reader()
    reader.feed(to_html(sample()))
    assert reader.open == []
    assert "script" not in reader.tags
    assert "i" not in reader.tags
    assert "<script>alert(1)</script>" in reader.text
    assert "A note with 5 % & <i>." in reader.text
    assert "strong" in reader.tags
    assert "u" in reader.tags


def test_cells_bear_the_number_that_they_show_for_the_pages_script() -> None:
    head, *rows = re.findall(r"<tr>(.*?)</tr>", to_html(sample()), re.DOTALL)
    keys = [re.findall(r'data-sort="([^"]*)"', row) for row in rows]
    assert float(keys[1][0]) == pytest.approx(sample().rows[1][1].value)
    assert [len(row) for row in keys] == [3, 3, 3, 1, 3]  # a name has none, nor has what is missing
    assert ["data-first" in heading for heading in head.split("<th ")[1:]] == [False, True, False, False]


def test_what_the_marks_mean_is_said_in_each_language() -> None:
    """Markdown has no underline, so that the second best is in italics there."""
    table = sample()
    assert table.notes[-1] == "Bold: best mean; underlined: the second best."
    assert "underlined: the second best" in to_html(table)
    assert "in italics: the second best" in to_markdown(table)
    assert "underlined" not in to_markdown(table)
    plain = assemble("t", "C", [(Column("a", "A"), [text_cell("x")])])
    assert plain.notes == ()
    told = assemble(
        "t", "C", [estimate_column("q", "Q", "", "max", estimates())], (f"{marks(' of all')}. More.",)
    )
    assert told.notes == ("Bold: best mean of all; underlined: the second best. More.",)


def test_long_tables_are_folded() -> None:
    short, long = (
        assemble("t", "C", [(Column("a", "A"), [text_cell("x")] * count)])
        for count in (FOLD_FROM, FOLD_FROM + 1)
    )
    assert "<details" not in to_html(short)
    assert "<details" in to_html(long)


def test_markdown_keeps_its_columns_whatever_the_names() -> None:
    lines = to_markdown(sample()).splitlines()
    table = lines[:7]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [5] * 7
    assert "<script>" not in to_markdown(sample())
    assert "**" in table[3]


@pytest.mark.parametrize("text", ["a_b", "100%", "<b>", "x & y", "$1$", "#1", "\\", "~^", "{}", "a\nb", "|"])
def test_escapes(text: str) -> None:
    assert not re.search(r"[<>\"]", escape_html(text).replace("&lt;", ""))
    assert not re.search(r"(?<!\\)[|<_*`]", escape_markdown(text))


def test_a_ragged_table_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", "c", (Column("a", "A"), Column("b", "B")), ((Cell("x"),),))
