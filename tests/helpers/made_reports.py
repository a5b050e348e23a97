"""Analyses of made-up studies, for the tests of the report."""

from __future__ import annotations

from dataclasses import replace

from study.report.analysis import Analysis, analyse
from study.report.comparisons import Settings
from study.report.prepared import Rows, prepare
from study.report.sections import Report
from study.report.tables import Table
from study.results.frames import Results
from tests.helpers.synthetic_results import Study, make_results

QUICK = Settings(resamples=300)


def analysed(study: Study = Study(), seed: int = 0) -> tuple[Rows, Analysis]:  # noqa: B008
    """A made-up study's rows and their analysis."""
    rows = prepare(make_results(study, seed))
    return rows, analyse(rows, QUICK)


def edited(results: Results, **columns: object) -> Results:
    """The results with some columns replaced."""
    return replace(results, frame=results.frame.assign(**columns))


def table(report: Report, key: str) -> Table:
    """A table of a report."""
    return next(table for table in report.tables if table.key == key)


def cells(found: Table, key: str) -> list[str]:
    """The texts of a column."""
    place = [column.key for column in found.columns].index(key)
    return [row[place].text for row in found.rows]
