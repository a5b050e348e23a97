"""Runs with several workers through a whole study on a local Ray cluster: real training of a tiny model."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from study.attempt import attempts, order_stop
from study.cluster.local_ray import cluster
from study.execute import launch
from study.ledger import Ledger
from study.run_result import read_result
from study.runs import RunKey, Storage
from study.spec import StudySpec
from tests.study.small_studies import attempts_of
from tests.tiny import make_photos, make_tiny_clip, make_tiny_model, make_tiny_vit
from trainables.config import RunConfig
from trainables.events import read_events
from trainables.run import execute

STEPS, EVERY = 120, 10


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "model", resolution=16, width=16)
    make_tiny_clip(folder / "clip", resolution=16)
    make_tiny_vit(folder / "vit", resolution=16)
    make_photos(folder / "photos", count=5)
    return folder


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    with cluster(cpus=2):
        yield


def team_study(models: Path, seeds: tuple[int, ...] = (1, 2, 3), *, base: bool = False) -> StudySpec:
    """One configuration by two workers, beside the base model if that is wanted."""
    return StudySpec.model_validate(
        {
            "name": "team",
            "model": str(models / "model"),
            "subjects": [
                {
                    "name": "cat",
                    "images": str(models / "photos"),
                    "instance_prompt": "a sks cat",
                    "class_prompt": "a cat",
                }
            ],
            "arms": {
                **({"base": {"method": "base"}} if base else {}),
                "lora": {"method": "lora", "r": 2, "search_space": "fixed"},
            },
            "training": {"train_batch_size": 4, "checkpointing_steps": EVERY, "learning_rate": 1e-3},
            "budget": {"max_train_steps": STEPS},
            "confirm": {"subjects": ["cat"], "seeds": seeds},
            "evaluation": {
                "image_encoder": str(models / "vit"),
                "clip": str(models / "clip"),
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 1,
                "num_class_images": 2,
            },
            "resources": {"num_workers": 2},
        }
    )


def key(seed: int) -> RunKey:
    return RunKey("confirm", "lora", 0, "cat", seed)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "pytorch_lora_weights.safetensors")


def when_saved(folder: Path, step: int, action: Any) -> threading.Thread:
    """Acts in a thread when a run has saved a checkpoint at or after a step; at step 0 when it has begun."""

    def wait() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            kind = "checkpoint" if step else "started"
            if any(e.kind == kind and (e.step or 0) >= step for e in read_events(folder)):
                return action()
            time.sleep(0.02)
        return None

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def team_processes() -> list[psutil.Process]:
    """The workers of all runs that several workers train."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_the_follower(folder: Path, listening: set[str]) -> None:
    """SIGKILL for the worker of a run that does not lead it; notes where both listen."""
    leader = next(e.data["pid"] for e in read_events(folder) if e.kind == "started")
    for process in team_processes():
        sockets = process.net_connections("inet")
        listening |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
        if process.pid != leader:
            process.kill()


@pytest.mark.slow
def test_a_study_by_teams_of_two(models: Path, fast_path: Path) -> None:
    spec = team_study(models, base=True)
    storage = Storage(fast_path, spec.name)
    killed, begun, stopped = (storage.run_folder(key(seed)) for seed in (1, 2, 3))
    config = spec.run_config(key(2), {}, storage)
    alone = execute(config)  # one worker begins it
    for event in alone:
        if event.kind == "checkpoint" and event.step == 2 * EVERY:
            break
    with pytest.raises(KeyboardInterrupt):
        alone.throw(KeyboardInterrupt())

    listening: set[str] = set()
    killer = when_saved(killed, EVERY, lambda: kill_the_follower(killed, listening))
    stopper = when_saved(stopped, 0, lambda: order_stop(stopped, "enough"))
    outcome = launch(spec, storage)
    assert not killer.is_alive()
    assert not stopper.is_alive()
    assert (outcome.interrupted, outcome.failed) == (False, [])
    assert (outcome.complete, outcome.pruned) == (3 + 2, 1)

    ledger = Ledger(storage.ledger_url, spec.name)
    records = ledger.trials("lora", "confirm")
    states = [run["state"] for record in records for run in record.runs.values()]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "PRUNED"]
    (note,) = outcome.notes
    assert "its worker died in attempt 1" in note
    assert "(worker_died)" in note

    addresses = [ipaddress.ip_address(address) for address in listening]
    assert addresses
    assert all(getattr(found, "ipv4_mapped", None) or found.is_loopback for found in addresses), listening

    # Killed: gone on with from a checkpoint, by two again.
    assert len(attempts(killed)) == 2
    begin, again = attempts_of(killed)
    assert begin == 0
    assert again in range(EVERY, STEPS, EVERY)
    # Begun by one process, ended by two.
    assert attempts_of(begun) == [0, 2 * EVERY]
    workers = [e.data["num_workers"] for e in read_events(begun) if e.kind == "started"]
    assert workers == [1, 2]
    for folder, seed in ((killed, 1), (begun, 2)):
        result = read_result(folder)
        assert result is not None
        cost = result.cost
        assert cost["device_seconds"] == pytest.approx(2 * cost["train_seconds"])  # type: ignore[operator]
        whole = RunConfig.model_validate(
            spec.run_config(key(seed), {}, storage).model_dump() | {"output_dir": str(fast_path / f"{seed}")}
        )
        list(execute(whole))
        expected = weights(Path(whole.output_dir))
        for name, value in weights(folder).items():
            assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-7), name
    lost = read_result(killed)
    assert lost is not None
    assert lost.cost["lost_seconds"] > 0  # type: ignore[operator]

    last = max(event.step or 0 for event in read_events(stopped))
    assert last < STEPS
    assert (stopped / "log.txt").exists()
    bases = [storage.run_folder(RunKey("confirm", "base", 0, "cat", seed)) for seed in (1, 2, 3)]
    for base in bases:
        (start,) = (event.data for event in read_events(base) if event.kind == "started")
        assert start["num_workers"] == 1  # there is nothing to train together


@pytest.mark.slow
def test_a_manager_that_dies_holds_no_room(models: Path, fast_path: Path) -> None:
    """The actor that drives Ray Train for a run; Ray alone would keep its workers' CPUs for ever."""
    spec = team_study(models, seeds=(1,))
    storage = Storage(fast_path, spec.name)
    folder = storage.run_folder(key(1))

    def kill_the_manager() -> None:
        leader = psutil.Process(next(e.data["pid"] for e in read_events(folder) if e.kind == "started"))
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "RunWorker" in " ".join(process.cmdline()) and process.pid != leader.pid:
                    process.kill()

    killer = when_saved(folder, EVERY, kill_the_manager)
    outcome = launch(spec, storage)
    assert not killer.is_alive()
    assert (outcome.interrupted, outcome.failed, outcome.complete) == (False, [], 1)
    assert len(attempts_of(folder)) == 2


@pytest.mark.slow
def test_a_driver_that_ends_leaves_no_worker_and_a_run_to_go_on_with(models: Path, fast_path: Path) -> None:
    spec = team_study(models, seeds=(1,))
    storage = Storage(fast_path, spec.name)
    folder = storage.run_folder(key(1))
    end = when_saved(folder, EVERY, lambda: os.kill(os.getpid(), signal.SIGINT))
    outcome = launch(spec, storage, say=lambda _: None)
    assert not end.is_alive()
    assert outcome.interrupted
    assert "interrupted by SIGINT" in str(outcome.message)
    assert read_result(folder) is None
    until = time.monotonic() + 120
    while team_processes() and time.monotonic() < until:
        time.sleep(0.2)
    assert team_processes() == []

    outcome = launch(spec, storage)
    assert (outcome.interrupted, outcome.failed, outcome.complete) == (False, [], 1)
    begin, again = attempts_of(folder)
    assert begin == 0
    assert again in range(EVERY, STEPS, EVERY)
