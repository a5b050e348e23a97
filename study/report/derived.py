"""Columns that the report makes of a run's costs: sums with class images, and money."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from pydantic import ValidationError

from study.report.measures import DOLLARS, TOTAL_FLOPS, TOTAL_SECONDS
from study.spec.sections import Resources, price_of_a_second


def with_derived(frame: pd.DataFrame, resources: Mapping[str, object]) -> pd.DataFrame:
    """Adds `TOTAL_SECONDS`, `TOTAL_FLOPS` and `DOLLARS` to the rows of runs; NaN where a part of them is unknown.

    Class images are made on the devices that train the run. `DOLLARS` are of these two, and of the evaluations by which
    a run chose its best step: that of the result, which `study plan` counts in its price, is not in them.

    Args:
        resources: The section of the study file, with what a run holds and `price_per_hour`.
    """
    total = frame["train_seconds"] + frame["class_image_seconds"]
    chosen = frame["selection_seconds"].fillna(0.0) if "selection_seconds" in frame else 0.0
    return frame.assign(
        **{
            TOTAL_SECONDS: total,
            TOTAL_FLOPS: frame["train_flops"] + frame["class_image_flops"],
            DOLLARS: (total + chosen) * _price_of_a_second(resources),
        }
    )


def _price_of_a_second(resources: Mapping[str, object]) -> float:
    """Dollars of a second at the prices of the study file; NaN where nothing that a run holds has a price."""
    try:
        price = price_of_a_second(Resources.model_validate(dict(resources)))
    except ValidationError:  # of another version
        return math.nan
    return math.nan if price is None else price
