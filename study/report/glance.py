"""What is read at a glance: one figure, one table, and the cost."""

from __future__ import annotations

from collections.abc import Sequence

from study.report.analysis import Analysis, ArmResult
from study.report.content import Section
from study.report.figures.ranked import ranked_figure
from study.report.figures.style import ArmStyle
from study.report.formatting import number, plural, scale_for
from study.report.measures import measure
from study.report.order import RELATION_WORDS, places
from study.report.prepared import Rows
from study.report.results_tables import cut_note, measures, texts
from study.report.tables import Table, assemble
from study.statistics.power import MIN_SUBJECTS

GLANCE = "glance"  # key of the section, which pages show with the verdict


def glance_section(
    analysis: Analysis, styles: dict[str, ArmStyle], costs: Sequence[str], words: Sequence[str]
) -> Section | None:
    """The section; None where no arm has a result.

    Args:
        costs: Measures of cost that the table shows.
        words: Sentences on the cost.
    """
    table = summary_table(analysis, costs)
    if table is None:
        return None
    return Section(GLANCE, "At a glance", tuple(words), (ranked_figure(analysis, styles),), (table,))


def summary_table(analysis: Analysis, costs: Sequence[str]) -> Table | None:
    """The arms, best first: the measure that they are ranked by, how they stand to the best, and what they cost."""
    found = places(analysis)
    if not found:
        return None
    arms = [analysis.arm(place.arm) for place in found]
    shown = measures(arms, [analysis.primary])
    spent = measures(arms, list(dict.fromkeys(costs)))
    relations = [RELATION_WORDS[place.relation] for place in found]
    columns = [texts("arm", "Arm", [place.arm for place in found]), *shown]
    if len(found) > 1:
        columns.append(texts("relation", "Against the best", relations))
    columns += spent
    few = any(0 < len(result.subjects) < MIN_SUBJECTS for result in arms)
    notes = [
        f"Means over subjects; no interval: fewer than {MIN_SUBJECTS} subjects."
        if few
        else "Means over subjects with Student's 95 % intervals.",
        *filter(None, [_count_words(arms)]),
        *cut_note([*shown, *spent]),
    ]
    return assemble("summary", f"The arms by {measure(analysis.primary).words}, best first.", columns, notes)


def _count_words(arms: Sequence[ArmResult]) -> str:
    """How many subjects and seeds the means are over."""
    subjects = [len(result.subjects) for result in arms if result.subjects]
    seeds = [len(result.seeds) for result in arms if result.seeds]
    told = [
        plural(min(counts), what)
        if min(counts) == max(counts)
        else f"{min(counts)} to {plural(max(counts), what)}"
        for counts, what in ((subjects, "subject"), (seeds, "seed"))
        if counts
    ]
    return f"n: {', '.join(told)}." if told else ""


def spent_words(rows: Rows) -> tuple[str, ...]:
    """What all runs took together, the search's included."""
    seconds = rows.frame["device_seconds"].dropna()
    if seconds.empty:
        return ()
    total = float(seconds.sum())
    scale = scale_for("s", [total])
    of = "" if len(seconds) == len(rows.frame) else f" of {len(rows.frame):,}"
    runs = plural(len(seconds), "run") if not of else f"{len(seconds):,}{of} runs"
    return (
        f"Training of {runs}, the search's included, took {number(total, scale)} {scale.unit} of device time.",
    )
