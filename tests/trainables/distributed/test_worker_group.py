"""Runs that several processes train together: the same weights as by one, the same end for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.rounding import ORDERS, Yardstick, weights
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import DREAMBOOTH, LORA, do, job, result
from trainables.distributed.worker_group import WorkerGroup, surrounding_group
from trainables.events import read_events
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training.batches import Batch


def test_the_parts_of_a_batch_are_the_batch() -> None:
    batch = Batch(*(torch.arange(7.0) + number for number in range(5)))
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert [len(part.latents) for part in parts] == [3, 2, 2]
    assert sorted(torch.cat([part.captions for part in parts]).tolist()) == batch.captions.tolist()
    assert batch.part(0, 1) is batch


def test_a_process_alone_is_a_worker_group_of_one() -> None:
    worker_group = surrounding_group()
    assert type(worker_group) is WorkerGroup
    assert (worker_group.rank, worker_group.size, worker_group.is_main_process) == (0, 1, True)
    value = torch.ones(2)
    assert worker_group.all_reduce_sum(value) is value
    assert worker_group.broadcast_tensors({"a": value}, [1]) == ({"a": value}, [1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "fields"), [("lora", LORA), pytest.param("dreambooth", DREAMBOOTH, marks=pytest.mark.nightly)]
)  # DreamBooth on two processes, with the frozen base's predictions, is below
def test_the_number_of_processes_does_not_change_the_weights(
    method: str, fields: dict[str, Any], make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    alone, *worker_groups = (
        make_config(method, f"{method}-{size}", max_train_steps=8, checkpointing_steps=8, **fields)
        for size in (1, 2, 4)
    )
    list(execute(alone, resident))
    ends = do(tmp_path, [job(together, size) for together, size in zip(worker_groups, (2, 4), strict=True)])
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 2, ends
    assert all(end == "0 events" for others in ends[1:] for end in others if end), ends

    yardstick = Yardstick(alone, 2, resident)
    for size, together in zip((2, 4), worker_groups, strict=True):
        yardstick.assert_same(together)
        events = read_events(Path(together.output_dir))
        assert [event.data["num_workers"] for event in events if event.kind == "started"] == [size]
        ours, theirs = result(together), result(alone)
        assert ours["state"] == "COMPLETE"
        assert ours["cost"]["train_flops"] == theirs["cost"]["train_flops"]
        assert ours["cost"]["trainable_parameters"] == theirs["cost"]["trainable_parameters"]
        assert ours["cost"]["device_seconds"] == pytest.approx(size * ours["cost"]["train_seconds"])
        assert ours["evaluation"]["subject_fidelity"] == pytest.approx(
            theirs["evaluation"]["subject_fidelity"], abs=1e-3
        )


@pytest.mark.slow
def test_each_process_asks_the_frozen_base_for_its_part(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    """Batches of one image and one of the class, too, of which a process has no sample of the class."""
    runs: list[list[RunConfig]] = []
    for method, own in (("dreambooth", DREAMBOOTH), ("lora", LORA | {"train_batch_size": 1})):
        fields = own | {"with_prior_preservation": True, "prior_preservation_target": "base"}
        runs.append(
            [
                make_config(method, f"{method}-{size}", max_train_steps=8, checkpointing_steps=8, **fields)
                for size in (1, 2)
            ]
        )
        list(execute(runs[-1][0], resident))
    ends = do(tmp_path, [job(together, 2) for _, together in runs])
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 2, ends
    for alone, together in runs:
        Yardstick(alone, 2, resident).assert_same(together)
        assert result(together)["cost"]["train_flops"] == result(alone)["cost"]["train_flops"]


@pytest.mark.slow
@pytest.mark.nightly
def test_a_fault_of_one_percent_in_the_exchange_is_seen(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    """What `Yardstick.assert_same` is worth: it passes sound worker groups on any processor, and none of these."""
    steps = {"max_train_steps": 8, "checkpointing_steps": 8}
    fields = {"lora": LORA | steps, "dreambooth": DREAMBOOTH | steps}
    alone = {method: make_config(method, f"{method}-alone", **fields[method]) for method in fields}
    for config in alone.values():
        list(execute(config, resident))
    one, all_of_them = {1: 1.01}, {0: 1.01, 1: 1.01}
    cases = [
        ("lora", False, one),
        ("lora", False, all_of_them),
        ("dreambooth", True, one),
        ("dreambooth", True, {}),
    ]
    configs = [make_config(case[0], f"case-{number}", **fields[case[0]]) for number, case in enumerate(cases)]
    jobs = [
        job(config, 2, sharded=sharded, factors=factors)
        for config, (_, sharded, factors) in zip(configs, cases, strict=True)
    ]
    ends = do(tmp_path, jobs)
    assert all(end and end.endswith("events") for end in ends[0]), ends

    yardsticks = {method: Yardstick(config, 2, resident) for method, config in alone.items()}
    member, everybody, shared, sound = configs
    # One member's part of the sum is off.
    assert yardsticks["lora"].distance(member) > 10 * ORDERS
    assert yardsticks["dreambooth"].distance(shared) > 10 * ORDERS
    # The whole sum is off, of which Adam's steps hardly depend; losses and gradients' norms tell as well.
    with pytest.raises(AssertionError):
        yardsticks["lora"].assert_same(everybody)
    yardsticks["dreambooth"].assert_same(sound)


@pytest.mark.slow
def test_what_one_process_fails_of_ends_all_for_that_reason(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    def config(name: str) -> RunConfig:
        return make_config("lora", name, max_train_steps=6, checkpointing_steps=2)

    breaking: dict[str, list[Any]] = {
        "other": [1, 3, "error"],
        "leader": [0, 3, "error"],
        "nan": [1, 3, "nan"],
        "killed": [1, 3, "kill"],
    }
    jobs = [job(config(name), 2, rule) for name, rule in breaking.items()]
    leader, other = do(tmp_path, jobs)
    assert all(end and end.endswith("events") for end in leader[:3]), leader
    assert other[0] == other[2] == "0 events"
    for name in ("other", "leader"):
        ended = result(config(name))
        assert (ended["state"], ended["reason"]) == ("FAIL", "exception")
        assert ended["message"] == "a mistake of one process"
        assert "in batch_loss" in ended["traceback"]
        assert ended["cost"]["train_seconds"] > 0
    assert result(config("nan"))["reason"] == "nan_loss"

    # A process that died says nothing of the run, which goes on from its checkpoint: here by one process.
    assert leader[3] == "WorkerGroupLost: a worker of the run is gone"
    killed, whole = config("killed"), config("whole")
    assert not (Path(killed.output_dir) / "result.json").exists()
    list(execute(killed, resident))
    starts = [event.data for event in read_events(Path(killed.output_dir)) if event.kind == "started"]
    assert [(start["num_workers"], start["resumed_step"]) for start in starts] == [(2, 0), (1, 2)]
    list(execute(whole, resident))
    Yardstick(whole, 2, resident).assert_same(killed)


def test_a_worker_group_that_has_failed_trains_the_next_run_like_a_new_one(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """In attaching, and in a step of a other: the models of all members are those of the base again."""
    fields = {"train_batch_size": 2, "target_modules": ("to_q", "to_v"), "mixed_precision": "bf16"}
    misspelt = make_config("lora", "misspelt", **{**fields, "target_modules": ("to_q", "to_vv")})
    broken, after, new = (make_config("lora", name, **fields) for name in ("broken", "after", "new"))
    (tmp_path / "second").mkdir()
    do(tmp_path, [job(misspelt, 2), job(broken, 2, [1, 2, "error"]), job(after, 2)])
    do(tmp_path / "second", [job(new, 2)])
    assert (result(misspelt)["state"], result(misspelt)["reason"]) == ("FAIL", "user_error")
    assert "'to_vv' matches no module" in result(misspelt)["message"]
    assert (result(broken)["state"], result(after)["state"]) == ("FAIL", "COMPLETE")
    ours, theirs = weights(after), weights(new)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
