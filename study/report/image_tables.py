"""The tables of single images, and of what could be reached: prompts, components of variance, ceilings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from study.report.formatting import MISSING, fixed, listing
from study.report.image_levels import CLASS, CLASS_RAW, LEVELS, ClassSample, Components, PromptScore
from study.report.measures import ANCHOR_ERRORS, CEILINGS, measure
from study.report.prepared import Rows, distinct, value_or_none
from study.report.results_tables import Pair, counts, texts
from study.report.tables import Cell, Column, Table, assemble, number_cell, score_cell
from study.statistics.paired import Estimate
from study.statistics.power import MIN_SUBJECTS

_FACTORS = {
    "subject": "subject fidelity",
    "prompt": "prompt fidelity",
    CLASS: "class kept",
    CLASS_RAW: "similarity of class images to the subject",
}
_DESIGN = ("subjects", "seeds", "prompts", "images")


def _numbers(key: str, title: str, values: Sequence[float | None]) -> Pair:
    return Column(key, title, numeric=True), [number_cell(value, digits=2) for value in values]


def _scores(key: str, title: str, values: Sequence[float | None]) -> Pair:
    return Column(key, title, numeric=True), [score_cell(Estimate(value)) for value in values]


def prompts_table(found: Sequence[PromptScore]) -> Table:
    """Scores by arm and prompt."""
    columns = [
        texts("arm", "Arm", [row.arm for row in found]),
        counts("prompt", "No.", [row.prompt for row in found]),
        texts("template", "Prompt", [row.template for row in found]),
        counts("images", "Images", [row.images for row in found]),
        _scores("subject_fidelity_scaled", "Subject fidelity (scaled)", [row.subject for row in found]),
        _scores("prompt_fidelity_scaled", "Prompt fidelity (scaled)", [row.prompted for row in found]),
        _scores("failed_images", "Failed images", [row.failed for row in found]),
    ]
    note = "Means over subjects of single images' scores, not clipped; failed: share of the images."
    return assemble("prompts", "Scores by prompt, confirm runs.", columns, (note,))


def components_table(found: Sequence[Components]) -> Table:
    """How much each level varies, and what twice as many of it would do to an arm's standard error.

    What few subjects cannot tell is left out: how much subjects vary, and what follows from it.
    """
    told = [c.subjects >= MIN_SUBJECTS for c in found]
    spreads = [
        _numbers(
            f"sd_{level.replace(' ', '_')}",
            level,
            [
                _root(c.variances[level]) if ok or level != "subject" else None
                for c, ok in zip(found, told, strict=True)
            ],
        )
        for level in LEVELS
    ]
    doubled = [
        _numbers(
            f"error_twice_{name}",
            f"twice the {name}",
            [c.error_with(name) if ok else None for c, ok in zip(found, told, strict=True)],
        )
        for name in _DESIGN
    ]
    freedom = [c.subjects - 1 if ok else None for c, ok in zip(found, told, strict=True)]
    columns = [
        texts("arm", "Arm", [c.arm for c in found]),
        texts("factor", "Of", [_FACTORS[c.factor] for c in found]),
        (
            Column("design", "Design"),
            [Cell(f"{c.subjects} × {c.seeds} × {c.prompts} × {c.images}") for c in found],
        ),
        *spreads,
        (
            Column("subject_freedom", "degrees of freedom", numeric=True),
            [Cell(MISSING) if df is None else Cell(str(df), value=df) for df in freedom],
        ),
        _numbers(
            "error", "Standard error", [c.error if ok else None for c, ok in zip(found, told, strict=True)]
        ),
        *doubled,
    ]
    few = (
        ""
        if all(told)
        else f" Below {MIN_SUBJECTS} subjects nothing is said of how subjects vary, nor of the standard error, which "
        "is mostly theirs."
    )
    note = (
        "Of single images' rescaled scores, not clipped. Design: subjects × seeds of each × prompts × images of each "
        "prompt. Standard deviations by level, from the balanced analysis of variance (method of moments; negative "
        "estimates are 0): seeds are nested in subjects, prompts are crossed with runs, images are nested in both. "
        f"{MISSING}: the design cannot tell it apart from the level above. Degrees of freedom: of the spread of "
        "subjects, the roughest of them. Standard error: of the arm's mean if both "
        "subjects and prompts are drawn at random, as it is and with twice as many of a level. All arms share "
        f"prompts, subjects and noise, so that differences between them vary less.{few}"
    )
    kinds = {c.factor for c in found}
    of_class = ""
    if CLASS in kinds:
        of_class = (
            "Class kept: of single class images, on the scale that all runs on a subject share; images beyond the same "
            "number of each prompt are left out."
        )
    elif CLASS_RAW in kinds:
        of_class = (
            "Similarity of class images: as measured, not rescaled to class kept, whose scale the runs do "
            "not tell."
        )
    return assemble(
        "components",
        "What varies between images, and what more of it would help.",
        columns,
        tuple(text for text in (note, of_class) if text),
    )


def class_words(sample: ClassSample | None) -> tuple[str, ...]:
    """What class kept rests on, for the note of the main table."""
    if sample is None:
        return ()
    count = str(sample.largest)
    if sample.smallest != sample.largest:
        count = f"{sample.smallest} to {sample.largest}"
    error = (
        ""
        if sample.error is None
        else f" (standard error of a run's value from them alone: {sample.error:.2f})"
    )
    noun = "image" if sample.largest == 1 else "images"
    return (f"Class kept rests on {count} class {noun} a run{error}.",)


def _root(variance: float | None) -> float | None:
    return None if variance is None else math.sqrt(variance)


def ceilings_table(rows: Rows) -> Table | None:
    """By subject: what perfect pictures score, and how well the scales are known; None where nothing is."""
    names = (*CEILINGS, *ANCHOR_ERRORS)
    means = rows.confirm.groupby("subject")[list(names)].mean()
    known = [name for name in names if means[name].notna().any()]
    if not known:
        return None
    subjects = distinct(means.index)
    columns = [texts("subject", "Subject", subjects)]
    for name in known:
        values = [value_or_none(means.loc[subject, name]) for subject in subjects]
        column = _scores if name in CEILINGS else _numbers
        columns.append(column(name, measure(name).title, values))
    ceilings = (
        f"Ceilings: rescaled scores of {_ceiling_pictures(rows)}; no method is expected to score higher by being "
        "better. Ceiling of quality: with class kept at 1. "
    )
    errors = (
        "Errors: what the standard errors of the anchors come to at the runs' own values, a mean over the arms. The "
        "anchors are the same for every arm, so that their errors move all arms together and hardly their order."
    )
    if not set(known) & set(CEILINGS):
        return assemble("ceilings", "How well the scales of each subject are known.", columns, (errors,))
    return assemble("ceilings", "What could be reached on each subject.", columns, (ceilings + errors,))


def ceiling_words(rows: Rows, quality: float | None) -> tuple[str, ...]:
    """What a perfect method would reach, beside what the best arm has."""
    means = rows.confirm.groupby("subject")[list(CEILINGS)].mean()
    words = {
        "ceiling_quality": "quality",
        "ceiling_subject": "subject fidelity",
        "ceiling_prompt": "prompt fidelity",
    }
    reached = [
        f"{word} {fixed(value, 2)}"
        for name, word in words.items()
        if (value := value_or_none(means[name].mean())) is not None
    ]
    if not reached:
        return ()
    best = "" if quality is None else f"; the best arm's mean quality is {fixed(quality, 2)}"
    kept = ", class kept taken as 1" if means["ceiling_quality"].notna().any() else ""
    return (
        f"A perfect method would reach {listing(reached)} (rescaled, mean over subjects; of "
        f"{_ceiling_pictures(rows)}{kept}){best}.",
    )


def _ceiling_pictures(rows: Rows) -> str:
    """Of which pictures the ceilings are: only perfect ones show the prompts."""
    if rows.confirm["ceiling_prompt"].notna().any():
        return "perfect pictures of the subject in the prompts"
    return "the subject's held-out photographs"
