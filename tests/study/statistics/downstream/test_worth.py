"""What an arm is worth in further real images: places on known curves, their ends, and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from study.statistics.downstream.comparison import ScoreTable, seed_mean
from study.statistics.downstream.images import Unusable
from study.statistics.downstream.worth import pooling, worth_of

SIZES = (5, 10, 20, 40)
SEEDS = 5


def table(
    mean: float, noise: float = 0.0, *, generators: int = 0, seed: int = 0, score: str = "accuracy"
) -> ScoreTable:
    """Runs with exactly this mean; seeds and images vary by `noise` / sqrt(their number) and by `noise` / 3."""
    rng = np.random.default_rng(seed)
    runs = rng.normal(0, noise, (max(1, generators), SEEDS))
    draws = rng.normal(0, noise / 3, (300, 1, 1))
    values = mean + runs - runs.mean()
    return ScoreTable(
        score,
        np.concatenate([values[None], values + draws]),
        tuple(range(generators)),
        tuple(range(SEEDS)),
        90,
    )


def curve(
    heights: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8), noise: float = 0.0, score: str = "accuracy"
) -> dict:
    return {
        size: table(height, noise, seed=size, score=score)
        for size, height in zip(SIZES, heights, strict=True)
    }


@pytest.mark.parametrize(
    ("score", "further"),
    [
        (0.6, 0),
        (0.7, 10),
        (0.65, math.sqrt(200) - 10),
        (0.75, math.sqrt(800) - 10),
        (0.5, -5),
        (0.55, math.sqrt(50) - 10),
    ],
)
def test_scores_on_a_curve_without_noise_are_found_in_the_logarithm_of_the_images(
    score: float, further: float
) -> None:
    found = worth_of(table(score), curve(), 10)
    assert found.value == pytest.approx(further)
    assert (found.least, found.most) == (-5, 30)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.surely_some
    assert not found.surely_none


def test_what_lies_beyond_the_curve_is_said_and_not_extended() -> None:
    above, below = worth_of(table(0.81), curve(), 10), worth_of(table(0.49), curve(), 10)
    assert (above.value, below.value) == (math.inf, -math.inf)


def test_errors_fall_with_images() -> None:
    heights = (0.4, 0.3, 0.2, 0.1)
    found = worth_of(table(0.2, score="ece"), curve(heights, score="ece"), 10)
    assert found.value == pytest.approx(10)
    assert worth_of(table(0.05, score="ece"), curve(heights, score="ece"), 10).value == math.inf


def test_sizes_in_the_wrong_order_share_their_mean() -> None:
    assert pooling(np.array([0.5, 0.7, 0.6, 0.8])) == pytest.approx(
        np.array([[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]])
    )
    heights = (0.5, 0.7, 0.6, 0.8)
    assert worth_of(table(0.65), curve(heights), 10).value == pytest.approx(0)
    assert worth_of(table(0.66), curve(heights), 10).value > 10


def test_limits_are_where_arm_and_curve_differ_by_what_chance_explains() -> None:
    """All noise is the arm's, so that the limits are the curve's places of the ends of its own interval."""
    arm = table(0.65, 0.02, generators=3)
    found = worth_of(arm, curve(), 10)
    low, high = seed_mean(arm).interval()
    expected = [math.exp(np.interp(end, [0.5, 0.6, 0.7, 0.8], np.log(SIZES))) - 10 for end in (low, high)]
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-3)
    assert found.low < found.value < found.high
    assert worth_of(arm, curve(), 10, level=0.5).low > found.low


def test_noise_of_the_curve_widens_the_interval() -> None:
    arm = table(0.65, 0.01, generators=3)
    narrow, wide = worth_of(arm, curve(), 10), worth_of(arm, curve(noise=0.05), 10)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize(
    ("score", "low", "high"),
    [(0.95, 30, math.inf), (0.30, -math.inf, -5)],
)
def test_intervals_wholly_beyond_the_curve_begin_at_its_end(score: float, low: float, high: float) -> None:
    found = worth_of(table(score, 0.005, generators=3), curve(noise=0.005), 10)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.surely_some == (score > 0.9)
    assert found.surely_none == (score < 0.4)


def test_limits_that_leave_the_curve_are_infinite() -> None:
    found = worth_of(table(0.79, 0.05, generators=3), curve(noise=0.01), 10)
    assert found.high == math.inf
    assert 0 < found.low < found.value < 30


def test_only_seeds_that_all_have_are_used() -> None:
    points = curve()
    short = points[20]
    values = short.values.copy()
    values[:, :, 4] = 0.0  # of a seed that others lack
    points[20] = ScoreTable("accuracy", values, (), (0, 1, 2, 3, 77), 90)
    assert worth_of(table(0.7), points, 10).value == pytest.approx(10)


def test_what_is_no_curve_is_refused() -> None:
    with pytest.raises(Unusable, match="at least two sizes"):
        worth_of(table(0.6), {10: table(0.6)}, 10)
    with pytest.raises(
        Unusable, match="50 real images lie outside of the curve, 5 to 40; subsets of real images have no"
    ):
        worth_of(table(0.6), {**curve(), 20: table(0.7, generators=3)}, 50)
