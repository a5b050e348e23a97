"""What the report says of data sets beyond what it says of subjects: distances to held-out images, and characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from study.report.formatting import fixed, listing, plural
from study.report.measures import DATA_SET, measure
from study.report.pairing import values_of
from study.report.prepared import Rows, distinct, value_or_none
from study.report.results_tables import counts, texts
from study.report.tables import Column, Table, assemble, estimate_column, score_cell
from study.statistics.paired import Estimate, estimate_of
from study.statistics.power import MIN_SUBJECTS
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES
from trainables.methods.registry import BASE

_INTERVAL_ENDS = ("_low", "_high")

_BASE = (
    "The untrained base model scores about, not exactly, S 0, P 1 and C 1: its runs are measured like any other, on "
    "images of their own with their own noise, while the scales begin (anchors) at other images of it, of class "
    "prompts and with other noise."
)
_BASE_OF_DATA_SETS = (
    " Its P may be far from 1 on a data set: there the scale ends at real images with their own captions."
)


def base_words(rows: Rows) -> str:
    """What the untrained base model scores, and why not exactly that."""
    return _BASE + (_BASE_OF_DATA_SETS if rows.of_data_sets else "")


@dataclass(frozen=True)
class CharacterScore:
    """An arm's images of one character, means over runs; None where unknown; `failed` is a share."""

    arm: str
    data_set: str
    character: str
    images: int
    subject: float | None
    prompted: float | None
    failed: float | None


def character_scores(rows: Rows) -> tuple[CharacterScore, ...]:
    """Mean scores of each arm on each character; runs of one data set weigh the same."""
    scores = rows.image_scores
    named = scores[(scores["kind"] == "instance") & scores["character"].notna()]
    found = []
    for arm in rows.arms:
        own = named[named["arm"] == arm]
        for data_set in distinct(own["subject"]):
            of_set = own[own["subject"] == data_set]
            for character in distinct(of_set["character"]):
                images = of_set[of_set["character"] == character]
                means = images.groupby("seed")[["subject_scaled", "prompt_scaled", "failed"]].mean().mean()
                found.append(
                    CharacterScore(
                        arm,
                        str(data_set),
                        str(character),
                        len(images),
                        *(
                            value_or_none(means[name])
                            for name in ("subject_scaled", "prompt_scaled", "failed")
                        ),
                    )
                )
    return tuple(found)


def characters_table(found: Sequence[CharacterScore]) -> Table:
    """Scores by arm and character."""

    def scores(key: str, title: str, values: Sequence[float | None]) -> tuple[Column, list]:
        return Column(key, title, numeric=True), [score_cell(Estimate(value)) for value in values]

    columns = [
        texts("arm", "Arm", [row.arm for row in found]),
        texts("data_set", "Data set", [row.data_set for row in found]),
        texts("character", "Character", [row.character for row in found]),
        counts("images", "Images", [row.images for row in found]),
        scores("style_fidelity_scaled", "S", [row.subject for row in found]),
        scores("caption_fidelity_scaled", "P", [row.prompted for row in found]),
        scores("failed_images", "Failed images", [row.failed for row in found]),
    ]
    note = (
        "Means over runs of single images' scores, not clipped. S: likeness to held-out images of the same character, "
        "base model 0, those images among themselves 1, each character on its own scale. P: likeness to the held-out "
        "caption. Failed: share of the images that show another character or another caption."
    )
    return assemble("characters", "Scores by character, confirm runs.", columns, (note,))


def data_sets_table(rows: Rows, level: float) -> Table | None:
    """Distances to held-out images and the worst character by arm; None where nothing of it was measured.

    Args:
        level: Of the intervals over data sets, 0..1.
    """
    confirm = rows.confirm
    arms = [arm for arm in rows.arms if (confirm["arm"] == arm).any()]
    columns = [texts("arm", "Arm", arms)]
    ranked = [rows.methods.get(arm) != BASE for arm in arms]
    for name in DATA_SET:
        estimates = [_mean(confirm, arm, name, level) for arm in arms]
        if all(estimate.value is None for estimate in estimates):
            continue
        about = measure(name)
        # Ends of each run's own interval: their means are no interval of the arm's mean, and win no prize.
        prizes = [False] * len(arms) if name.endswith(_INTERVAL_ENDS) else ranked
        columns.append(estimate_column(name, about.title, about.unit, about.direction, estimates, prizes))
    if len(columns) == 1:
        return None
    note = f"Means over data sets, with Student's {100 * level:g} % intervals from {MIN_SUBJECTS} on."
    if not any(column.key.startswith("dataset_") for column, _ in columns):
        few = (
            "Not shown: the distances to held-out images, KID and CMMD, need "
            f"{MIN_DISTRIBUTION_IMAGES} images on each side."
        )
        return assemble("data-sets", "The worst character, confirm runs.", columns, (note, few))
    notes = (
        f"{note} KID and CMMD: squared distance "
        "of the images of held-out captions to all held-out images; images of one caption are no independent draws, "
        "so that only pairs of different captions count within a side. They may be negative where both are alike. "
        "2.5 % and 97.5 %: means of the runs' own bootstrap intervals over captions.",
    )
    return assemble("data-sets", "Distance to held-out images, confirm runs.", columns, notes)


def _mean(confirm: pd.DataFrame, arm: str, name: str, level: float) -> Estimate:
    values = values_of(confirm[confirm["arm"] == arm], name)
    if arm not in values.arms:
        return Estimate(None, level=level)
    runs = int(confirm.loc[confirm["arm"] == arm, name].notna().sum())
    return estimate_of(values.means([arm])[0], runs, level=level)


def data_set_words(rows: Rows, found: Sequence[CharacterScore]) -> tuple[str, ...]:
    """How many data sets and characters there are, and whom each trained arm draws worst."""
    sets = distinct(rows.confirm["subject"])
    words = [f"The study's units are data sets ({listing(map(str, sets))}), judged on held-out captions."]
    worst = []
    for arm in rows.trained_arms:
        known = [row for row in found if row.arm == arm and row.subject is not None]
        if known:
            row = min(known, key=lambda one: one.subject or 0.0)
            worst.append(f"{arm} {row.character} (S {fixed(row.subject or 0.0, 2)})")
    if worst:
        people = len({(row.data_set, row.character) for row in found})
        words.append(f"Of {plural(people, 'character')} each arm draws least well: {listing(worst)}.")
    return tuple(words)
