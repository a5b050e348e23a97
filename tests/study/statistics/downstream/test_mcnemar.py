"""McNemar's test and the power of a test set: published answers, scipy, enumeration and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from study.statistics.downstream.mcnemar import images_needed, mcnemar, smallest_difference


def rows(b: int, c: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([1, 0, 1, 0], [b, c, both, neither])
    second = np.repeat([0, 1, 1, 0], [b, c, both, neither])
    return first, second


def test_the_published_example_comes_out() -> None:
    """Airway hyper-responsiveness in 21 children, of Fagerland, Lydersen and Laake (2013)."""
    found = mcnemar(*rows(1, 7, 1, 12))
    assert (found.first_only, found.second_only) == (1, 7)
    assert found.difference == pytest.approx(-6 / 21)
    assert found.p == pytest.approx(0.0703, abs=5e-5)
    assert found.mid_p == pytest.approx(0.0391, abs=5e-5)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 9), (25, 14), (80, 81)])
def test_the_exact_p_is_that_of_scipys_binomial_test(b: int, c: int) -> None:
    found = mcnemar(*rows(b, c))
    assert found.p == pytest.approx(stats.binomtest(b, b + c).pvalue)
    assert found.p == mcnemar(*rows(c, b)).p
    assert found.mid_p < found.p


def test_equal_counts_have_p_one_and_the_mid_p_of_the_paper() -> None:
    found = mcnemar(*rows(4, 4))
    assert found.p == 1
    assert found.mid_p == pytest.approx(1 - stats.binom.pmf(4, 8, 0.5) / 2)
    nothing = mcnemar(*rows(0, 0))
    assert (nothing.p, nothing.difference) == (1, 0)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_levels_over_all_tables_of_sixty_images(share: float) -> None:
    """The exact test rejects at most as often as it says, and its mid-p comes nearer to that."""
    exact = mid = 0.0
    for discordant in range(61):
        chance = stats.binom.pmf(discordant, 60, share)
        for b in range(discordant + 1):
            found = mcnemar(*rows(b, discordant - b))
            weight = chance * stats.binom.pmf(b, discordant, 0.5)
            exact += weight * (found.p < 0.05)
            mid += weight * (found.mid_p < 0.05)
    assert exact < mid <= 0.055
    assert exact <= 0.05


def test_two_rows_about_the_same_images_are_needed() -> None:
    with pytest.raises(ValueError, match="same images are needed, got"):
        mcnemar([1, 0], [1, 0, 1])


# ------------------------------------------------------------------ power


def test_380_images_find_ten_points_unpaired_and_seven_to_eight_and_a_half_paired() -> None:
    assert smallest_difference(380, accuracy=0.6) == pytest.approx(0.10, abs=0.002)
    assert smallest_difference(380, discordant=0.25) == pytest.approx(0.072, abs=0.0005)
    assert smallest_difference(380, discordant=0.35) == pytest.approx(0.085, abs=0.0005)


@pytest.mark.parametrize("design", [{"accuracy": 0.6}, {"discordant": 0.3}])
def test_number_and_difference_are_each_others_inverse(design: dict[str, float]) -> None:
    found = smallest_difference(380, **design)
    assert images_needed(found - 1e-9, **design) == 381
    assert images_needed(found + 1e-9, **design) == 380
    assert smallest_difference(380, alpha=0.01, **design) > found
    assert smallest_difference(380, power=0.5, **design) < found


def test_known_numbers_of_pairs_and_of_unpaired_images() -> None:
    """20 % against 10 % correct discordant pairs: Connor's formula by hand; .6 against .7: Fleiss's table."""
    by_hand = (1.959964 * 0.3**0.5 + 0.841621 * (0.3 - 0.01) ** 0.5) ** 2 / 0.01
    assert images_needed(0.1, discordant=0.3) == int(np.ceil(by_hand))
    assert images_needed(0.1, accuracy=0.65) == pytest.approx(356, abs=1)


def test_mcnemars_test_has_the_power_that_the_formula_says() -> None:
    """Simulated tables; the exact test is a little less powerful than the approximation."""
    rng = np.random.default_rng(0)
    share, images, count = 0.3, 380, 4_000
    difference = smallest_difference(images, discordant=share)
    tables = rng.multinomial(images, [(share + difference) / 2, (share - difference) / 2, 1 - share], count)
    b, c = tables[:, 0], tables[:, 1]
    fewer = np.minimum(b, c)
    mid = 2 * stats.binom.cdf(fewer, b + c, 0.5) - stats.binom.pmf(fewer, b + c, 0.5)
    assert (mid < 0.05).mean() == pytest.approx(0.80, abs=0.025)


def test_what_no_test_set_can_show_is_unknown_and_bad_numbers_are_refused() -> None:
    assert np.isnan(smallest_difference(4, discordant=0.2))
    with pytest.raises(ValueError, match="either the mean accuracy"):
        images_needed(0.1)
    with pytest.raises(ValueError, match="0 < difference <= discordant <= 1"):
        images_needed(0.4, discordant=0.3)
    with pytest.raises(ValueError, match="accuracies between 0 and 1"):
        images_needed(0.4, accuracy=0.9)
