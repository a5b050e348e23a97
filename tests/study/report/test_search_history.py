"""What the report computes of the search: histories and the importance of parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from study.report.analysis import Analysis
from study.report.prepared import Rows, prepare
from study.report.search_history import (
    MIN_TRIALS,
    explained_share,
    histories,
    importance_of,
    objective,
    parameter_importance,
    quantile_bins,
)
from tests.helpers.made_reports import analysed
from tests.helpers.synthetic_results import Study, make_results


def test_history_is_best_so_far(large: tuple[Rows, Analysis]) -> None:
    rows, _ = large
    found = {history.arm: history for history in histories(rows)}
    assert "base" not in found
    history = found["lora-constant"]
    assert len(history.trials) == 24
    assert list(history.best) == np.maximum.accumulate(np.array(history.scores, dtype=float)).tolist()
    assert found["dreambooth-constant"].scores[2] is None
    assert found["dreambooth-constant"].states[2] == "FAIL"


def test_history_goes_down_for_an_objective_to_minimise() -> None:
    results = make_results(Study(trials=6, meta={"objective": "drift"}))
    rows = prepare(results)
    assert objective(rows) == "drift"
    best = [b for b in histories(rows)[0].best if b is not None]
    assert best == sorted(best, reverse=True)


def test_objective_of_the_study_file() -> None:
    base = make_results()
    spec = {"spec": {"search": {"objectives": ["subject_fidelity", "prompt_fidelity"], "objective": None}}}
    assert objective(prepare(replace(base, meta=spec))) == "subject_fidelity"
    assert (
        objective(prepare(replace(base, meta={"spec": {"search": {"objective": "nonsense"}}}))) == "quality"
    )


def test_importance_finds_the_parameter_that_matters(large: tuple[Rows, Analysis]) -> None:
    found = importance_of(large[0], "dreambooth-constant", 0)
    assert found.parameters[0].name == "learning_rate"
    assert found.parameters[0].p < 0.01
    assert found.parameters[0].share > 0.4
    assert all(p.name != "with_prior_preservation" for p in found.parameters)  # the same in all its trials


def test_importance_is_skipped_with_the_reason(small: tuple[Rows, Analysis]) -> None:
    found = importance_of(small[0], "lora-constant", 0)
    assert found.parameters == ()
    assert found.skipped is not None
    assert str(MIN_TRIALS) in found.skipped
    rows, _ = analysed(Study(trials=1))
    assert "no hyperparameter varied" in (importance_of(rows, "lora-constant", 0).skipped or "")


def test_importance_warns_of_few_trials() -> None:
    rows, _ = analysed(Study(trials=12))
    assert "12" in (importance_of(rows, "lora-constant", 0).warning or "")


def test_noise_has_no_importance() -> None:
    chance = np.random.default_rng(0)
    ps, shares = [], []
    for k in range(25):
        found = parameter_importance("x", list(chance.uniform(0, 1, 20)), chance.normal(0, 1, 20), seed=k)
        ps.append(found.p)
        shares.append(found.share)
    assert np.mean(np.array(ps) < 0.05) <= 0.15
    assert np.mean(shares) < 0.12


def test_importance_of_categories_and_of_curved_effects() -> None:
    chance = np.random.default_rng(1)
    kinds = ["a", "b", "c"] * 8
    scores = np.array([{"a": 0.0, "b": 1.0, "c": 0.5}[kind] for kind in kinds]) + chance.normal(0, 0.1, 24)
    found = parameter_importance("kind", kinds, scores, seed=0)
    assert found.share > 0.7
    assert found.correlation is None
    x = np.linspace(-1, 1, 24)
    curved = parameter_importance("x", x.tolist(), -(x**2) + chance.normal(0, 0.05, 24), seed=0)
    assert curved.share > 0.6  # a rank correlation would see nothing
    assert abs(curved.correlation or 0) < 0.35


def test_explained_share_is_the_correlation_ratio() -> None:
    chance = np.random.default_rng(2)
    groups, scores = chance.integers(0, 4, 30), chance.normal(0, 1, 30)
    samples = [scores[groups == g] for g in np.unique(groups)]
    f = stats.f_oneway(*samples).statistic
    k, n = len(samples), 30
    assert explained_share(groups, scores) == pytest.approx(f * (k - 1) / (f * (k - 1) + n - k))
    assert explained_share(groups, np.ones(30)) == 0.0


def test_quantile_bins_hold_about_as_many() -> None:
    values = np.random.default_rng(3).lognormal(0, 2, 30)
    assert np.bincount(quantile_bins(values)).tolist() == [6] * 5
    assert quantile_bins(np.array([1.0, 1.0, 4.0, 4.0, 8.0, 8.0, 8.0, 1.0, 4.0])).max() == 2
