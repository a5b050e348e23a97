"""Power of t tests against scipy's distributions, far tails among them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from study.statistics.power import power_of_difference, power_of_equivalence, smallest_effect


@pytest.mark.parametrize("subjects", [3, 8, 50, 1000])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_power_is_that_of_the_noncentral_t(subjects: int, alpha: float) -> None:
    effects = np.array([0.0, 0.1, -0.5, 1.0, 2.0])
    freedom, shift = subjects - 1, np.abs(effects) * subjects**0.5
    limit = stats.t.isf(alpha / 2, freedom)
    expected = stats.nct.sf(limit, freedom, shift) + np.nan_to_num(stats.nct.cdf(-limit, freedom, shift))
    assert power_of_difference(subjects, effects, alpha) == pytest.approx(expected, abs=1e-12)
    assert power_of_difference(subjects, 0.0, alpha) == pytest.approx(alpha)
    near, far = ((0.6 + side * np.abs(effects)) * subjects**0.5 for side in (-1, 1))
    limit = stats.t.isf(alpha, freedom)
    both = stats.nct.sf(limit, freedom, near) + np.nan_to_num(stats.nct.sf(limit, freedom, far), nan=1.0) - 1
    expected = np.clip(both, 0, 1)
    assert power_of_equivalence(subjects, effects, 0.6, alpha) == pytest.approx(expected, abs=1e-12)


def test_far_tails_are_certain_and_not_unknown() -> None:
    """scipy knows no number there; the test is sure to find the one and never the other."""
    assert power_of_difference(np.array([3.0, 8.0, 1000.0]), 1e4).tolist() == [1.0, 1.0, 1.0]
    assert power_of_equivalence(8, 50.0, 0.1).tolist() == 0.0
    assert power_of_equivalence(3, 30.0, 0.1, alpha=1e-4).tolist() == 0.0  # limit and shift are both far out
    assert power_of_equivalence(8, 0.0, 1e4).tolist() == 1.0


def test_the_smallest_effect_is_found_in_four_of_five_studies() -> None:
    for subjects in (4, 12, 100):
        effect = smallest_effect(subjects)
        assert float(power_of_difference(subjects, effect)) == pytest.approx(0.8, abs=1e-6)
        draws = np.random.default_rng(subjects).standard_normal((20_000, subjects)) + effect
        found = (
            np.abs(stats.ttest_1samp(draws, 0, axis=1).statistic) > stats.t.isf(0.025, subjects - 1)
        ).mean()
        assert abs(found - 0.8) < 0.01
