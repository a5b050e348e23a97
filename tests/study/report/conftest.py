"""Two made-up studies that several tests look at."""

from __future__ import annotations

import pytest

from study.report.analysis import Analysis
from study.report.prepared import Rows
from tests.helpers.made_reports import analysed
from tests.helpers.synthetic_results import Study


@pytest.fixture(scope="session")
def small() -> tuple[Rows, Analysis]:
    return analysed()


@pytest.fixture(scope="session")
def large() -> tuple[Rows, Analysis]:
    subjects = ("dog-1", "bird-1", "fox-1", "owl-1", "cat-9")
    return analysed(Study(trials=24, subjects=subjects, seeds=(100, 101, 102)))
