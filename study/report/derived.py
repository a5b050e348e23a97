"""Columns that the report makes of a run's costs: sums with class images, and money."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from study.report.measures import DOLLARS, TOTAL_FLOPS, TOTAL_SECONDS

ON_GPU = "cuda_allocated"  # the `peak_memory_kind` of runs whose device is a GPU


def with_derived(frame: pd.DataFrame, prices: Mapping[str, object]) -> pd.DataFrame:
    """Adds `TOTAL_SECONDS`, `TOTAL_FLOPS` and `DOLLARS` to the rows of runs; NaN where a part of them is unknown.

    Class images are made on the devices that train the run.

    Args:
        prices: Dollars of an hour of one device, under ``gpu`` and ``cpu`` (`resources.price_per_hour`).
    """
    images = frame["class_image_seconds"]
    devices = frame["device_seconds"] / frame["train_seconds"].where(frame["train_seconds"] > 0)
    held = frame["device_seconds"] + (images * devices).where(images > 0, images)
    on_gpu = frame["peak_memory_kind"].astype(object).eq(ON_GPU)
    price = np.where(on_gpu, _price(prices, "gpu"), _price(prices, "cpu"))
    return frame.assign(
        **{
            TOTAL_SECONDS: frame["train_seconds"] + images,
            TOTAL_FLOPS: frame["train_flops"] + frame["class_image_flops"],
            DOLLARS: held / 3600 * price,
        }
    )


def _price(prices: Mapping[str, object], kind: str) -> float:
    value = prices.get(kind)
    sound = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    return float(value) if sound else math.nan  # type: ignore[arg-type]
