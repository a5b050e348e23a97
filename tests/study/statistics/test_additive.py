"""The additive surrogate: against least squares, the closed form of one feature, and its intervals' coverage."""

from __future__ import annotations

import numpy as np
import pytest

from study.statistics import additive
from study.statistics.additive import PENALTIES, fit_additive, jackknife
from study.statistics.paired import mean_interval

SUBJECTS = 8


def trials(
    seed: int, each: int = 5, noise: float = 0.1, width: int = 3
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features, scores with weights 1, -0.5, 0, ... and a level for each subject, and subjects."""
    chance = np.random.default_rng(seed)
    names = [f"s{k // each}" for k in range(SUBJECTS * each)]
    x = chance.normal(size=(len(names), width))
    weights = np.array([1.0, -0.5, *[0.0] * (width - 2)])
    levels = np.repeat(chance.normal(0, 2, SUBJECTS), each)
    return x, x @ weights + levels + chance.normal(0, noise, len(names)), names


def test_without_a_penalty_it_is_least_squares_with_a_level_for_each_subject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(additive, "PENALTIES", (1e-12,))
    x, y, names = trials(1)
    dummies = np.array([[name == f"s{k}" for k in range(SUBJECTS)] for name in names], dtype=float)
    expected, *_ = np.linalg.lstsq(np.hstack([x, dummies]), y, rcond=None)
    found = fit_additive(x, y, names)
    assert found.weights == pytest.approx(expected[:3])
    for k, subject in enumerate(found.subjects):  # and so it is without each subject
        rest = np.array([name != subject for name in names])
        others = np.delete(dummies[rest], k, axis=1)
        expected, *_ = np.linalg.lstsq(np.hstack([x[rest], others]), y[rest], rcond=None)
        assert found.left_out[k] == pytest.approx(expected[:3])


def test_one_feature_is_shrunk_by_its_penalty() -> None:
    x, y, names = trials(2, width=2)
    found = fit_additive(x[:, :1], y, names)
    centred = [np.array([x[:, 0], y])[:, [name == one for name in names]] for one in found.subjects]
    sums = sum(
        (part - part.mean(axis=1, keepdims=True)) @ (part - part.mean(axis=1, keepdims=True)).T
        for part in centred
    )
    assert found.weights[0] == pytest.approx(sums[0, 1] / sums[0, 0] / (1 + found.penalty))
    assert found.penalty in PENALTIES


def test_a_subjects_level_and_a_features_unit_say_nothing() -> None:
    x, y, names = trials(3)
    found = fit_additive(x, y, names)
    moved = fit_additive(x * [1, 10, 1], y + np.array([hash(name) % 7 for name in names]), names)
    assert moved.weights == pytest.approx(found.weights / [1, 10, 1])
    assert moved.explained == pytest.approx(found.explained)


def test_what_is_explained_is_of_subjects_left_out() -> None:
    assert fit_additive(*trials(4, noise=0.0)).explained > 0.99
    x, _, names = trials(5, each=3, width=6)
    noise = np.random.default_rng(6).normal(size=len(names))
    assert fit_additive(x, noise, names).explained < 0.15
    one = fit_additive(x[:12], x[:12, 0], ["s0"] * 12)  # trials of one subject, each by the others
    assert 0.5 < one.explained <= 1
    assert fit_additive(x, np.ones(len(names)), names).explained == 0


def test_a_feature_that_does_not_vary_has_no_weight() -> None:
    x, y, names = trials(7)
    x[:, 2] = 4.0
    found = fit_additive(x, y, names)
    assert found.weights[2] == 0
    assert (found.left_out[:, 2] == 0).all()


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.random.default_rng(8).normal(size=7)
    left_out = [np.delete(values, k).mean() for k in range(7)]
    found, expected = jackknife(float(values.mean()), left_out), mean_interval(values)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert jackknife(1.0, left_out[:2]).low is None  # two subjects
    assert jackknife(1.0, [*left_out[:3], np.nan]).low is None


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = []
    for seed in range(60):
        found = fit_additive(*trials(100 + seed, each=4, noise=0.5))
        own = [jackknife(found.weights[k], found.left_out[:, k]) for k in range(3)]
        for one, truth in zip(own, (1.0, -0.5, 0.0), strict=True):
            assert one.low is not None
            assert one.high is not None
            held.append(one.low <= truth <= one.high)
    assert 0.87 <= np.mean(held) <= 0.995
