"""The Vendi score against closed forms, and against its definition computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainables.evaluation.vendi import vendi_score


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_images_that_are_alike_count_as_one(count: int) -> None:
    assert vendi_score(np.tile([[3.0, 4.0, 0.0]], (count, 1))) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_orthogonal_images_count_each(count: int) -> None:
    lengths = np.arange(1, count + 1)[:, None]  # which say nothing
    assert vendi_score(np.eye(count, 9) * lengths) == pytest.approx(count)


def test_groups_of_unequal_sizes_have_the_entropy_of_their_shares() -> None:
    shares = (0.5, 0.3, 0.2)
    rows = np.repeat(np.eye(3), [5, 3, 2], axis=0)
    assert vendi_score(rows) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_of_two_images_it_follows_from_their_cosine() -> None:
    """K / 2 has the eigenvalues (1 + c) / 2 and (1 - c) / 2."""
    cosine = 0.6
    high, low = (1 + cosine) / 2, (1 - cosine) / 2
    expected = math.exp(-(high * math.log(high) + low * math.log(low)))
    assert vendi_score(np.array([[1.0, 0.0], [cosine, 0.8]])) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(6, 20), (30, 8)])
def test_it_is_the_entropy_of_the_kernel_matrix(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(1).standard_normal(shape)
    count = len(rows)
    kernel = np.array([[a @ b / math.sqrt((a @ a) * (b @ b)) for b in rows] for a in rows])
    values = np.linalg.svd(kernel / count, compute_uv=False)
    expected = math.exp(-sum(v * math.log(v) for v in values if v > 1e-12))
    assert vendi_score(rows) == pytest.approx(expected)


def test_nothing_is_said_of_no_images_and_of_rows_of_zeros() -> None:
    assert vendi_score(np.zeros((0, 3))) is None
    assert vendi_score(np.array([[1.0, 0.0], [0.0, 0.0]])) is None
