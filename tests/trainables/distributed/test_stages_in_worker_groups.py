"""A method with stages, trained by several processes: the same weights as by one, in both stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.rounding import apart
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import do, job, result
from trainables.run.execute import execute
from trainables.run.resident import Resident

FIELDS: dict[str, Any] = {
    "train_batch_size": 4,
    "max_train_steps": 8,
    "max_train_steps_ti": 4,
    "checkpointing_steps": 8,
    "learning_rate": 1e-3,
    "embedding_learning_rate": 1e-2,
    "r": 2,
    "preserve_norm": True,
    # Gradients that are zero but for rounding would be blown up to whole steps by Adam.
    "adam_epsilon": 1e-5,
}


@pytest.mark.slow
def test_worker_groups_change_neither_stage(make_config: MakeConfig, tmp_path: Path) -> None:
    """Exchanged gradients (DDP) and a shared model (FSDP), whose flags are settled before the second stage begins.

    Each process has another part of the batch, so that a stage whose gradients are not exchanged ends elsewhere.
    """
    resident = Resident()
    alone, ddp, fsdp = (make_config("pivotal_tuning", name, **FIELDS) for name in ("alone", "ddp", "fsdp"))
    still = {"learning_rate": 1e-12, "embedding_learning_rate": 1e-12}
    start = make_config("pivotal_tuning", "start", **FIELDS | still)
    for config in (alone, start):
        list(execute(config, resident))
    ends = do(tmp_path, [job(ddp, 2), job(fsdp, 2, sharded=True)])
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 2, ends
    for config in (ddp, fsdp):
        assert result(config)["state"] == "COMPLETE"
        assert apart(config, alone, start) < 1e-2
        assert result(config)["cost"]["train_flops"] == result(alone)["cost"]["train_flops"]
