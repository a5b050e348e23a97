"""What a report consists of: its verdict, and sections of paragraphs, figures and tables; nothing is drawn yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from study.report.analysis import Analysis
from study.report.figures.canvas import Figure, Skipped
from study.report.gallery import Gallery, Shot
from study.report.prepared import Rows
from study.report.tables import Table
from study.report.verdict import Verdict


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


@dataclass(frozen=True)
class Report:
    """All content; nothing is drawn yet.

    Attributes:
        class_shots: Pictures beside the gallery's, with their runs, which the report's folder keeps.
    """

    study: str
    verdict: Verdict
    summary: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    rows: Rows
    analysis: Analysis
    gallery: Gallery = field(default_factory=Gallery)
    class_shots: tuple[tuple[str, Shot], ...] = ()

    @property
    def figures(self) -> list[Figure]:
        """All figures that there is data for."""
        return [f for section in self.sections for f in section.figures if isinstance(f, Figure)]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [table for section in self.sections for table in section.tables]


def known(*found: Table | None) -> tuple[Table, ...]:
    """The tables that there is data for."""
    return tuple(table for table in found if table is not None)
