"""Adapters over quantised weights, by two processes that exchange gradients: the same weights as by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.quantized_models import run_of
from tests.helpers.rounding import Yardstick
from tests.helpers.tiny_families import make_tiny
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import do, job, result
from trainables.run.execute import execute
from trainables.run.resident import Resident

pytest.importorskip("bitsandbytes")


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", pytest.param("8bit", marks=pytest.mark.nightly)])
def test_exchanged_gradients_give_the_weights_of_one_process(
    bits: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    folder, resident = make_tiny("flux", tmp_path / "flux"), Resident()
    fields = {"train_batch_size": 3, "max_train_steps": 6, "checkpointing_steps": 6, "adam_epsilon": 1e-5}
    alone, worker_group = (
        run_of(make_config, "lora", folder, bits, into=into, learning_rate=1e-2, **fields)
        for into in ("alone", "worker_group")
    )
    list(execute(alone, resident))
    ends = do(tmp_path, [job(worker_group, 2, sharded=False)])
    assert [end and end.endswith("events") for end in ends[0]] == [True], ends
    assert result(worker_group)["state"] == result(alone)["state"] == "COMPLETE"
    Yardstick(alone, 2, resident).assert_same(worker_group)
    assert result(worker_group)["cost"]["train_flops"] == result(alone)["cost"]["train_flops"]
