"""A polynomial schedule at a rate of 1e-7, which diffusers' own would refuse once the run has begun."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.short_runs import config_of
from trainables.run.execute import execute


def test_it_trains_and_ends_at_its_fraction_of_the_rate(tmp_path: Path) -> None:
    config = config_of(
        tmp_path / "run",
        learning_rate=1e-7,
        lr_scheduler="polynomial",
        lr_end_fraction=0.5,
        max_train_steps=4,
    )
    rates = [event.data["learning_rate"] for event in execute(config) if event.kind == "progress"]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["state"] == "COMPLETE"
    assert rates == pytest.approx([1e-7 * (0.5 + 0.5 * left / 4) for left in (3, 2, 1, 0)])
