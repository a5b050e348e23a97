"""Runs whose workers share the model (FSDP): the same weights as by one process, of which each holds its part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainables.conftest import MakeConfig
from tests.trainables.test_team import DREAMBOOTH, LORA, distance, do, job
from trainables.resident import Resident
from trainables.run import execute


@pytest.mark.slow
def test_sharing_the_model_does_not_change_the_weights(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    runs: dict[str, list[Any]] = {}
    for method, fields in (("lora", LORA), ("dreambooth", DREAMBOOTH)):
        runs[method] = [
            make_config(method, f"{method}-{size}", max_train_steps=20, checkpointing_steps=20, at=(0.5,), **fields)
            for size in (1, 2, 4)
        ]
        list(execute(runs[method][0], resident))
    jobs = [
        job(configs[number], size, sharded=True) for configs in runs.values() for number, size in ((1, 2), (2, 4))
    ]
    ends = do(tmp_path, jobs)
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 4, ends
    for alone, *teams in runs.values():
        for together in teams:
            print(alone.method, distance(together, alone))
            assert distance(together, alone) < 1e-4
