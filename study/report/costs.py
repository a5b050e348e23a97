"""What runs cost beside training: class images, charged in full and shared out, money, and the search.

Class images are made once for all runs that train on the same ones, and charged in full to each of them: whoever
trains one subject pays for them. The amortised figure beside it deals them out over the runs that shared them here.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from study.report.prepared import Rows, value_or_none

_CLASS_IMAGES = {"train_seconds": "class_image_seconds", "train_flops": "class_image_flops"}


def made_once(frame: pd.DataFrame, name: str) -> float | None:
    """Sum of a cost of class images over the *distinct* sets that runs used; None where it is unknown.

    A set is told by its record: runs that share one were charged the same seconds and FLOPs to the last digit.
    """
    known = frame[frame[name].notna()]
    if known.empty or len(known) < int(frame["train_seconds"].notna().sum()):
        return None
    distinct = known.drop_duplicates(["class_image_seconds", "class_image_flops"])
    return float(distinct[name].sum())


@dataclass(frozen=True)
class SearchCost:
    """What one search of an arm took, failed and stopped runs included, each set of class images made once.

    Attributes:
        seconds, flops: Training of one search: the mean over the arm's independent searches; 0 for an arm without a
            search, None where unknown.
        evaluation_seconds: Of the same search. Kept apart, because runs report what they waited for, and the first one
            of a class or subject makes images of the base model (anchors) that all arms share.
        amortised_seconds, amortised_flops: A confirm run's training and its share of the class images; None where
            unknown.
    """

    arm: str
    seconds: float | None
    flops: float | None
    evaluation_seconds: float | None
    amortised_seconds: float | None
    amortised_flops: float | None


def search_cost(rows: Rows, arm: str, repeats: int) -> SearchCost:
    """Adds up what searching an arm once took, and shares its confirm runs' class images out."""
    search = rows.search[rows.search["arm"] == arm]
    confirm = rows.confirm[rows.confirm["arm"] == arm]

    def summed(name: str) -> float | None:
        if search.empty:
            return 0.0
        return float(search[name].sum()) / max(1, repeats) if search[name].notna().any() else None

    def spent(name: str) -> float | None:
        trained, images = summed(name), 0.0 if search.empty else made_once(search, _CLASS_IMAGES[name])
        return None if trained is None or images is None else trained + images / max(1, repeats)

    def amortised(name: str) -> float | None:
        images = made_once(confirm, _CLASS_IMAGES[name])
        trained = value_or_none(confirm.groupby("subject")[name].mean().mean()) if len(confirm) else None
        return None if trained is None or images is None else trained + images / len(confirm)

    return SearchCost(
        arm,
        spent("train_seconds"),
        spent("train_flops"),
        summed("evaluation_seconds"),
        amortised("train_seconds"),
        amortised("train_flops"),
    )
