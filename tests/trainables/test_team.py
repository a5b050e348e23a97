"""Runs that several processes train together: the same weights as by one, the same end for all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainables.conftest import MakeConfig
from trainables.config import RunConfig
from trainables.data import Batch
from trainables.events import read_events
from trainables.resident import Resident
from trainables.run import execute
from trainables.team import Team, surrounding_team

ROOT = Path(__file__).parents[2]
LORA: dict[str, Any] = {"train_batch_size": 5, "gradient_accumulation_steps": 2, "train_text_encoder": True}
DREAMBOOTH: dict[str, Any] = {
    "train_batch_size": 4,
    "with_prior_preservation": True,
    "train_text_encoder": True,
    "snr_gamma": 5.0,
    "use_ema": True,
    "learning_rate": 1e-4,
    "gradient_checkpointing": True,
    # Gradients that are zero but for rounding (biases of keys) would be blown up to whole steps by Adam.
    "adam_epsilon": 1e-5,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def job(
    config: RunConfig, size: int, breaking: Sequence[Any] | None = None, *, sharded: bool = False
) -> dict[str, Any]:
    return {
        "config": config.model_dump(mode="json"),
        "size": size,
        "port": free_port(),
        "break": breaking,
        "sharded": sharded,
    }


def do(folder: Path, jobs: list[dict[str, Any]], patience: float = 300) -> list[list[str | None]]:
    """Does jobs by as many processes as the largest needs; returns how each ended, by process."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trainables.team_member", str(file), str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"stderr.{rank}").open("wb"),
        )
        for rank in range(max(entry["size"] for entry in jobs))
    ]
    try:
        for process in processes:
            process.wait(patience)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ends = [file.with_suffix(f".{rank}.json") for rank in range(len(processes))]
    return [json.loads(end.read_text()) if end.exists() else [] for end in ends]


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """Everything that a run has trained, by file and name."""
    folder = Path(config.output_dir) / "weights"
    files = sorted(folder.rglob("*.safetensors"))
    assert files, f"no weights in {config.output_dir}"
    return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


def distance(config: RunConfig, other: RunConfig) -> float:
    """The largest difference of two runs' weights, in units of the largest weight of each tensor.

    Weights that begin at zero and move by less than 1e-4 (in the runs here: all move by more, but for biases of
    keys, which have no effect and no gradient) are compared in units of 1e-4.
    """
    ours, theirs = weights(config), weights(other)
    assert ours.keys() == theirs.keys()
    return max(
        float((value - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-4))
        for name, value in ours.items()
    )


def result(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content


def test_the_parts_of_a_batch_are_the_batch() -> None:
    batch = Batch(*(torch.arange(7.0) + number for number in range(5)))
    parts = [batch.part(rank, 3) for rank in range(3)]
    assert [len(part.latents) for part in parts] == [3, 2, 2]
    assert sorted(torch.cat([part.captions for part in parts]).tolist()) == batch.captions.tolist()
    assert batch.part(0, 1) is batch


def test_a_process_alone_is_a_team_of_one() -> None:
    team = surrounding_team()
    assert type(team) is Team
    assert (team.rank, team.size, team.leads) == (0, 1, True)
    value = torch.ones(2)
    assert team.sum(value) is value
    assert team.share({"a": value}, [1]) == ({"a": value}, [1])


@pytest.mark.slow
def test_the_number_of_processes_does_not_change_the_weights(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    runs: dict[str, list[RunConfig]] = {}
    for method, fields in (("lora", LORA), ("dreambooth", DREAMBOOTH)):
        runs[method] = [
            make_config(method, f"{method}-{size}", max_train_steps=20, checkpointing_steps=20, **fields)
            for size in (1, 2, 4)
        ]
        list(execute(runs[method][0], resident))
    jobs = [job(configs[number], size) for configs in runs.values() for number, size in ((1, 2), (2, 4))]
    ends = do(tmp_path, jobs)
    assert [end and end.endswith("events") for end in ends[0]] == [True] * 4, ends
    assert all(end == "0 events" for others in ends[1:] for end in others if end), ends

    for (alone, *teams), fields in zip(runs.values(), (LORA, DREAMBOOTH), strict=True):
        unmoved = fields | {"max_train_steps": 1, "learning_rate": 1e-12}
        start = make_config(alone.method, f"{alone.method}-start", **unmoved)
        for size, together in zip((2, 4), teams, strict=True):
            assert distance(together, alone) < 1e-4
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
            losses = [event.data["loss"] for event in events if event.kind == "progress"]
            alone_events = read_events(Path(alone.output_dir))
            assert losses == pytest.approx(
                [event.data["loss"] for event in alone_events if event.kind == "progress"], rel=1e-3
            )
        list(execute(start, resident))
        assert distance(alone, start) > 1  # or else there was nothing to be the same


@pytest.mark.slow
def test_what_one_process_fails_of_ends_all_for_that_reason(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    def config(name: str) -> RunConfig:
        return make_config("lora", name, max_train_steps=6, checkpointing_steps=2)

    breaking: dict[str, list[Any]] = {
        "follower": [1, 3, "error"],
        "leader": [0, 3, "error"],
        "nan": [1, 3, "nan"],
        "killed": [1, 3, "kill"],
    }
    jobs = [job(config(name), 2, rule) for name, rule in breaking.items()]
    leader, follower = do(tmp_path, jobs)
    assert all(end and end.endswith("events") for end in leader[:3]), leader
    assert follower[0] == follower[2] == "0 events"
    for name in ("follower", "leader"):
        ended = result(config(name))
        assert (ended["state"], ended["reason"]) == ("FAIL", "exception")
        assert ended["message"] == "a mistake of one process"
        assert "in batch_loss" in ended["traceback"]
        assert ended["cost"]["train_seconds"] > 0
    assert result(config("nan"))["reason"] == "nan_loss"

    # A process that died says nothing of the run, which goes on from its checkpoint: here by one process.
    assert leader[3] == "TeamLost: a worker of the run is gone"
    killed, whole = config("killed"), config("whole")
    assert not (Path(killed.output_dir) / "result.json").exists()
    list(execute(killed, resident))
    starts = [event.data for event in read_events(Path(killed.output_dir)) if event.kind == "started"]
    assert [(start["num_workers"], start["resumed_step"]) for start in starts] == [(2, 0), (1, 2)]
    list(execute(whole, resident))
    assert distance(killed, whole) < 1e-4
