"""Runs whose workers share the model (FSDP): what one process would train, of which each holds its part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch.multiprocessing as processes

from tests.helpers.overflow_worker import overflow
from tests.helpers.rounding import Yardstick, told
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import DREAMBOOTH, LORA, do, job, result
from trainables.events import read_events
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig


@pytest.fixture
def resident() -> Resident:
    """Models of this test's own: what its runs leave behind in them is the same in the processes of a worker group."""
    return Resident()


def held(folder: Path, rank: int) -> list[dict[str, float]]:
    """Which share of model, optimizer state and average a process held, job by job."""
    content: list[dict[str, float]] = json.loads((folder / f"jobs.{rank}.held.json").read_text())
    return content


MIXED = {"mixed_precision": "bf16", "train_batch_size": 4, "adam_epsilon": 1e-5, "max_train_steps": 6}
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "dreambooth": (DREAMBOOTH | {"at": (0.5,)}, 2),
    "lora": (LORA, 2),
    "dreambooth_lora": (MIXED, 4),  # frozen parts in bfloat16 beside adapters in float32
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "methods", [("dreambooth",), pytest.param(("lora", "dreambooth_lora"), marks=pytest.mark.nightly)]
)
def test_sharing_the_model_does_not_change_the_weights(
    methods: tuple[str, ...], make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    """Two and four processes; of the four, some get none of the rows of adapters of rank 2."""
    runs: list[tuple[RunConfig, RunConfig, int]] = []
    for method in methods:
        fields, size = CASES[method]
        fields = {"max_train_steps": 8, "checkpointing_steps": 8} | fields
        alone, together = (make_config(method, f"{method}-{number}", **fields) for number in (1, size))
        list(execute(alone, resident))
        runs.append((alone, together, size))
    ends = do(tmp_path, [job(config, size, sharded=True) for _, config, size in runs])
    assert [end and end.endswith("events") for end in ends[0]] == [True] * len(runs), ends

    for number, (alone, together, size) in enumerate(runs):
        Yardstick(alone, size, resident).assert_same(together)
        ours, theirs = result(together), result(alone)
        assert ours["state"] == "COMPLETE"
        assert ours["cost"]["train_flops"] == theirs["cost"]["train_flops"]
        for name in ("trainable_parameters", "inference_bytes", "inference_fused_bytes"):
            assert ours["cost"][name] == theirs["cost"][name]
        assert ours["cost"]["switch_seconds"] > 0
        evaluations = told(together, "evaluation", "subject_fidelity")
        assert len(evaluations) == (2 if alone.method == "dreambooth" else 1)
        precise = alone.training.mixed_precision == "no"
        assert evaluations == pytest.approx(
            told(alone, "evaluation", "subject_fidelity"), abs=1e-3 if precise else 0.05
        )
        (start,) = (event for event in read_events(Path(together.output_dir)) if event.kind == "started")
        assert (start.data["num_workers"], start.data["parallel_strategy"]) == (size, "fsdp")

        shares = [held(tmp_path, rank)[number] for rank in range(size)]
        for name in ("model", "moments") + (("average",) if alone.training.use_ema else ()):
            assert sum(share[name] for share in shares) == pytest.approx(1), name  # nothing twice
            if alone.method == "dreambooth":  # rows of adapters are too few to be dealt out evenly
                assert max(share[name] for share in shares) < 1.15 / size, name


@pytest.mark.slow
def test_a_shared_model_goes_on_from_any_checkpoint_and_leaves_one_for_all(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    def config(name: str) -> RunConfig:
        return make_config(
            "dreambooth", name, **(DREAMBOOTH | {"max_train_steps": 6, "checkpointing_steps": 2})
        )

    other, leader, begun, killed = map(config, ("other", "leader", "begun", "killed"))
    whole = config("whole")
    list(execute(whole, resident))
    alone = execute(begun, resident)  # one process begins it, two go on
    for event in alone:
        if event.kind == "checkpoint" and event.step == 2:
            break
    with pytest.raises(KeyboardInterrupt):
        alone.throw(KeyboardInterrupt())
    breaking: list[list[Any] | None] = [[1, 3, "error"], [0, 3, "error"], None, [1, 3, "kill"]]
    configs = (other, leader, begun, killed)
    jobs = [job(one, 2, rule, sharded=True) for one, rule in zip(configs, breaking, strict=True)]
    first, second = do(tmp_path, jobs)

    assert all(end and end.endswith("events") for end in first[:3]), first
    assert second[0] == second[2] == "0 events", second
    for failed in (other, leader):
        ended = result(failed)
        assert (ended["state"], ended["message"]) == ("FAIL", "a mistake of one process")
        assert "in batch_loss" in ended["traceback"]
    assert first[3] == "WorkerGroupLost: a worker of the run is gone"

    list(execute(killed, resident))  # two began it, one process goes on
    yardstick = Yardstick(whole, 2, resident)
    for resumed, workers in ((begun, [1, 2]), (killed, [2, 1])):
        starts = [event.data for event in read_events(Path(resumed.output_dir)) if event.kind == "started"]
        assert [start["num_workers"] for start in starts] == workers
        assert [start["resumed_step"] for start in starts] == [0, 2]
        assert result(resumed)["state"] == "COMPLETE"
        yardstick.assert_same(resumed)


def test_an_overflow_in_the_part_of_one_process_skips_the_step_of_all(tmp_path: Path) -> None:
    processes.start_processes(overflow, (str(tmp_path),), nprocs=2, start_method="forkserver")
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert told == [[[True, False, True], [64.0, 32.0, 32.0]]] * 2
