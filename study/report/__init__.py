"""Reports: statistics, tables, figures and pages from rows. Loads pandas and matplotlib only when building."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.report.build import ReportFiles, build_report

__all__ = ["ReportFiles", "build_report"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from study.report import build

        return getattr(build, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
