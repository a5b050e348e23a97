"""The page in a real browser: sorted, filtered, pointed at, in the dark, on a phone, and without its script."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.report.content import Section
from study.report.figures.canvas import Figure, render
from study.report.pages import to_page
from study.report.sections import Report, compose
from study.report.tables import Cell, Column, Table, assemble, number_cell, text_cell
from tests.helpers.made_reports import QUICK
from tests.helpers.synthetic_results import Arm, Study, make_results

pytest.importorskip("aiohttp", reason="the DevTools protocol is spoken over a websocket")
from tests.helpers.browser import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

HOSTILE = "<script>document.title='taken'</script>"
AMOUNTS = (9.5, 10.25, None, 100.0, -3.0, 0.001, 2000.0, 33.0, None, 1e-7)
KEPT = ("glance", "cost", "made", "pairs")


def made_table() -> Table:
    """Ten rows whose numbers are in another order as text, two of them missing, and one that is only a text."""
    names = [f"arm-{k}" for k in range(8)] + ["arm-10", HOSTILE]
    amounts = [number_cell(value) for value in AMOUNTS]
    bounds = [Cell("> 1000"), *(Cell(str(k), value=k) for k in (7, 30, 200, 1, 5, 60, 8, 9)), Cell("--")]
    columns = [
        (Column("arm", "Arm"), [text_cell(name) for name in names]),
        (Column("amount", "Amount", "s", "max", numeric=True), amounts),
        (Column("bound", "To decide", numeric=True), bounds),
    ]
    return assemble("made", "A made-up table.", columns)


@pytest.fixture(scope="module")
def report() -> Report:
    arms = (
        Arm("base", "base"),
        *(Arm(f"lora-{k}", "lora", gain=0.3 + 0.05 * k, step_seconds=0.05 * 1.6**k) for k in range(9)),
    )
    found = compose(
        make_results(Study(arms=arms, trials=2, subjects=("a", "b", "c", "d"), curves=False)), QUICK
    )
    short = replace(made_table(), key="short", rows=made_table().rows[:4])
    made = Section("made", "Made up", tables=(made_table(), short))
    kept = [section for section in (*found.sections, made) if section.key in KEPT]
    return replace(found, sections=tuple(kept))


@pytest.fixture(scope="module")
def page_file(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(
        to_page(report, {figure.key: render(figure) for figure in report.figures}), encoding="utf-8"
    )
    return path


TABLE = "document.querySelector('[aria-labelledby=table-{}] table')"


def column(page: Page, key: str, place: int, *, shown: bool = False) -> list[str]:
    """The texts of a column from top to bottom; `shown`: of rows that are not filtered out."""
    rows = f"[...{TABLE.format(key)}.tBodies[0].rows]"
    rows += ".filter(row => row.offsetHeight > 0)" if shown else ""
    return list(page.run(f"{rows}.map(row => row.cells[{place}].textContent)"))


def centre(page: Page, element: str) -> tuple[float, float]:
    """Where the middle of an element is, in the window, to which it is scrolled."""
    page.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    x, y = page.run(
        f"(box => [(box.left + box.right) / 2, (box.top + box.bottom) / 2])({element}.getBoundingClientRect())"
    )
    return x, y


def heading(key: str, place: int) -> str:
    return f"{TABLE.format(key)}.tHead.rows[0].cells[{place}]"


# ------------------------------------------------------------------ quiet


def test_nothing_is_requested_and_nothing_complained_of(page: Page, page_file: Path) -> None:
    page.resize(390)
    page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith("data:image/")] == [page_file.as_uri()]
    assert page.run("document.title") != "taken"
    assert page.run("document.querySelectorAll('script').length") == 1
    assert page.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_a_script_that_is_not_the_pages_own_does_not_run(page: Page) -> None:
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.mine = 1'}))"
    )
    assert page.run("window.mine === undefined")
    assert any("Content Security Policy" in error for error in page.errors)


# ------------------------------------------------------------------ tables


def test_numbers_are_sorted_as_numbers_and_what_is_missing_comes_last(page: Page) -> None:
    plain = column(page, "made", 0)
    texts = dict(zip(plain, column(page, "made", 1), strict=True))
    known = [(value, name) for value, name in zip(AMOUNTS, plain, strict=True) if value is not None]
    missing = [name for value, name in zip(AMOUNTS, plain, strict=True) if value is None]
    page.click(*centre(page, heading("made", 1)))  # of which higher is better
    assert page.run(f"{heading('made', 1)}.getAttribute('aria-sort')") == "descending"
    assert column(page, "made", 0) == [name for _, name in sorted(known, reverse=True)] + missing
    page.click(*centre(page, heading("made", 1)))
    assert page.run(f"{heading('made', 1)}.getAttribute('aria-sort')") == "ascending"
    assert column(page, "made", 0) == [name for _, name in sorted(known)] + missing
    assert (
        dict(zip(column(page, "made", 0), column(page, "made", 1), strict=True)) == texts
    )  # rows stay whole
    page.click(*centre(page, heading("made", 1)))
    assert page.run(f"{heading('made', 1)}.getAttribute('aria-sort')") is None
    assert column(page, "made", 0) == plain


def test_a_bound_is_above_every_number(page: Page) -> None:
    page.click(*centre(page, heading("made", 2)))
    assert column(page, "made", 2) == ["1", "5", "7", "8", "9", "30", "60", "200", "> 1000", "--"]
    page.click(*centre(page, heading("made", 2)))
    assert column(page, "made", 2) == ["> 1000", "200", "60", "30", "9", "8", "7", "5", "1", "--"]


def test_names_are_sorted_by_the_numbers_in_them_and_by_keyboard(page: Page) -> None:
    page.click(*centre(page, heading("made", 1)))
    page.run(f"{heading('made', 0)}.querySelector('button').focus()")
    page.press("Enter")
    assert column(page, "made", 0)[-3:] == ["arm-6", "arm-7", "arm-10"]
    assert page.run(f"{heading('made', 0)}.getAttribute('aria-sort')") == "ascending"
    assert page.run(f"{heading('made', 1)}.getAttribute('aria-sort')") is None  # one column at a time


def test_a_measure_is_sorted_by_its_values_not_by_what_is_shown_of_them(page: Page, report: Report) -> None:
    (summary,) = next(section.tables for section in report.sections if section.key == "glance")
    place = [one.key for one in summary.columns].index("train_seconds")
    values = {row[0].text: row[place].value for row in summary.rows}
    page.click(*centre(page, heading("summary", place)))
    assert column(page, "summary", 0) == sorted(values, key=lambda arm: values[arm])  # type: ignore[arg-type, return-value]


def test_long_tables_are_filtered_by_words(page: Page) -> None:
    field = f"{TABLE.format('made')}.closest('.tabular').querySelector('input')"
    count = f"{TABLE.format('made')}.closest('.tabular').querySelector('output').textContent"
    assert page.run(count) == "10 rows"
    page.run(f"{field}.focus()")
    page.type("ARM-  200")
    assert column(page, "made", 0, shown=True) == ["arm-3", "arm-6"]  # to decide 200, and an amount of 2000
    assert page.run(count) == "2 of 10 rows"
    page.run("document.activeElement.blur()")
    page.click(*centre(page, heading("made", 1)))
    assert column(page, "made", 0, shown=True) == ["arm-6", "arm-3"]  # what is left, the largest amount first
    page.run(f"{field}.value = ''; {field}.dispatchEvent(new Event('input'))")
    assert len(column(page, "made", 0, shown=True)) == 10
    assert page.run(f"{TABLE.format('short')}.closest('.tabular').querySelector('input')") is None


# ------------------------------------------------------------------ figures

TIPS = "[...document.querySelectorAll('.tip')].filter(tip => getComputedStyle(tip).display !== 'none')"


def cost_figure(report: Report) -> Figure:
    return next(figure for figure in report.figures if figure.key == "pareto-quality-cost")


def test_a_point_tells_arm_value_interval_and_cost(page: Page, report: Report) -> None:
    spots = "[...document.querySelectorAll('#cost figure')][0].querySelectorAll('.spot')"
    assert page.run(f"{spots}.length") == 9
    named = page.run(f"[...{spots}].map(spot => spot.getAttribute('aria-label'))")
    at = next(k for k, text in enumerate(named) if text.startswith("lora-3:"))
    assert page.run(f"{TIPS}.length") == 0
    page.point(*centre(page, f"{spots}[{at}]"))
    (told,) = page.run(f"{TIPS}.map(tip => tip.textContent)")
    arm = report.analysis.arm("lora-3")
    assert told.startswith("lora-3")
    for name in ("quality", report.analysis.cost):
        estimate = arm.estimates[name]
        numbers = [float(text) for text in re.findall(r"\d+\.\d+", told)]
        for value in (estimate.value, estimate.low, estimate.high):
            assert value is not None
            assert any(abs(number - value) <= 0.051 * max(1.0, abs(value)) for number in numbers), (
                name,
                told,
            )
    page.point(2, 2)
    assert page.run(f"{TIPS}.length") == 0


def test_points_are_reached_by_keyboard(page: Page) -> None:
    figure = "document.querySelectorAll('#cost figure')[0]"
    assert page.run(f"{figure}.querySelectorAll('.spot[tabindex=\"0\"]').length") == 1  # one stop a figure
    page.run(f"{figure}.querySelector('.spot').focus()")
    (first,) = page.run(f"{TIPS}.map(tip => tip.textContent)")
    page.press("ArrowRight")
    (second,) = page.run(f"{TIPS}.map(tip => tip.textContent)")
    assert second != first
    page.press("Escape")
    assert page.run(f"{TIPS}.length") == 0


# ------------------------------------------------------------------ dark, narrow, bare


def look(page: Page, element: str, name: str) -> Any:
    return page.run(f"getComputedStyle({element}).getPropertyValue('{name}')")


def brightness(colour: str) -> float:
    return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3


def test_the_dark_page_is_dark_its_figures_too(page: Page) -> None:
    image = "document.querySelector('.plot img')"
    assert brightness(look(page, "document.body", "background-color")) > 240
    assert look(page, image, "filter") == "none"
    page.prefer("dark")
    assert brightness(look(page, "document.body", "background-color")) < 40
    assert brightness(look(page, "document.body", "color")) > 200
    assert "invert(1)" in look(page, image, "filter")


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_the_page_is_never_wider_than_the_screen(page: Page, width: int) -> None:
    page.resize(width)
    page.run("document.querySelectorAll('details').forEach(one => (one.open = true))")
    assert page.run("document.documentElement.scrollWidth") <= width
    # Every image and every line of text outside of tables, which scroll in boxes of their own, is seen whole.
    beyond = page.run(
        "[...document.querySelectorAll('p, li, dt, dd, h1, h2, h3, img, figcaption, summary, input, nav a')]"
        ".filter(one => one.offsetWidth && !one.closest('.scroll'))"
        ".map(one => [one.tagName, one.getBoundingClientRect().right]).filter(([, right]) => right > innerWidth + 0.5)"
    )
    assert beyond == []
    # So is what is shown of every spot.
    page.run("document.querySelectorAll('.tip').forEach(tip => (tip.style.display = 'block'))")
    beyond = page.run(
        "[...document.querySelectorAll('.tip')].filter(tip => tip.offsetWidth).map(tip => tip.getBoundingClientRect())"
        ".filter(box => box.left < 0 || box.right > innerWidth + 0.5).length"
    )
    assert beyond == 0
    assert page.run("document.documentElement.scrollWidth") <= width


def test_a_phone_gets_figures_in_one_column(page: Page) -> None:
    shown = "[...document.querySelectorAll('#cost .plot')].filter(plot => plot.offsetHeight > 0)"
    wide = page.run(f"{shown}.map(plot => plot.classList.contains('stacked'))")
    assert not any(wide)
    page.resize(390)
    narrow = page.run(f"{shown}.map(plot => plot.classList.contains('stacked'))")
    assert len(narrow) == len(wide)
    assert any(narrow)
    assert page.run(f"{shown}.every(plot => plot.offsetWidth > 340)")


def test_without_its_script_the_page_is_whole(page: Page, page_file: Path) -> None:
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(page_file)
        page.wait("document.querySelectorAll('.spot').length > 0")
        assert page.run("document.querySelectorAll('button, .filter').length") == 0
        assert len(column(page, "made", 0, shown=True)) == 10
        spot = "document.querySelectorAll('#cost .spot')[0]"
        page.point(*centre(page, spot))
        assert page.run(f"{TIPS}.length") >= 1
    finally:
        page.send("Emulation.setScriptExecutionDisabled", value=False)
