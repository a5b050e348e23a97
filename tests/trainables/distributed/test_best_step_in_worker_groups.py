"""The best step of runs that several processes train: what one process would restore, from one file of the leader's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.rounding import apart
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import do, job, result
from trainables.events import read_events
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig

FIELDS: dict[str, Any] = {
    "train_batch_size": 4,
    "max_train_steps": 8,
    "checkpointing_steps": 8,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "learning_rate": 1e-3,
    "use_ema": True,
    # Gradients that are zero but for rounding would be blown up to whole steps by Adam.
    "adam_epsilon": 1e-5,
}


def restoring(config: RunConfig) -> RunConfig:
    """By the drift from the base model, so that the first evaluation is the best."""
    changes = {"restore_best": "drift", "at": (0.25, 0.5)}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=changes)})


@pytest.mark.slow
def test_worker_groups_restore_what_one_process_would(make_config: MakeConfig, tmp_path: Path) -> None:
    """Exchanged gradients (DDP), and a shared model (FSDP) of which the leader keeps the whole weights."""
    resident = Resident()
    alone, ddp, fsdp = (
        restoring(make_config("dreambooth", name, **FIELDS)) for name in ("alone", "ddp", "fsdp")
    )
    start = make_config("dreambooth", "start", **FIELDS | {"learning_rate": 1e-12})
    for config in (alone, start):
        list(execute(config, resident))
    ends = do(tmp_path, [job(ddp, 2), job(fsdp, 2, sharded=True)])
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 2, ends
    line = result(alone)["best"]
    assert (line["best_step"], line["restored"]) == (2, True)
    for config in (ddp, fsdp):
        assert result(config)["state"] == "COMPLETE"
        own = result(config)["best"]
        assert (own["best_step"], own["evaluations"], own["restored"]) == (2, 3, True)
        assert own["value"] == pytest.approx(line["value"], rel=0.1)
        assert apart(config, alone, start) < 1e-2
        told = [event for event in read_events(Path(config.output_dir)) if event.kind == "evaluation"]
        assert [event.data["final"] for event in told] == [False, False, False, True]
