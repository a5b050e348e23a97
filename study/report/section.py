"""A section of the report: a heading and what stands under it."""

from __future__ import annotations

from dataclasses import dataclass

from study.report.figures.canvas import Figure, Skipped
from study.report.tables import Table


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, figures, tables and further paragraphs, in this order; `code` is titled verbatim
    text.
    """

    key: str
    title: str
    paragraphs: tuple[str, ...] = ()
    figures: tuple[Figure | Skipped, ...] = ()
    tables: tuple[Table, ...] = ()
    after: tuple[str, ...] = ()
    code: tuple[tuple[str, str], ...] = ()


def known(*found: Table | None) -> tuple[Table, ...]:
    """The tables that there is data for."""
    return tuple(table for table in found if table is not None)
