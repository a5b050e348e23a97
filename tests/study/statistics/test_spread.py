"""What a plan assumes of the spread of differences is measured by a command that finds known components again."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.spread import components


def test_known_components_are_found_again() -> None:
    random = np.random.default_rng(3)
    subjects, seeds, between, within = 4000, 3, 0.12, 0.08
    index = pd.MultiIndex.from_product([range(subjects), range(seeds)], names=["subject", "seed"])
    own = random.normal(
        0, between / np.sqrt(2), (2, subjects, 1)
    )  # the difference of two arms has twice the variance
    noise = random.normal(0, within / np.sqrt(2), (2, subjects, seeds))
    values = (0.5 + own + noise).reshape(2, -1)
    table = pd.DataFrame({"a": values[0], "b": values[1]}, index=index)
    whole = np.hypot(between, within / np.sqrt(seeds))
    assert components(table) == pytest.approx((whole, between, within), rel=0.05)
    one, *parts = components(table[table.index.get_level_values("seed") == 0])
    assert one == pytest.approx(np.hypot(between, within), rel=0.05)
    assert np.isnan(parts).all()  # of one seed a subject nobody knows them apart
