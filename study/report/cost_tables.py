"""The tables of cost: what a run takes with its class images, and quality against training with that of the search."""

from __future__ import annotations

from collections.abc import Sequence

from study.report.analysis import Analysis
from study.report.formatting import listing, scale_for
from study.report.measures import (
    CLASS_IMAGE_COSTS,
    DOLLARS,
    MAIN_COSTS,
    MORE_COSTS,
    TOTAL_FLOPS,
    TOTAL_SECONDS,
    TUNED_FLOPS,
    TUNED_SECONDS,
    measure,
)
from study.report.results_tables import Pair, arm_names, cut_note, measures
from study.report.tables import Column, Table, assemble, number_cell

_ORDER = (
    "train_seconds",
    "class_image_seconds",
    TOTAL_SECONDS,
    "amortised_seconds",
    "device_seconds",
    "train_flops",
    "class_image_flops",
    TOTAL_FLOPS,
    "amortised_flops",
    "energy_joules",
    DOLLARS,
    "peak_memory_bytes",
    "trainable_parameters",
    "artifact_bytes",
    "image_latency_seconds",
    "image_latency_fused_seconds",
    *MORE_COSTS,
)
assert set(_ORDER) >= {*MAIN_COSTS, *CLASS_IMAGE_COSTS}


def _amounts(key: str, title: str, unit: str, values: Sequence[float | None]) -> list[Pair]:
    """A column of amounts in one unit; none where nothing is known, or where all are 0."""
    if not any(values):
        return []
    scale = scale_for(unit, values)
    return [(Column(key, title, scale.unit, numeric=True), [number_cell(value, scale) for value in values])]


def _left_out(shown: set[str]) -> str:
    """Which columns are missing, and what would fill them; empty without any."""
    why = {
        "energy_joules": "energy (nothing measured it)",
        DOLLARS: "price (the study file states none, `resources.price_per_hour`)",
        "image_latency_seconds": "latency (nothing measured it)",
    }
    missing = [words for name, words in why.items() if name not in shown]
    return f"Not shown: {listing(missing)}." if missing else ""


def costs_table(analysis: Analysis) -> Table:
    """Every cost of a run, class images in full and shared out."""
    searches = {budget.arm: budget.search for budget in analysis.budgets}
    shared = {
        "amortised_seconds": _amounts(
            "amortised_seconds", "Training, class images shared", "s",
            [searches[r.arm].amortised_seconds for r in analysis.arms],
        ),
        "amortised_flops": _amounts(
            "amortised_flops", "FLOPs, class images shared", "FLOP",
            [searches[r.arm].amortised_flops for r in analysis.arms],
        ),
    }  # fmt: skip
    paid = {r.arm for r in analysis.arms if r.estimates["class_image_seconds"].value}
    columns = arm_names(analysis.arms)
    for name in _ORDER:
        if name in shared:
            columns += shared[name] if paid else []
        elif paid or name not in (TOTAL_SECONDS, TOTAL_FLOPS):  # without class images they say nothing new
            columns += measures(analysis.arms, (name,))
    shown = {column.key for column, _ in columns}
    notes = [
        "Means over subjects of complete confirm runs; Student's 95 % intervals over subjects, from 3 on.",
        *cut_note(columns),
        "With class images: their making is charged in full to each run that trains on them, whichever run has made "
        "them. Shared: each set of class images is counted once and dealt out over the arm's confirm runs."
        if paid
        else "",
        "Fused: adapters merged into the weights." if "image_latency_fused_seconds" in shown else "",
        _left_out(shown),
    ]
    return assemble("costs", "What a run costs.", columns, [note for note in notes if note])


def tuned_table(analysis: Analysis) -> Table | None:
    """Quality against the training of search and run together; None where the search's cost is unknown.

    The evaluation of the search's runs stands beside and is in no sum: rows do not tell what of it was made once for
    all arms (the base model's images), and count no operations of it.
    """
    trained = [result for result in analysis.arms if not result.is_base]
    if not any(result.estimates[TUNED_SECONDS].value for result in trained):
        return None
    searches = {budget.arm: budget.search for budget in analysis.budgets}
    evaluation = _amounts(
        "search_evaluation_seconds", "Evaluation of one search", "s",
        [searches[r.arm].evaluation_seconds for r in trained],
    )  # fmt: skip
    columns = [
        *arm_names(trained),
        *measures(trained, (analysis.primary,)),
        *_amounts(
            "search_seconds", "Training of one search", "s", [searches[r.arm].seconds for r in trained]
        ),
        *evaluation,
        *measures(trained, (TOTAL_SECONDS, TUNED_SECONDS)),
        *_amounts(
            "search_flops",
            "FLOPs of training of one search",
            "FLOP",
            [searches[r.arm].flops for r in trained],
        ),
        *measures(trained, (TOTAL_FLOPS, TUNED_FLOPS)),
    ]
    title = measure(analysis.primary).title
    note = (
        "One search: all its runs, failed and stopped ones included, each set of class images made once; where an arm "
        "was searched several times, the mean. Search and run: one search and one run with its class images. Training "
        "alone: no search does without the evaluation of its runs, but that is in no sum here"
    )
    beside = (
        "; its wall seconds stand beside, with the base model's images for the scales, which are made once for all "
        "arms and billed to whichever run came first."
        if evaluation
        else ", and nothing measured it."
    )
    caption = f"{title} against training alone, that of the search included."
    return assemble("tuning-cost", caption, columns, (note + beside, *cut_note(columns)))
