"""The report of results that this program did not make: the same tables, figures and verdicts under their own names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from matplotlib.figure import Figure as Canvas

from study.report import effect_tables
from study.report import results_tables as tables
from study.report.analysis import Analysis, ArmResult
from study.report.comparisons import Settings
from study.report.content import Report, Section
from study.report.external import External, analyse_external, external_of
from study.report.external_words import cost_words, judge_external, phrases_of, seeds_words
from study.report.figures import comparison, pareto
from study.report.figures.canvas import Figure, Skipped
from study.report.figures.style import ArmStyle, arm_styles
from study.report.formatting import MISSING, listing, plural
from study.report.glance import glance_section
from study.report.measures import Measure, external_measures, measure
from study.report.prepared import ResultsLike, Rows, distinct, prepare
from study.report.provenance import provenance_facts
from study.report.results_tables import Pair, counts, texts
from study.report.tables import Column, Table, assemble, marks, text_cell
from study.report.units import reworded, reworded_figure, reworded_table, reworder
from study.report.verdict import Verdict
from study.statistics.power import MIN_SUBJECTS

PANELS = 4  # costs beside each other
GLANCED = 3  # costs in the first table
_WIDE = 9  # measures in one table
_INTERVAL = "Means over subjects; Student's 95 % intervals over subjects, from 3 on; runs that completed."
_VALUES = "Means of the runs that completed; no intervals, since fewer than 3 subjects carry none."
_STAIRS = (
    "Dashed stairs: the Pareto front (large marks), arms that no other arm beats on both by their means."
)
_RANKS = f"{marks()}. Neither means that a difference is established."


def compose_external(results: ResultsLike, settings: Settings) -> Report:
    """Computes everything that the report says of results which are no study of this program, or several of them.

    Raises:
        UserError: What they bear of their origin is damaged.
    """
    rows = prepare(results)
    facts = external_of(rows.meta)
    assert facts is not None
    known = facts.shown_measures()
    with external_measures(known):
        report = _composed(rows, facts, settings)
        names = (
            report.study,
            *rows.arms,
            *map(str, distinct(rows.frame["subject"])),
            *(m.title for m in known),
        )
        phrases = phrases_of(facts)
        if measure(facts.primary).direction == "min":
            phrases = (*phrases, (r"highest mean", "lowest mean"))
        report = _reworded(report, reworder(names, phrases))
    return replace(report, sections=tuple(_drawn_with(known, section) for section in report.sections))


def _composed(rows: Rows, facts: External, settings: Settings) -> Report:
    analysis = analyse_external(rows, facts, settings)
    rows = replace(rows, arms=tuple(result.arm for result in analysis.arms))
    styles = arm_styles(rows.arms, rows.methods)
    tested = analysis.subjects >= MIN_SUBJECTS
    sections = (
        glance_section(analysis, styles, facts.of_role("cost")[:GLANCED], cost_words(facts, analysis)),
        _results(rows, facts, analysis, styles, tested),
        _costs(facts, analysis, styles),
        _qualities(analysis, styles),
        _pairs(facts, analysis, tested),
        _designs(facts),
        _data(rows, facts, analysis),
        _method(facts, analysis, settings),
        _provenance(rows),
    )
    verdict = judge_external(rows, facts, analysis)
    kept = tuple(section for section in sections if section is not None)
    return Report(facts.title, verdict, _summary(rows, facts), kept, rows, analysis)


def _reworded(report: Report, reword: Callable[[str], str]) -> Report:
    def section_of(one: Section) -> Section:
        return replace(
            one,
            paragraphs=reworded(one.paragraphs, reword),
            figures=tuple(reworded_figure(figure, reword) for figure in one.figures),
            tables=tuple(reworded_table(table, reword) for table in one.tables),
        )

    verdict = report.verdict
    return replace(
        report,
        verdict=Verdict(
            reword(verdict.headline), reworded(verdict.points, reword), reworded(verdict.warnings, reword)
        ),
        sections=tuple(map(section_of, report.sections)),
    )


def _drawn_with(known: Sequence[Measure], section: Section) -> Section:
    """A section whose figures know the measures when they are drawn, which is later."""

    def drawn(figure: Figure | Skipped) -> Figure | Skipped:
        if isinstance(figure, Skipped):
            return figure

        def change(plain: Callable[[], Canvas]) -> Canvas:
            with external_measures(known):
                return plain()

        return figure.redrawn(change)

    return replace(section, figures=tuple(map(drawn, section.figures)))


def _summary(rows: Rows, facts: External) -> tuple[tuple[str, str], ...]:
    known = rows.confirm[rows.confirm[facts.primary].notna()]
    return (
        ("Source", facts.source),
        ("Arms", str(known["arm"].nunique())),
        ("Runs", f"{len(known):,} of {facts.read:,}"),
        ("Subjects", str(known["subject"].nunique()) if facts.has_subjects else "not stated"),
        ("Seeds", str(known["seed"].nunique()) if facts.has_seeds else "not stated"),
    )


# ---------------------------------------------------------------------- results and costs


def _arms(facts: External, arms: Sequence[ArmResult]) -> list[Pair]:
    """Names of the arms, their runs, and their subjects where there are any."""
    return [
        texts("arm", "Arm", [result.arm for result in arms]),
        counts("n", "n", [result.n for result in arms]),
        *([counts("subjects", "Subjects", [len(r.subjects) for r in arms])] if facts.has_subjects else []),
    ]


def _arms_tables(facts: External, analysis: Analysis, tested: bool) -> list[Table]:
    """The main table, and a second one where all measures would be too many for it."""
    names = [facts.primary, *analysis.axes, *facts.of_role("cost")]
    others = list(facts.of_role("other"))
    if len(names) + len(others) <= _WIDE:
        names, others = names + others, []
    found = [_arms_table(facts, analysis, tested, "arms", "Arms by quality and cost.", names)]
    if others:
        found.append(_arms_table(facts, analysis, tested, "details", "Further measures.", others))
    return found


def _arms_table(
    facts: External, analysis: Analysis, tested: bool, key: str, caption: str, names: Sequence[str]
) -> Table:
    known = [result for result in analysis.arms if any(result.estimates[n].value is not None for n in names)]
    columns = _arms(facts, known) + tables.measures(known, names)
    notes = [
        _INTERVAL if tested else _VALUES,
        *tables.cut_note(columns),
        f"n: runs with a value of {measure(facts.primary).title}.",
        _RANKS,
    ]
    return assemble(key, caption, columns, notes)


def _results(
    rows: Rows, facts: External, analysis: Analysis, styles: dict[str, ArmStyle], tested: bool
) -> Section:
    differences = (comparison.differences_figure(rows, analysis, styles),) if tested else ()
    return Section(
        "results",
        "Results",
        figures=(comparison.intervals_figure(rows, analysis, styles), *differences),
        tables=tuple(_arms_tables(facts, analysis, tested)),
    )


def _costs(facts: External, analysis: Analysis, styles: dict[str, ArmStyle]) -> Section | None:
    names = facts.of_role("cost")
    if not names:
        return None
    figures: list[Figure | Skipped] = []
    if len(names) == 1:
        figures.append(_front(analysis, styles, names[0], analysis.primary, "pareto-quality-cost"))
    else:
        for k in range(0, len(names), PANELS):
            key = "pareto-costs" if not k else f"pareto-costs-{k // PANELS + 1}"
            found = pareto.cost_panels(key, analysis, styles, names[k : k + PANELS])
            figures.append(_captioned(found, analysis, names[k : k + PANELS]))
    return Section("cost", "Quality versus cost", figures=tuple(figures))


def _captioned(figure: Figure | Skipped, analysis: Analysis, names: Sequence[str]) -> Figure | Skipped:
    if isinstance(figure, Skipped):
        return figure
    title, costs = measure(analysis.primary).title, listing(measure(name).title for name in names)
    return replace(
        figure,
        caption=f"{title} against {costs}, means{pareto.interval_words(analysis)}. {_STAIRS}",
        alt=f"Scatter plots of {title} against {costs} with their Pareto fronts.",
    )


def _front(analysis: Analysis, styles: dict[str, ArmStyle], x: str, y: str, key: str) -> Figure | Skipped:
    front = pareto.compute_front(analysis, x, y, with_base=True)
    if not front.points:
        return Skipped(key, f"no run that completed has both {measure(x).title} and {measure(y).title}")
    text = f"{measure(y).title} against {measure(x).title}, means{pareto.interval_words(analysis)}."
    return pareto.one_panel(key, front, styles, f"{text} {_STAIRS}", f"Scatter plot of {text}")


def _qualities(analysis: Analysis, styles: dict[str, ArmStyle]) -> Section | None:
    """The first quality against each of the others: what is won in one may be lost in another."""
    names = [name for name in analysis.axes if measure(name).direction != "none"]
    if not names:
        return None
    figures = tuple(
        _front(
            analysis, styles, name, analysis.primary, f"pareto-qualities-{k}" if k > 1 else "pareto-qualities"
        )
        for k, name in enumerate(names, start=1)
    )
    return Section("qualities", "One quality against another", figures=figures)


# ---------------------------------------------------------------------- pairs


def _pairs(facts: External, analysis: Analysis, tested: bool) -> Section | None:
    if not analysis.pairs:
        return None
    if not tested:
        words = (
            f"None of the {plural(len(analysis.pairs), 'pair')} of arms was tested: that takes {MIN_SUBJECTS} subjects "
            f"that both have, and the best-covered pair has {analysis.subjects}."
        )
        return Section("pairs", "Paired comparisons", (words,))
    note = tables.test_note(analysis)
    caption = f"{analysis.best} against every other arm."
    found = [tables.comparison_table("against-best", caption, analysis.against_best, (note,))]
    pairs = tables.comparison_table(
        "pairs", "All pairs of arms.", analysis.pairs, ("To be read as the table of the best arm.",)
    )
    found.append(replace(pairs, alone=(note,)))
    if any(standing.rank is not None for standing in analysis.standings):
        found += [effect_tables.effects_table(analysis), _ranking(facts, analysis)]
    return Section("pairs", "Paired comparisons", tables=tuple(found))


def _ranking(facts: External, analysis: Analysis) -> Table:
    table = effect_tables.ranking_table(analysis)
    dropped = {"on_front_with_search"} | (set() if facts.cost else {"on_front"})
    kept = [k for k, column in enumerate(table.columns) if column.key not in dropped]
    cost = (
        f" On the front: share in which no arm is both better and lower in {measure(facts.cost).title}."
        if facts.cost
        else ""
    )
    note = (
        "Over resamples of the subjects, the same for every arm. Rank: mean and 95 % of the resamples. Best: share "
        f"with the best mean {measure(facts.primary).title}.{cost} Shares of few subjects are too sure of themselves: "
        "the tests above are not."
    )
    return replace(
        table,
        columns=tuple(table.columns[k] for k in kept),
        rows=tuple(tuple(row[k] for k in kept) for row in table.rows),
        notes=(note,),
    )


# ---------------------------------------------------------------------- the data, and how to read it


def _designs(facts: External) -> Section | None:
    """In what the studies differ that stand side by side; of others' results what each is of."""
    if not facts.studies:
        return None
    rows = facts.differences
    what = "What" if facts.others else "Field of the study file"
    columns = [texts("field", what, [name for name, _ in rows])]
    columns += [
        texts(f"study_{k + 1}", study, [values[k] for _, values in rows])
        for k, study in enumerate(facts.studies)
    ]
    if facts.others:
        caption = "What each report is of, and which of its fields and columns mean what."
        return Section("designs", "The reports", tables=(assemble("designs", caption, columns),))
    words = (
        "What the study files say differently, beside names and arms. Arms of several studies differ in all of this at "
        "once, and no difference between them is the effect of one of these."
        if rows
        else "The study files agree in model, subjects, seeds, training, budget and evaluation.",
    )
    table = assemble("designs", "In what the studies differ.", columns)
    return Section("designs", "The studies", words, tables=(table,) if rows else ())


def _data(rows: Rows, facts: External, analysis: Analysis) -> Section:
    found = [_coverage(rows, facts, analysis)]
    if facts.fields and not facts.studies:
        found.append(_mapping(facts))
    if facts.left_out:
        found.append(_left_out(facts))
    words = [f"The source is {facts.source}: {facts.read:,} runs were read.", seeds_words(facts)]
    return Section("data", "The data", tuple(word for word in words if word), tables=tuple(found))


def _coverage(rows: Rows, facts: External, analysis: Analysis) -> Table:
    """What there is of each arm."""
    frame = rows.frame
    arms = rows.arms
    complete = frame[frame["state"] == "COMPLETE"]

    def number_of(own: object) -> list[int]:
        sizes = own.groupby("arm").size()  # type: ignore[attr-defined]
        return [int(sizes.get(arm, 0)) for arm in arms]

    results = {result.arm: result for result in analysis.arms}
    columns = [
        texts("arm", "Arm", list(arms)),
        counts("runs", "Runs", number_of(frame)),
        counts("complete", "Completed", number_of(complete)),
        counts("n", f"with {measure(facts.primary).title}", [results[arm].n for arm in arms]),
        *(
            [counts("subjects", "Subjects", [len(results[arm].subjects) for arm in arms])]
            if facts.has_subjects
            else []
        ),
        *([counts("seeds", "Seeds", [len(results[arm].seeds) for arm in arms])] if facts.has_seeds else []),
    ]
    return assemble("coverage", "What there is of each arm.", columns)


def _mapping(facts: External) -> Table:
    """Which fields and metrics stand for what."""
    told = [(role, listing(facts.fields.get(role, ())) or MISSING) for role in ("arm", "subject", "seed")]
    columns = [
        texts("role", "What", [role for role, _ in told]),
        texts("field", f"{facts.field_word[:1].upper()}{facts.field_word[1:]}", [name for _, name in told]),
    ]
    notes = (f"{MISSING}: none was named.",) if any(name == MISSING for _, name in told) else ()
    return assemble("mapping", "Which fields say what.", columns, notes)


def _left_out(facts: External) -> Table:
    columns = [
        texts("reason", "Runs that", [item.reason for item in facts.left_out]),
        counts("runs", "Runs", [item.runs for item in facts.left_out]),
        texts("examples", "For example", [", ".join(item.examples) for item in facts.left_out]),
    ]
    title = measure(facts.primary).title
    return assemble("left-out", f"Runs that are not compared by {title}, and why.", columns)


def _method(facts: External, analysis: Analysis, settings: Settings) -> Section:
    about = measure(facts.primary)
    percent = f"{settings.level:.0%}".replace("%", " %")
    margin = (
        f"equivalent (two one-sided t tests show that the difference lies within ±{analysis.margin:g}, which whoever "
        "made the report has stated; it goes before better and worse) "
        if analysis.margin is not None
        else ""
    )
    cut = (
        ""
        if facts.has_designs
        else " They are not cut at what is possible, which is not known of others' measures."
    )
    origin = (
        "What it measures is said in the reports of the studies, which also show their searches."
        if facts.has_designs
        else "What it measures, and how, is the source's: this program has computed the comparison alone."
    )
    how = "by subject and seed" if facts.has_seeds else "by subject"
    paragraphs = (
        f"Arms are ranked by {about.title}, of which {about.better} is better. {origin}",
        f"The unit is the subject: runs of one subject are averaged, since other seeds of it are no further subjects. "
        f"Intervals: Student's on the subjects' means, {percent}, from {MIN_SUBJECTS} subjects on; with fewer there "
        "are values only. They assume that subjects are drawn independently of each other, and speak of subjects like "
        f"these.{cut}",
        f"Differences are paired {how} and averaged within each subject; two-sided t test over subjects, Holm's "
        f"adjustment over {analysis.family}, and every verdict is read off from it. Verdicts: better and worse "
        f"(adjusted p below 0.05), {margin}and not enough, with the number of subjects that would decide it. "
        f"Resampling: {settings.resamples:,} resamples of subjects, seed {settings.seed}.",
    )
    return Section("method", "How to read this report", paragraphs, tables=(_measures(facts),))


def _measures(facts: External) -> Table:
    found = [measure(item.name) for item in facts.measures]
    columns = [
        texts("name", "Column", [item.name for item in found]),
        texts("title", "Measure", [item.title for item in found]),
        texts("role", "Shown as", [item.role for item in facts.measures]),
        (Column("better", "Better"), [text_cell(item.better) for item in found]),
        texts("description", "Meaning", [item.description or MISSING for item in found]),
    ]
    return assemble("measures", "Measures.", columns)


def _provenance(rows: Rows) -> Section | None:
    meta = {name: value for name, value in rows.meta.items() if name != "external"}
    known = provenance_facts(meta)
    if not known:
        return None
    columns = [texts("what", "What", [n for n, _ in known]), texts("value", "Value", [v for _, v in known])]
    table = assemble("provenance", "Where the numbers come from.", columns)
    return Section("provenance", "Provenance", tables=(table,))
