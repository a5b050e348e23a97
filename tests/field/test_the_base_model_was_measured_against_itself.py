"""The untrained base model has no drift: 0 in every table, and no 2e-16 of either sign.

On the other scales it is measured like any run: it was at their zero by construction, and with quality clipped at 0
arms that were the base model and noise came out ahead of it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.api import _interval
from study.report.formatting import number
from study.report.tables import Column, Table, number_cell, to_csv
from study.results.run_rows import make_row
from study.statistics.paired import mean_interval
from study.storage.run_key import RunKey
from study.util.printing import cell, plain
from trainables.evaluation import metrics
from trainables.run.execute import execute
from trainables.run_config import RunConfig


def embeddings(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 96)).astype(np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_images_have_no_distance(seed: int) -> None:
    images = embeddings(8, seed)
    assert metrics.drift(images, images) == 0.0
    assert metrics.drift(images, 3 * images) == 0.0
    other_batch = images * (1 + np.random.default_rng(seed).normal(0, 1e-6, images.shape)).astype(np.float32)
    assert metrics.drift(other_batch, images) == 0.0


def test_other_images_have_theirs() -> None:
    one, other = embeddings(8, 0), embeddings(8, 1)
    expected = 1 - (metrics.paired_cosine(one, other) or 0.0)
    assert metrics.drift(one, other) == pytest.approx(expected, rel=1e-12)
    little = metrics.drift(one, one + np.float32(1e-3) * other)
    assert little == pytest.approx(5e-7, rel=0.3), "a little is not nothing"
    assert metrics.drift(np.zeros((1, 4)), np.ones((1, 4))) == 1.0
    assert metrics.drift(one[:0], other[:0]) is None


def test_no_zero_has_a_sign() -> None:
    assert (cell(-0.0), str(plain(-0.0)), number(-0.0)) == ("0", "0.0", "0")
    assert _interval("-0.001", "0.2") == "0.00 .. 0.20"
    row = make_row(
        study="s", key=RunKey("confirm", "base", 0, "cat-1", 0), method="base", state="COMPLETE",
        metrics={"eval/drift": -0.0}, params={}, facts={},
    )  # fmt: skip
    assert pd.DataFrame([row])[["drift"]].to_csv(index=False) == "drift\n0.0\n"
    table = Table("t", "", (Column("x", "x", numeric=True),), ((number_cell(-0.0),),))
    assert to_csv(table) == "x\n0.0\n"


def test_equal_values_have_no_interval_of_rounding() -> None:
    estimate = mean_interval([0.1] * 3 + [0.1] * 3, list("abcabc"))
    assert estimate.half_width == 0.0


def test_the_base_arm_is_measured_like_any_other(tmp_path: Path) -> None:
    """No drift, whatever the sizes of batches; near the ends of the scales, and not at them by construction."""
    small = {"num_prompts": 3, "images_per_prompt": 2, "num_inference_steps": 3, "num_class_images": 3}
    config = RunConfig.model_validate(
        {
            "method": "base",
            "subject": {"name": "bird-1"},
            "output_dir": str(tmp_path / "run"),
            "cache_dir": str(tmp_path / "cache"),
            "evaluation": small | {"batch_size": 4},
        }
    )
    found = {}
    for seed in (0, 1):
        run = config.model_copy(update={"seed": seed, "output_dir": str(tmp_path / f"run-{seed}")})
        found[seed] = next(event for event in reversed(list(execute(run))) if event.kind == "evaluation").data
    for data in found.values():
        assert data["drift"] == 0.0
        assert data["subject_fidelity_scaled"] == pytest.approx(0, abs=0.3)
        assert data["prompt_fidelity_scaled"] == pytest.approx(1, abs=0.5)
        assert data["subject_fidelity_scaled"] != 0.0
        assert data["prompt_fidelity_scaled"] != 1.0
    assert found[0]["subject_fidelity"] != found[1]["subject_fidelity"]  # other noise
    for data in found.values():
        assert data["subject_anchor_error"] > 0  # at the run's own place on the scale
