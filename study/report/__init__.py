"""Reports: tables, figures and pages from rows. Loads pandas and matplotlib only when building.

What other packages use of it is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.report.build import ReportFiles, build_report
    from study.report.on_axes import Figures
    from study.report.report_folder import report_problems, reports_folder
    from study.report.within_budget import Recommendation, arm_within

__all__ = [
    "Figures",
    "Recommendation",
    "ReportFiles",
    "arm_within",
    "build_report",
    "report_problems",
    "reports_folder",
]


def __getattr__(name: str) -> Any:
    if name in ("ReportFiles", "build_report"):
        from study.report import build

        return getattr(build, name)
    if name == "Figures":
        from study.report import on_axes

        return on_axes.Figures
    if name in ("report_problems", "reports_folder"):
        from study.report import report_folder

        return getattr(report_folder, name)
    if name in ("Recommendation", "arm_within"):
        from study.report import within_budget

        return getattr(within_budget, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
