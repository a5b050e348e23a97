"""Figures of a report on axes of one's own: for a notebook, or for a paper with a layout of its own."""

from __future__ import annotations

from typing import Any

from study.report.analysis import Analysis, analyse
from study.report.anytime import compute_courses
from study.report.comparisons import Settings
from study.report.external import META
from study.report.figures.comparison import compute_intervals, draw_forest, draw_intervals, forest_row
from study.report.figures.curves import draw_courses
from study.report.figures.pareto import compute_front, draw_front
from study.report.figures.style import ArmStyle, arm_styles
from study.report.formatting import listing
from study.report.measures import measure
from study.report.prepared import ResultsLike, Rows, prepare
from trainables.errors import UserError


class Figures:
    """The figures of one study; each is drawn on matplotlib axes that are given, with the fonts that these have.

    Results are analysed once. Every arm has the colour and mark that it has in the report; `styles` has them.

    Attributes:
        rows: The runs as the report compares them.
        analysis: Everything that the report says of them.
        styles: By arm.
    """

    def __init__(self, results: ResultsLike, *, rng_seed: int = 0) -> None:
        """Analyses what ``study.load_results`` gives.

        Args:
            rng_seed: Seed of all resampling; 0 is the reports' own.

        Raises:
            UserError: The results are of other software, or there is no complete confirm run.
        """
        if META in (results.meta or {}):
            raise UserError(
                "these results were not made by a study, and only their report draws them; draw from their `frame`"
            )
        self.rows: Rows = prepare(results)
        if self.rows.confirm.empty:
            raise UserError(
                "there is no complete confirm run, and only those are compared; confirm the study first"
            )
        self.analysis: Analysis = analyse(self.rows, Settings(seed=rng_seed))
        self.styles: dict[str, ArmStyle] = arm_styles(self.rows.arms, self.rows.methods)

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be drawn: columns of the runs that some arm has a mean of."""
        known = (
            name for arm in self.analysis.arms for name, e in arm.estimates.items() if e.value is not None
        )
        return tuple(dict.fromkeys(known))

    def intervals(self, axes: Any, of: str | None = None) -> Any:
        """Draws the mean of each arm with its interval, and single runs as small dots.

        Args:
            axes: Of matplotlib.
            of: The measure, e.g. ``subject_fidelity``; None: what arms are ranked by.

        Returns:
            The axes.
        """
        name = self._known(of or self.analysis.primary)
        draw_intervals(
            axes, compute_intervals(self.rows, self.analysis, name), self.styles, measure(name).on_axis
        )
        return axes

    def differences(self, axes: Any) -> Any:
        """Draws how far the arm with the highest mean is ahead of every other, paired; returns the axes.

        Raises:
            UserError: There are no two trained arms with runs on the same subjects and seeds.
        """
        known = [c for c in self.analysis.against_best if c.difference.value is not None]
        if not known:
            raise UserError(
                "differences need two trained arms with confirm runs on the same subjects and seeds"
            )
        data = tuple(
            forest_row(self.rows, c, f"minus {self.styles[c.second].label}", c.second) for c in known
        )
        title = f"Δ {measure(self.analysis.primary).words}"
        draw_forest(axes, data, self.styles, title, self.analysis.margin)
        return axes

    def front(self, axes: Any, x: str | None = None, y: str | None = None) -> Any:
        """Draws two measures against each other, with intervals and the Pareto front; returns the axes.

        Args:
            axes: Of matplotlib.
            x: None: the cost that the report leads with.
            y: None: what arms are ranked by.
        """
        across, up = self._known(x or self.analysis.cost), self._known(y or self.analysis.primary)
        draw_front(axes, compute_front(self.analysis, across, up), self.styles)
        return axes

    def courses(self, axes: Any, of: str | None = None) -> Any:
        """Draws a measure against the share of training, in percent, with intervals as bands; returns the axes.

        Args:
            axes: Of matplotlib.
            of: None: what arms are ranked by.

        Raises:
            UserError: No run was evaluated on the way.
        """
        name = of or self.analysis.primary
        found = compute_courses(self.rows, name, self.analysis.settings.level)
        if not found.courses:
            raise UserError(
                f"no confirm run was judged by {name!r} on the way (set evaluation.at to see courses)"
            )
        places: dict[str, list[float | None]] = {
            c.arm: [100 * p.share for p in c.points] for c in found.courses
        }
        draw_courses(axes, found, self.styles, places)
        axes.set_xlabel("Share of training (%)")
        return axes

    def legend(self, axes: Any, **options: Any) -> Any:
        """Puts a legend of all arms on the axes; options: those of ``axes.legend``. Returns it."""
        from matplotlib.lines import Line2D

        handles = [
            Line2D(
                [],
                [],
                color=s.color,
                marker=s.marker,
                markerfacecolor=s.face,
                linestyle=s.line,
                label=s.label,
            )
            for s in self.styles.values()
        ]
        return axes.legend(handles=handles, **options)

    def _known(self, name: str) -> str:
        """The measure; raises UserError where no arm has a mean of it."""
        if name not in self.measures:
            raise UserError(f"no arm has a mean of {name!r}; there are {listing(self.measures)}")
        return name
