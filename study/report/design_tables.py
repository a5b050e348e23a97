"""The design in tables and words: what each phase was run and judged on, and the factors that arms differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from study.report.design import PhaseDesign
from study.report.factors import Factors
from study.report.formatting import MISSING, listing
from study.report.prepared import Rows, section
from study.report.results_tables import Pair, texts
from study.report.searches import captions_dealt_out
from study.report.tables import Cell, Column, Table, assemble
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES


def _counts(key: str, title: str, values: Sequence[int | None]) -> Pair:
    return Column(key, title, numeric=True), [
        Cell(MISSING) if value is None else Cell(str(value), value=value) for value in values
    ]


def design_table(design: Sequence[PhaseDesign]) -> Table | None:
    """One line a phase; None without any."""
    if not design:
        return None
    columns = [
        texts("phase", "Phase", [phase.phase for phase in design]),
        _counts("searches", "Searches of an arm", [phase.searches for phase in design]),
        _counts("subjects", "Subjects", [len(phase.subjects) for phase in design]),
        _counts("seeds", "Seeds", [len(phase.seeds) for phase in design]),
        _counts("prompts", "Prompts", [phase.prompts for phase in design]),
        _counts("images", "Images of the subject", [phase.images for phase in design]),
        _counts("class_images", "Class images", [phase.class_images for phase in design]),
        texts("anchors", "Anchor images", [f"≥ {p.anchors}" if p.anchors else MISSING for p in design]),
    ]
    note = (
        "Images: of a run's last evaluation. Anchor images: of the base model, where the scales of fidelity begin. "
        f"{MISSING}: not recorded."
    )
    return assemble("design", "The design: what each phase was run and judged on.", columns, (note,))


def factors_table(
    factors: Sequence[Factors], others: Mapping[str, Mapping[str, Any]] | None = None
) -> Table | None:
    """What each arm is made of; None where there are fewer than two.

    Args:
        others: Fields that are no factors and set arms apart, see `other_fields`.
    """
    if len(factors) < 2:
        return None
    columns = [
        texts("arm", "Arm", [f.arm for f in factors]),
        texts("trains", "Trains", [f.trains for f in factors]),
        texts("prior", "Prior preservation", [f.prior for f in factors]),
        texts("text_encoder", "Text encoder trained", [f.text_encoder for f in factors]),
        texts("schedule", "Schedule", [f.schedule for f in factors]),
    ]
    notes = ["Two arms tell of one factor only if they differ in nothing else in this table."]
    if others:
        told = listing(
            f"{arm} ({', '.join(f'{name}: {json.dumps(value)}' for name, value in fields.items())})"
            for arm, fields in others.items()
        )
        notes.append(f"The study file sets arms apart by other fields, too: {told}.")
    return assemble("factors", "The factors that arms differ in.", columns, notes)


def distances_words(design: Sequence[PhaseDesign]) -> tuple[str, ...]:
    """Why distances of distributions are not shown, where it is for want of class images."""
    counts = [p.class_images for p in design if p.phase == "confirm" and p.class_images is not None]
    if not counts or counts[0] >= MIN_DISTRIBUTION_IMAGES:
        return ()
    return (
        f"Not shown: KID and CMMD need {MIN_DISTRIBUTION_IMAGES} class images a run, there were {counts[0]}.",
    )


def phases_words(rows: Rows, design: Sequence[PhaseDesign]) -> str:
    """How configurations were chosen and then compared, and what the two phases share."""
    found = {phase.phase: phase for phase in design}
    search, confirm = found.get("search"), found.get("confirm")
    only = "Only complete confirm runs are compared."
    if search is None:
        return f"Nothing was searched: each arm's configuration is that of the study file (confirm). {only}"
    if confirm is None:
        return (
            "A search chooses one configuration of each arm. There are no confirm runs yet, and only those are "
            "compared."
        )
    chose = (
        "a search chose one configuration of each arm"
        if search.searches == 1
        else f"each of {search.searches} independent searches chose one configuration of each arm"
    )
    other: list[str] = []
    same: list[str] = []
    for name in ("subjects", "seeds"):
        one, two = set(getattr(search, name)), set(getattr(confirm, name))
        (same if one & two else other).append(name)
    stated = section(rows.meta, "spec", "search")
    if "allow_overlap" in stated:  # older studies shared prompts and noise, or did not say
        shares = stated["allow_overlap"] is True and not captions_dealt_out(rows)
        (same if shares else other).append("prompts")
        (other if "subjects" in other or "seeds" in other else same).append("noise")
    again = f" on other {listing(other)}" if other else ""
    shared = f" ({listing(same)} may be shared with the search)" if same else ""
    dealt = ", and the confirm subjects are dealt out over these choices" if search.searches > 1 else ""
    return f"Two phases: {chose}; it is then trained again{again}{shared} (confirm){dealt}. {only}"
