"""Two made-up studies that several tests look at, and a page of a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from study.report.analysis import Analysis
from study.report.prepared import Rows
from tests.helpers.made_reports import analysed
from tests.helpers.synthetic_results import Study

if TYPE_CHECKING:
    from tests.helpers.browser import Page


@pytest.fixture(scope="session")
def small() -> tuple[Rows, Analysis]:
    return analysed()


@pytest.fixture(scope="session")
def large() -> tuple[Rows, Analysis]:
    subjects = ("dog-1", "bird-1", "fox-1", "owl-1", "cat-9")
    return analysed(Study(trials=24, subjects=subjects, seeds=(100, 101, 102)))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A tab of a browser that a module's tests share."""
    from tests.helpers.browser import browser

    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture
def page(tab: Page, page_file: Path) -> Page:
    """The tab with the module's `page_file`, light and 1280 pixels wide."""
    tab.errors.clear()
    tab.requests.clear()
    tab.resize(1280)
    tab.prefer("light")
    tab.open(page_file)
    return tab
