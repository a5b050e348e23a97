"""The gallery in a real browser: a row leads to its pictures, and a picture opens beside the base model's."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.report import build as build_module
from study.report.build import build_report
from study.report.figures import canvas
from tests.helpers.synthetic_results import ARMS, PROMPTS, Study, make_results

pytest.importorskip("aiohttp", reason="the DevTools protocol is spoken over a websocket")
from tests.helpers.browser import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

DRAWING = b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'
ZOOM = "document.querySelectorAll('.zoom')[{}]"


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    (folder / "images").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        drawn = canvas.Rendering(dict.fromkeys(canvas.FORMATS, DRAWING), (canvas.View(DRAWING),))
        patch.setattr(build_module, "render", lambda figure: drawn)
        study = Study(arms=ARMS[:3], trials=1, curves=False, folder=folder / "images")
        return build_report(make_results(study), folder / "report").html


def box(page: Page, element: str) -> dict[str, float]:
    """Where an element is in the window."""
    return dict(page.run(f"(box => ({{left: box.left, top: box.top, width: box.width, height: box.height}}))"
                         f"({element}.getBoundingClientRect())"))  # fmt: skip


def click(page: Page, element: str) -> None:
    """Clicks in the middle of an element, to which the page is scrolled."""
    page.run(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    found = box(page, element)
    page.click(found["left"] + found["width"] / 2, found["top"] + found["height"] / 2)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_picture_opens_beside_the_base_models_and_closes(page: Page, width: int) -> None:
    page.resize(width)
    place = len(PROMPTS) + 1  # of the second arm the second prompt, after the base model's line
    zoom, picture = ZOOM.format(place), f"{ZOOM.format(place)}.querySelector('img')"
    small = box(page, picture)["width"]
    click(page, picture)
    page.wait(f"{zoom}.open")
    large = box(page, picture)
    beside = box(page, f"{zoom}.querySelector('.beside')")
    assert large["width"] > 1.9 * small
    assert (beside["top"], beside["width"]) == pytest.approx((large["top"], large["width"]))
    assert beside["left"] >= large["left"] + large["width"]
    assert large["left"] >= 0
    assert beside["left"] + beside["width"] <= width
    shown = (
        f"getComputedStyle({zoom}.querySelector('{{}}')).backgroundImage.startsWith('url(\"data:image/webp')"
    )
    assert page.run(shown.format(".beside"))
    assert page.run(shown.format(".held-out"))
    words = page.run(f"{zoom}.querySelector('.about').innerText")
    assert ARMS[1].name in words
    assert "seed 100" in words
    page.click(large["left"] + 5, large["top"] + large["height"] - 5)  # the picture itself closes it
    page.wait(f"!{zoom}.open")
    page.run(f"{zoom}.querySelector('summary').focus()")  # so do keys
    page.press("Enter")
    page.wait(f"{zoom}.open")
    page.press("Enter")
    page.wait(f"!{zoom}.open")
    assert page.errors == []


def test_a_row_of_the_table_leads_to_its_pictures(page: Page) -> None:
    link = "[...document.querySelectorAll('[aria-labelledby=table-arms] a')].at(-1)"
    target = page.run(f"{link}.hash.slice(1)")
    click(page, link)
    page.wait(f"location.hash === '#{target}'")
    line = f"document.getElementById('{target}')"
    page.wait(f"(box => box.top >= 0 && box.bottom <= innerHeight)({line}.getBoundingClientRect())")
    assert page.run(f"{line}.querySelectorAll('img').length") == len(PROMPTS)
    assert page.run(f"{line}.cells[0].textContent") == ARMS[2].name


def test_pictures_have_three_sizes_and_the_page_stays_as_wide_as_the_screen(page: Page) -> None:
    page.resize(390)
    widths = []
    for name in ("small", "medium", "large"):
        page.run(f"document.querySelector('.gallery > .size.{name}').click()")
        widths.append(box(page, "document.querySelector('.zoom img')")["width"])
        assert page.run("document.documentElement.scrollWidth") <= 390
    assert widths == sorted(set(widths))
    assert page.errors == []
