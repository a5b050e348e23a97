"""The tables of the report, from the analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from study.report.analysis import Analysis, ArmResult
from study.report.caveats import spread_words
from study.report.choice import Choice
from study.report.comparisons import Comparison
from study.report.formatting import (
    MISSING,
    PLAIN,
    Scale,
    about,
    decimals_for,
    interval,
    p_value,
    scale_for,
)
from study.report.measures import (
    ALL,
    ANCHOR_ERRORS,
    BOUNDED,
    CEILINGS,
    CLASS_IMAGE_COSTS,
    CLASS_KEPT,
    COSTS,
    FIDELITIES,
    MAIN_QUALITY,
    MORE_COSTS,
    MORE_QUALITY,
    SCALED,
    SCORES,
    SUBJECT_PROMPT,
    TUNED_FLOPS,
    TUNED_SECONDS,
    measure,
)
from study.report.tables import (
    Cell,
    Column,
    Table,
    assemble,
    common_decimals,
    estimate_cell,
    estimate_column,
    marks,
    score_cell,
    score_decimals,
    text_cell,
)
from study.statistics.paired import Estimate
from study.statistics.power import MIN_SUBJECTS, MOST_SUBJECTS
from trainables.evaluation.metrics_table import METRICS, QUALITY, measure_of

_INTERVAL = (
    "Means over subjects; Student's 95 % intervals over subjects, from 3 on; complete confirm runs only."
)
_CUT = "Intervals are cut at what is possible: costs at 0, quality and shares of images at 0 and 1."
_TITLES = {SCALED[0]: "subject fidelity", SCALED[1]: "prompt fidelity"}
_RANKS = f"{marks(' of the trained arms')}. Neither means that a difference is established."
_NOTHING_AT_ZERO = {*MORE_COSTS, *CLASS_IMAGE_COSTS}  # columns that say nothing where every arm has 0
_N = (
    "n: runs (subjects × seeds). The base is not trained: its seeds differ in evaluation noise only and are averaged; "
    "its n counts subjects."
)


Pair = tuple[Column, list[Cell]]


def texts(key: str, title: str, values: Sequence[object]) -> Pair:
    """A column of texts."""
    return Column(key, title), [text_cell(value) for value in values]


def counts(key: str, title: str, values: Sequence[int]) -> Pair:
    """A column of whole numbers."""
    return Column(key, title, numeric=True), [Cell(str(value), value=value) for value in values]


def p_values(key: str, title: str, values: Sequence[float | None]) -> Pair:
    """A column of p values."""
    return Column(key, title, numeric=True), [Cell(p_value(p), value=p) for p in values]


def arm_names(arms: Sequence[ArmResult]) -> list[Pair]:
    """Names of the arms, and how many runs they have."""
    return [
        texts("arm", "Arm", [result.arm for result in arms]),
        (Column("n", "n", numeric=True), [Cell(result.n_text, value=result.n) for result in arms]),
    ]


def measures(arms: Sequence[ArmResult], names: Sequence[str]) -> list[Pair]:
    """A column a measure that any arm has. The untrained base model is the reference and wins no prize."""
    found = []
    for name in names:
        estimates = [result.estimates[name] for result in arms]
        known = [estimate.value for estimate in estimates if estimate.value is not None]
        if not known or (name in _NOTHING_AT_ZERO and not any(known)):
            continue
        about = measure(name)
        ranked = [not result.is_base and _is_ranked(name) for result in arms]
        found.append(estimate_column(name, about.title, about.unit, about.direction, estimates, ranked))
    return found


def _is_ranked(name: str) -> bool:
    """Whether the best arms are marked: not by ends of each run's own interval, whose means are no interval of an arm's
    mean.
    """
    return measure_of(name) is None and (name not in METRICS or METRICS[name].ranked)


def cut_note(columns: Sequence[Pair]) -> tuple[str, ...]:
    """The note on intervals that were cut, where one was."""
    limits = [(column.key, cell.low, cell.high) for column, cells in columns for cell in cells if cell.detail]
    cut = any((n in COSTS | BOUNDED and low == 0) or (n in BOUNDED and high == 1) for n, low, high in limits)
    return (_CUT,) if cut else ()


def _few(arms: Sequence[ArmResult]) -> tuple[str, ...]:
    few = any(0 < len(result.subjects) < MIN_SUBJECTS for result in arms)
    return (f"No interval: fewer than {MIN_SUBJECTS} subjects.",) if few else ()


def arms_table(analysis: Analysis, notes: Sequence[str] = ()) -> Table:
    """The main table: arms by quality and what is behind it, and the costs that usually decide.

    Args:
        notes: Further notes, such as what class kept rests on.
    """
    axes = MAIN_QUALITY if SCALED[0] in analysis.axes else (QUALITY, *FIDELITIES)
    paid = any(result.estimates["class_image_seconds"].value for result in analysis.arms)
    costs = (
        dict.fromkeys(("train_seconds", analysis.cost, analysis.flops))
        if paid
        else ("train_seconds", "train_flops")
    )
    columns = arm_names(analysis.arms) + measures(analysis.arms, (*axes, *costs))
    return assemble(
        "arms", "Arms by quality and cost.", columns,
        (_INTERVAL, *cut_note(columns), _N, *notes, _RANKS, *_few(analysis.arms)),
    )  # fmt: skip


def choice_table(choice: Choice) -> Table:
    """The ranking under quality and under subject and prompt alone."""
    rows = choice.arms

    def ranks(key: str, values: Sequence[int | None]) -> Pair:
        return Column(key, "Rank", numeric=True), [
            Cell(MISSING) if value is None else Cell(str(value), value=value) for value in values
        ]

    columns = [
        texts("arm", "Arm", [row.arm for row in rows]),
        estimate_column(QUALITY, measure(QUALITY).title, "", None, [row.quality for row in rows]),
        ranks("quality_rank", [row.rank for row in rows]),
        estimate_column(
            SUBJECT_PROMPT, measure(SUBJECT_PROMPT).title, "", None, [row.subject_prompt for row in rows]
        ),
        ranks("quality_subject_prompt_rank", [row.subject_prompt_rank for row in rows]),
        estimate_column(CLASS_KEPT, measure(CLASS_KEPT).title, "", None, [row.class_kept for row in rows]),
    ]
    note = (
        "Quality is subject x prompt x class kept; by subject and prompt alone, an arm that turns every member of the "
        "class into the subject loses nothing."
    )
    return assemble(
        "choice", "The ranking of the trained arms under two measures of quality.", columns, (note,)
    )


def details_table(analysis: Analysis, notes: Sequence[str] = ()) -> Table:
    """Further measures of the arms; `notes` say what is missing and why."""
    columns = arm_names(analysis.arms) + measures(analysis.arms, MORE_QUALITY)
    iqms = [result.quality_iqm for result in analysis.arms]
    title = f"{measure(analysis.primary).title} (IQM)"
    columns.insert(2, (Column("iqm", title, numeric=True), [score_cell(Estimate(value)) for value in iqms]))
    return assemble(
        "details",
        "Further measures.",
        columns,
        (_INTERVAL, *cut_note(columns), "IQM: interquartile mean, robust against single bad runs.", *notes),
    )


def difference_columns(comparisons: Sequence[Comparison], name: str) -> list[Pair]:
    """The paired differences in one measure, or in several of the same scale (no name)."""
    about = measure(name)
    estimates = [comparison.difference for comparison in comparisons]
    limits = [abs(limit) for e in estimates for limit in (e.value, e.low, e.high) if limit is not None]
    scale = scale_for(about.unit, [max(limits, default=None)])
    score = not name or name in SCORES
    decimals = score_decimals(estimates) if score else common_decimals(estimates, scale)
    as_it_is = about.is_external or about.title[:2].isupper()  # "FLOPs"
    plain = about.title if as_it_is else about.title[:1].lower() + about.title[1:]
    key, title = f"{name}_difference".lstrip("_"), f"Δ {plain}".strip()
    return [
        (
            Column(key, title, scale.unit, numeric=True, has_interval=True),
            [signed(estimate, scale, decimals, score=score) for estimate in estimates],
        )
    ]


def signed(
    estimate: Estimate, scale: Scale = PLAIN, decimals: int | None = None, *, score: bool = False
) -> Cell:
    """A cell with a difference, of scores with fixed decimals: its sign is always shown."""
    cell = score_cell(estimate, decimals or 2) if score else estimate_cell(estimate, scale, decimals)
    if estimate.value is not None and estimate.value > 0 and cell.text != MISSING:
        return Cell(f"+{cell.text}", cell.detail, cell.value, cell.low, cell.high)
    return cell


def comparison_table(
    key: str, caption: str, comparisons: Sequence[Comparison], notes: Sequence[str] = ()
) -> Table:
    """Pairs of arms: difference with both intervals, p, verdict, and what would decide the pair."""
    names = [c.measure for c in comparisons]
    several = len(set(names)) > 1
    columns = [
        *arms_of(comparisons),
        *([texts("measure", "Measure", [_TITLES.get(n, measure(n).title) for n in names])] if several else []),
        counts("subjects", "subjects", [c.difference.n_subjects for c in comparisons]),
        *difference_columns(comparisons, QUALITY if not names else "" if several else names[0]),
        simultaneous_column(comparisons),
        p_values("p", "p", [c.p for c in comparisons]),
        p_values("p_holm", "p (Holm)", [c.p_holm for c in comparisons]),
        texts("verdict", "Verdict", [c.outcome for c in comparisons]),
        needed_column(comparisons),
    ]  # fmt: skip
    return assemble(key, caption, columns, notes)


def simultaneous_column(comparisons: Sequence[Comparison]) -> Pair:
    """The intervals that hold all together."""
    score = {c.measure for c in comparisons} <= SCORES
    return (
        Column("simultaneous", "simultaneous", numeric=True, has_interval=True),
        _interval_cells([c.simultaneous for c in comparisons], score=score),
    )


def arms_of(comparisons: Sequence[Comparison]) -> list[Pair]:
    """The columns of the two arms."""
    return [
        texts("first", "Arm", [c.first for c in comparisons]),
        texts("second", "against", [c.second for c in comparisons]),
    ]


def _interval_cells(estimates: Sequence[Estimate], *, score: bool) -> list[Cell]:
    """Intervals alone; their middles stand in another column."""
    fixed_decimals = score_decimals(estimates) if score else None
    cells = []
    for e in estimates:
        if not e.half_width:
            cells.append(Cell(MISSING))
            continue
        decimals = decimals_for(e.value or 0.0, e.half_width) if fixed_decimals is None else fixed_decimals
        cells.append(Cell(interval(e.low, e.high, decimals), "", e.value, e.low, e.high))
    return cells


def needed_column(comparisons: Sequence[Comparison]) -> Pair:
    """Subjects that would decide a pair; empty where it is decided."""

    def cell(c: Comparison) -> Cell:
        if c.needed is None or c.difference.value is None:
            return Cell(MISSING)
        if c.subjects_needed is None:
            return Cell(f"> {MOST_SUBJECTS}")
        least = "≥ " if c.needed.at_least else ""
        return Cell(f"{least}{about(c.subjects_needed)}", value=c.subjects_needed)

    return Column("subjects_needed", "to decide", numeric=True), [cell(c) for c in comparisons]


def test_note(analysis: Analysis) -> str:
    """How the comparisons of all pairs are to be read."""
    beside = " and factors" if analysis.factor_effects else ""
    return (
        "Differences of runs with the same subject and seed, averaged within each subject. Interval beside the "
        f"difference: Student's, of this pair alone; simultaneous: for all pairs{beside} together (Bonferroni). p: "
        f"two-sided paired t test over subjects; Holm's adjustment over {analysis.family}. Verdict: "
        f"better or worse if the adjusted p is below 0.05{_within(analysis)}; not enough: that is not shown. To "
        "decide: number of subjects that would show it with 80 % power, for the difference as it was seen and "
        f"{spread_words(analysis)}; above 20 rounded. At least so many (≥): a difference that stands out is too large "
        "on average."
    )


def _within(analysis: Analysis) -> str:
    if analysis.margin is None:
        return ""
    return f", equivalent if the difference is shown to lie within ±{analysis.margin:g}"


BASE_NOTE = (
    "Subject and prompt fidelity, rescaled (base model 0 and 1) and not clipped: quality is clipped at the base's 0, "
    "and could only be above it. The base's own measured values are subtracted, which are about, not exactly, 0 and 1: "
    "the scales begin at other images of it, of class prompts and with other noise. Holm's adjustment over the rows of "
    "this table, a family of its own. The base is not trained: its seeds differ in evaluation noise only and are "
    "averaged, one value a subject."
)


def schedules_table(analysis: Analysis) -> Table:
    """Cosine minus constant, one line a pair of arms."""
    effects = analysis.schedules
    columns: list[Pair] = [
        texts("method", "Method", [e.method for e in effects]),
        texts("cosine", "Cosine arm", [e.cosine for e in effects]),
        texts("constant", "Constant arm", [e.constant for e in effects]),
    ]
    primary = [e.comparisons[analysis.primary] for e in effects]
    columns.append(
        (
            Column("subjects", "subjects", numeric=True),
            [Cell(str(c.difference.n_subjects), value=c.difference.n_subjects) for c in primary],
        )
    )
    for name in effects[0].comparisons if effects else (analysis.primary,):
        columns += difference_columns([e.comparisons[name] for e in effects], name)
    columns += [
        p_values("p", "p", [c.p for c in primary]),
        p_values("p_holm", "p (Holm)", [c.p_holm for c in primary]),
        texts("verdict", "Cosine is", [c.outcome for c in primary]),
    ]  # fmt: skip
    if any(e.differs for e in effects):
        columns.append(
            texts("differs", "They also differ in", [", ".join(e.differs) or MISSING for e in effects])
        )
    tuned = (
        ("Each arm was tuned by its own search: what is compared is two tuned configurations, and not one "
         "configuration under two schedules.",)
        if any(e.searched for e in effects)
        else ()
    )  # fmt: skip
    of = f"p and verdict are for {measure(analysis.primary).title.lower()}, read off from the family of all pairs"
    table = assemble(
        "cosine-vs-constant",
        "Cosine minus constant schedule, paired.",
        columns,
        (*tuned, f"{of} (Paired comparisons), where the note says how."),
    )
    return replace(table, alone=(*tuned, f"{of}.", test_note(analysis)))


def exclusions_table(analysis: Analysis) -> Table:
    """Runs that no compared number contains."""
    rows = analysis.exclusions
    columns = [
        texts("run", "Run", [e.run_key for e in rows]),
        texts("phase", "Phase", [e.phase for e in rows]),
        texts("state", "State", [e.state for e in rows]),
        texts("node", "Node", [e.node for e in rows]),
        texts("attempt", "Attempt", [e.attempt for e in rows]),
        texts("reason", "Reason", [e.reason for e in rows]),
    ]
    return assemble("exclusions", "Runs that did not complete, or whose quality is missing.", columns)


def measures_table(more: Sequence[str] = ()) -> Table:
    """What each measure is, and what each of `more` is."""
    names = (*ALL, TUNED_SECONDS, TUNED_FLOPS, *CEILINGS, *ANCHOR_ERRORS, *more)
    about = [measure(name) for name in names]
    columns = [
        texts("name", "Column", [m.name for m in about]),
        texts("title", "Measure", [m.title for m in about]),
        (
            Column("better", "Better"),
            [text_cell(m.better) for m in about],
        ),
        (Column("description", "Meaning", prose=True), [text_cell(m.description) for m in about]),
    ]
    return assemble("measures", "Measures.", columns)
