"""The report as a sequence of sections: what HTML and Markdown both show, in the order a reader wants it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from study.report import cost_tables, design_tables, effect_tables, image_tables
from study.report import results_tables as tables
from study.report.analysis import DEFAULTS, Analysis, analyse
from study.report.anytime import anytime_table, few_points_words
from study.report.best_steps import best_steps, best_steps_table, best_steps_words, restored_words
from study.report.comparisons import Settings
from study.report.content import Report, Section, known
from study.report.data_sets import (
    base_words,
    character_scores,
    characters_table,
    data_set_words,
    data_sets_table,
)
from study.report.design import PhaseDesign, design_of
from study.report.downstream import DOWNSTREAM, DownstreamPart, downstream_part
from study.report.factor_tables import factor_effects_table
from study.report.factors import factors_of, other_fields
from study.report.figures import comparison, curves, inference, pareto, samples
from study.report.figures.canvas import Figure
from study.report.figures.class_grids import kept_shots
from study.report.figures.style import ArmStyle, arm_styles
from study.report.foreign import foreign_table, foreign_words
from study.report.formatting import plural
from study.report.gallery import Gallery, compute_gallery
from study.report.glance import glance_section, spent_words
from study.report.hypotheses import judge_hypotheses
from study.report.hypothesis_tables import hypothesis_tables, hypothesis_words
from study.report.image_levels import class_sample, components, prompt_scores
from study.report.inference_steps import WORDS, judged_at, step_curves, step_tables
from study.report.measures import DATA_SET
from study.report.prepared import ResultsLike, Rows, distinct, prepare, section
from study.report.provenance import provenance_facts
from study.report.search_sections import effects_section, rungs_section, search_section
from study.report.units import reworded, reworded_figure, reworded_table, reworder
from study.report.verdict import Verdict, cost_words, judge
from study.statistics.power import MIN_SUBJECTS
from study.storage.run_key import END_WORDS
from trainables.evaluation.metrics_table import QUALITY
from trainables.evaluation.quality import DATA_SET_RULE
from trainables.evaluation.quality import RULE as QUALITY_RULE

SAMPLES = "samples"  # key of the section that a page shows as its gallery
DATA_SETS = "data-sets"  # key of the section that is written for data sets alone
HYPOTHESES = "hypotheses"  # of the section whose sentences are the user's


def compose(results: ResultsLike, settings: Settings = DEFAULTS) -> Report:
    """Computes everything that the report says."""
    rows = prepare(results)
    analysis, design, gallery = analyse(rows, settings), design_of(rows), compute_gallery(rows)
    styles = arm_styles(rows.arms, rows.methods)
    downstream = downstream_part(rows, settings, styles)
    sections = [
        _glance(rows, analysis, styles),
        _results(rows, analysis, styles, design),
        _hypotheses(rows, settings),
        downstream.section if downstream else None,
        _fronts(analysis, styles),
        _samples(rows, gallery),
        _data_sets(rows, settings.level) if rows.of_data_sets else None,
        _factor_effects(analysis),
        _schedules(rows, analysis, styles),
        _pairs(analysis),
        _foreign(rows),
        _curves(rows, analysis, styles),
        _inference(rows, analysis, styles),
        _images(rows, analysis),
        rungs_section(rows, settings.level),
        search_section(rows, analysis, styles, settings),
        effects_section(rows, styles, settings.level),
        _exclusions(analysis),
        _method(rows, analysis, settings, design),
        _appendix(rows),
        _provenance(rows),
    ]
    shown = tuple(one for one in sections if one)
    report = Report(rows.study, judge(rows, analysis), _summary(rows), shown, rows, analysis, gallery)
    report = _in_words_of_data_sets(report) if rows.of_data_sets else report
    return _with_downstream(report, downstream) if downstream else report


def _with_downstream(report: Report, part: DownstreamPart) -> Report:
    """The report with what its head and its verdict say of classifiers."""
    verdict = report.verdict
    verdict = replace(
        verdict,
        headline=verdict.headline + part.headline,
        points=(*((part.point,) if part.point else ()), *verdict.points),
        warnings=(*part.warnings, *verdict.warnings),
    )
    return replace(
        report,
        summary=(*report.summary, part.fact),
        verdict=verdict,
        class_shots=kept_shots(part.grids),
    )


def _in_words_of_data_sets(report: Report) -> Report:
    """The report in the terms of data sets; what is written for them alone, and the quality's rule, are so already."""
    rows = report.rows
    reword = reworder((report.study, *rows.arms, *map(str, distinct(rows.frame["subject"]))))

    def section_of(one: Section) -> Section:
        if one.key in (DATA_SETS, HYPOTHESES, DOWNSTREAM):
            return one
        rule = 1 if one.key == "method" else 0
        return replace(
            one,
            title=reword(one.title),
            paragraphs=one.paragraphs[:rule] + reworded(one.paragraphs[rule:], reword),
            figures=tuple(reworded_figure(figure, reword) for figure in one.figures),
            tables=tuple(reworded_table(table, reword) for table in one.tables),
            after=reworded(one.after, reword),
        )

    verdict = report.verdict
    return replace(
        report,
        verdict=Verdict(
            reword(verdict.headline), reworded(verdict.points, reword), reworded(verdict.warnings, reword)
        ),
        summary=tuple(
            (name, reword(value) if name == "Confirm" else value) for name, value in report.summary
        ),
        sections=tuple(map(section_of, report.sections)),
    )


def _summary(rows: Rows) -> tuple[tuple[str, str], ...]:
    frame = rows.frame
    confirm = frame[frame["phase"] == "confirm"]
    states = frame["state"].value_counts()
    ended = ", ".join(f"{states[s]} {s}" for s in (*END_WORDS, "RUNNING") if s in states)
    facts = [
        ("Arms", str(len(rows.arms))),
        ("Runs", f"{len(frame)} ({ended})" if ended else str(len(frame))),
        (
            "Search",
            plural(int(frame[frame["phase"] == "search"].groupby("arm")["trial"].nunique().sum()), "trial"),
        ),
        (
            "Confirm",
            f"{plural(confirm['subject'].nunique(), 'subject')} × {plural(confirm['seed'].nunique(), 'seed')}"
            if len(confirm)
            else "no runs yet",
        ),
    ]
    model = section(rows.meta, "spec", "model")
    if not model.get("path"):
        return tuple(facts)
    bits = model.get("quantization")
    name = f"{model['path']}, weights quantised ({bits})" if bits else str(model["path"])
    return (*facts, ("Base model", name))


def _glance(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Section | None:
    costs = (analysis.cost, analysis.flops, "peak_memory_bytes")
    return glance_section(analysis, styles, costs, (*cost_words(analysis), *spent_words(rows)))


def _results(
    rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle], design: Sequence[PhaseDesign]
) -> Section:
    if rows.confirm.empty:
        text = "There is no complete confirm run, so that there is nothing to compare."
        return Section("results", "Results", (text,), tables=(tables.arms_table(analysis),))
    return Section(
        "results",
        "Results",
        figures=(
            comparison.intervals_figure(rows, analysis, styles),
            comparison.differences_figure(rows, analysis, styles),
        ),
        tables=(
            tables.arms_table(analysis, image_tables.class_words(class_sample(rows))),
            *known(
                design_tables.design_table(design),
                design_tables.factors_table(factors_of(rows), other_fields(rows)),
            ),
            *((tables.choice_table(analysis.choice),) if analysis.choice else ()),
            tables.details_table(analysis, design_tables.distances_words(design)),
        ),
    )


def _hypotheses(rows: Rows, settings: Settings) -> Section | None:
    judged = judge_hypotheses(rows, settings.level)
    if not judged:
        return None
    found = hypothesis_tables(judged, "data set" if rows.of_data_sets else "subject")
    return Section(HYPOTHESES, "Hypotheses", hypothesis_words(judged), tables=found)


def _fronts(analysis: Analysis, styles: dict[str, ArmStyle]) -> Section:
    return Section(
        "cost",
        "Quality versus cost",
        figures=(
            pareto.quality_cost_figure(analysis, styles),
            pareto.tuning_figure(analysis, styles),
            pareto.fidelity_figure(analysis, styles),
            pareto.costs_figure(analysis, styles),
        ),
        tables=known(cost_tables.costs_table(analysis), cost_tables.tuned_table(analysis)),
    )


def _images(rows: Rows, analysis: Analysis) -> Section | None:
    """Images as levels of the analysis, and what could be reached."""
    # Prompts are crossed with subjects; data sets have captions of their own each.
    spreads = () if rows.of_data_sets else components(rows)
    best = analysis.arm(analysis.best).estimates[QUALITY].value if analysis.best else None
    spread = image_tables.components_table(spreads) if spreads else None
    found = known(image_tables.ceilings_table(rows), spread)
    if not found:
        return None
    return Section("images", "Images and ceilings", image_tables.ceiling_words(rows, best), tables=found)


def _appendix(rows: Rows) -> Section | None:
    """The long table of scores by prompt."""
    prompts = prompt_scores(rows)
    if not prompts:
        return None
    return Section("prompts", "Appendix: prompts", tables=(image_tables.prompts_table(prompts),))


def _data_sets(rows: Rows, level: float) -> Section:
    """Distances to held-out images, and scores by character where characters are named."""
    found = character_scores(rows)
    characters = characters_table(found) if found else None
    shown = known(data_sets_table(rows, level), characters)
    return Section(DATA_SETS, "Data sets", data_set_words(rows, found), tables=shown)


def _samples(rows: Rows, gallery: Gallery) -> Section:
    return Section(SAMPLES, "Sample images", figures=tuple(samples.sample_figures(rows, gallery)))


def _factor_effects(analysis: Analysis) -> Section | None:
    if not analysis.factor_effects:
        return None
    return Section("factor-effects", "Factors", tables=(factor_effects_table(analysis),))


def _schedules(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Section:
    figure = comparison.schedules_figure(rows, analysis, styles)
    found = (tables.schedules_table(analysis),) if analysis.schedules else ()
    return Section("schedules", "Cosine versus constant", figures=(figure,), tables=found)


_AS_ABOVE = "To be read as the table of the best arm against the others."


def _pairs(analysis: Analysis) -> Section | None:
    if not analysis.against_base and not analysis.pairs:
        return None
    found = []
    if analysis.against_base:
        caption = "Every trained arm against the untrained base model."
        found.append(
            tables.comparison_table("against-base", caption, analysis.against_base, (tables.BASE_NOTE,))
        )
    if analysis.pairs:
        caption, note = f"{analysis.best} against every other arm.", tables.test_note(analysis)
        found.append(tables.comparison_table("against-best", caption, analysis.against_best, (note,)))
        pairs = tables.comparison_table("pairs", "All pairs of trained arms.", analysis.pairs, (_AS_ABOVE,))
        found.append(replace(pairs, alone=(note,)))
        if analysis.pairs_subject_prompt:
            caption = "All pairs of trained arms by subject and prompt alone, blind to the class, adjusted likewise."
            blind = tables.comparison_table(
                "pairs-subject-prompt", caption, analysis.pairs_subject_prompt, (_AS_ABOVE,)
            )
            found.append(replace(blind, alone=(note,)))
        if any(standing.rank is not None for standing in analysis.standings):
            found += [effect_tables.effects_table(analysis), effect_tables.ranking_table(analysis)]
    return Section("pairs", "Paired comparisons", tables=tuple(found))


def _foreign(rows: Rows) -> Section | None:
    table = foreign_table(rows)
    if table is None:
        return None
    return Section("foreign", "Weights from elsewhere", foreign_words(rows), tables=(table,))


def _curves(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Section:
    data = curves.known_courses(rows, analysis)
    figures = curves.curves_figure(data, styles), curves.anytime_figure(data, analysis, styles)
    drawn = any(
        isinstance(figure, Figure) for figure in figures
    )  # else the figure's reason says how to get it
    found = best_steps(rows, analysis.settings.level)
    words = (*(few_points_words(data) if drawn else ()), *best_steps_words(found))
    shown = known(anytime_table(data), best_steps_table(found))
    return Section("curves", "Quality on the way", words, figures, shown)


def _inference(rows: Rows, analysis: Analysis, styles: dict[str, ArmStyle]) -> Section | None:
    if not (found := step_curves(rows, analysis.settings.level)):
        return None
    figures = (inference.inference_figure(found, styles, judged_at(rows)),)
    return Section("inference-steps", "Quality against inference steps", WORDS, figures, step_tables(found))


def _exclusions(analysis: Analysis) -> Section:
    if not analysis.exclusions:
        return Section(
            "exclusions",
            "Failures and exclusions",
            ("None: every run completed, and every confirm run was measured.",),
        )
    return Section("exclusions", "Failures and exclusions", tables=(tables.exclusions_table(analysis),))


def _method(rows: Rows, analysis: Analysis, settings: Settings, design: Sequence[PhaseDesign]) -> Section:
    rule = DATA_SET_RULE if rows.of_data_sets else rows.meta.get("quality_rule")
    of_base = base_words(rows)
    percent = f"{settings.level:.0%}".replace("%", " %")
    paragraphs = (
        str(rule) if rule else QUALITY_RULE,
        *((of_base,) if analysis.against_base else ()),
        design_tables.phases_words(rows, design),
        *restored_words(rows),
        f"The unit is the subject: runs of one subject are averaged, since other seeds of it are no further subjects. "
        f"Intervals: Student's on the subjects' means, {percent}, from {MIN_SUBJECTS} subjects on; with fewer "
        "there are values only. They speak of subjects like these, of the configurations that the searches chose, and "
        "of these prompts; they assume that subjects are drawn independently of each other.",
        "Differences are paired by subject and seed and averaged within each subject; two-sided t test over subjects, "
        f"Holm's adjustment over {analysis.family}, and every verdict is read off from it. Verdicts: better and worse "
        f"(adjusted p below 0.05), {_equivalent(analysis)}and not enough, with the number of subjects that would "
        "decide it. Subject and prompt alone, blind to the class, are adjusted likewise, by themselves. The untrained "
        "base model is compared in a family of its own, in fidelities that are not clipped. "
        f"Resampling: {settings.resamples:,} resamples of subjects, seed {settings.seed}.",
    )
    return Section(
        "method",
        "How to read this report",
        paragraphs,
        tables=(tables.measures_table(DATA_SET if rows.of_data_sets else ()),),
    )


def _equivalent(analysis: Analysis) -> str:
    if analysis.margin is None:
        return ""
    return (
        f"equivalent (two one-sided t tests show that the difference lies within ±{analysis.margin:g}, `report.margin` "
        "in the study file, adjusted likewise; it goes before better and worse) "
    )


def _provenance(rows: Rows) -> Section | None:
    known = provenance_facts(rows.meta)
    spec = rows.meta.get("spec")
    code = (("The frozen study file", json.dumps(spec, indent=1, ensure_ascii=False)),) if spec else ()
    if not known and not code:
        return None
    table = tables.assemble(
        "provenance",
        "Where the numbers come from.",
        [
            (tables.Column("what", "What"), [tables.text_cell(name) for name, _ in known]),
            (tables.Column("value", "Value"), [tables.text_cell(value) for _, value in known]),
        ],
    )
    return Section("provenance", "Provenance", tables=(table,) if known else (), code=code)
