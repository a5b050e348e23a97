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

from benchmarks.support.tiny_models import make_photos, make_tiny_clip, make_tiny_model, make_tiny_vit
from study.cluster.ray_cluster import cluster
from study.driver.launch import launch
from study.ledger.ledger import Ledger
from study.spec.study_spec import StudySpec
from study.storage.attempts import attempts
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from study.worker.stop_order import order_stop
from tests.helpers.rounding import Yardstick
from tests.helpers.small_studies import attempts_of
from trainables.events import read_events
from trainables.run.execute import execute
from trainables.run_config import RunConfig

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


def worker_group_study(models: Path, seeds: tuple[int, ...] = (1, 2)) -> StudySpec:
    """One configuration by two workers."""
    return StudySpec.model_validate(
        {
            "name": "worker_group",
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
                "anchor_images": 2,
                "num_class_images": 2,
            },
            "resources": {"num_workers": 2},
        }
    )


def key(seed: int) -> RunKey:
    return RunKey("confirm", "lora", 0, "cat", seed)


def when_saved(folder: Path, step: int, action: Any, *, attempt: int = 1) -> threading.Thread:
    """Acts in a thread when a run has saved a checkpoint at or after a step; at step 0 when it has begun.

    Args:
        attempt: It, or a later one, has done so.
    """

    def come() -> bool:
        begun = 0
        for event in read_events(folder):
            begun += event.kind == "started"
            kind = "checkpoint" if step else "started"
            if begun >= attempt and event.kind == kind and (event.step or 0) >= step:
                return True
        return False

    def wait() -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until:
            if come():
                return action()
            time.sleep(0.05)
        return None

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def worker_group_processes() -> list[psutil.Process]:
    """The workers of all runs that several workers train."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_the_other_rank(folder: Path, listening: set[str]) -> None:
    """SIGKILL for the worker of a run that does not lead it; notes where both listen."""
    leader = next(e.data["pid"] for e in read_events(folder) if e.kind == "started")
    for process in worker_group_processes():
        sockets = process.net_connections("inet")
        listening |= {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}
        if process.pid != leader:
            process.kill()


def kill_the_manager(folder: Path) -> None:
    """SIGKILL for the actor that drives Ray Train for a run."""
    leader = next(e.data["pid"] for e in reversed(read_events(folder)) if e.kind == "started")
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RunWorker" in " ".join(process.cmdline()) and process.pid != leader:
                process.kill()


def assert_ended(*helpers: threading.Thread) -> None:
    """What should happen in the middle of a launch has happened."""
    for helper in helpers:
        helper.join(timeout=60)
        assert not helper.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_a_study_by_worker_groups_of_two(interrupted: bool, models: Path, fast_path: Path) -> None:
    """One study through all that may befall its worker groups, because each takes many seconds to start.

    Run 1 is begun by one process and gone on with by two, of which one is killed; then their manager is killed, and at
    night the driver is asked to end. Run 2 is stopped.
    """
    spec = worker_group_study(models)
    storage = Storage(fast_path, spec.name)
    tried, stopped = (storage.run_folder(key(seed)) for seed in (1, 2))
    alone = execute(spec.run_config(key(1), {}, storage))  # one worker begins it
    for event in alone:
        if event.kind == "checkpoint" and event.step == 2 * EVERY:
            break
    with pytest.raises(KeyboardInterrupt):
        alone.throw(KeyboardInterrupt())

    listening: set[str] = set()
    helpers = [
        when_saved(tried, 3 * EVERY, lambda: kill_the_other_rank(tried, listening), attempt=2),
        # Ray alone would keep the CPUs of a dead manager's workers for ever, and nothing would go on.
        when_saved(tried, 4 * EVERY, lambda: kill_the_manager(tried), attempt=3),
        when_saved(stopped, 0, lambda: order_stop(stopped, "enough")),
    ]
    if interrupted:
        end = when_saved(tried, 5 * EVERY, lambda: os.kill(os.getpid(), signal.SIGINT), attempt=4)
        outcome = launch(spec, storage, say=lambda _: None)
        assert_ended(end)
        assert outcome.interrupted
        assert "interrupted by SIGINT" in str(outcome.message)
        assert read_result(tried) is None
        until = time.monotonic() + 120
        while worker_group_processes() and time.monotonic() < until:
            time.sleep(0.2)
        assert worker_group_processes() == []  # a driver that ends leaves no worker
        notes = outcome.notes
        outcome = launch(spec, storage)
    else:
        outcome = launch(spec, storage)
        notes = outcome.notes
    assert_ended(*helpers)
    assert (outcome.interrupted, outcome.failed) == (False, [])
    assert (outcome.complete, outcome.pruned) == (1, 1)
    other, manager = notes
    assert "its worker died in attempt 1" in other
    assert "its worker died in attempt 2" in manager
    assert "(worker_died)" in other
    addresses = [ipaddress.ip_address(address) for address in listening]
    assert addresses
    assert all(getattr(found, "ipv4_mapped", None) or found.is_loopback for found in addresses), listening
    ledger = Ledger(storage.ledger_url, spec.name)
    records = ledger.trials("lora", "confirm")
    states = [run["state"] for record in records for run in record.runs.values()]
    assert sorted(states) == ["COMPLETE", "PRUNED"]

    # Gone on with from a checkpoint each time, by two.
    resumed = attempts_of(tried)
    assert resumed[:2] == [0, 2 * EVERY]
    assert len(resumed) == 1 + len(attempts(tried)) == (5 if interrupted else 4)
    assert resumed == sorted(resumed)
    assert resumed[2] in range(3 * EVERY, STEPS, EVERY)
    assert resumed[3] in range(4 * EVERY, STEPS, EVERY)
    workers = [e.data["num_workers"] for e in read_events(tried) if e.kind == "started"]
    assert workers == [1] + [2] * (len(resumed) - 1)
    result = read_result(tried)
    assert result is not None
    cost = result.cost
    assert cost["lost_seconds"] > 0  # type: ignore[operator]
    whole = RunConfig.model_validate(
        spec.run_config(key(1), {}, storage).model_dump() | {"output_dir": str(fast_path / "whole")}
    )
    list(execute(whole))
    Yardstick(whole, 2).assert_same(whole.model_copy(update={"output_dir": str(tried)}))

    last = max(event.step or 0 for event in read_events(stopped))
    assert last < STEPS
    assert (stopped / "log.txt").exists()


@pytest.mark.slow
@pytest.mark.nightly  # by day a study exchanges gradients, and shared models are those of processes alone
def test_a_study_whose_worker_groups_share_the_model(models: Path, fast_path: Path) -> None:
    """All weights train, dealt out to two workers (FSDP), and are what one process trains."""
    content = worker_group_study(models, (1,)).model_dump(mode="json")
    content["arms"] = {
        "base": {"method": "base"},
        "full": {"method": "dreambooth", "search_space": "fixed", "num_class_images": 2},
    }
    content["training"] |= {"class_num_inference_steps": 1, "adam_epsilon": 1e-5, "checkpointing_steps": 5}
    content["budget"]["max_train_steps"] = 10
    content["resources"]["parallel_strategy"] = "fsdp"
    spec = StudySpec.model_validate(content)
    storage = Storage(fast_path, spec.name)
    outcome = launch(spec, storage)
    assert (outcome.interrupted, outcome.failed, outcome.complete) == (False, [], 2)
    events = read_events(storage.run_folder(RunKey("confirm", "base", 0, "cat", 1)))
    (start,) = (event.data for event in events if event.kind == "started")
    assert start["num_workers"] == 1  # there is nothing to train together
    run = RunKey("confirm", "full", 0, "cat", 1)
    events = read_events(storage.run_folder(run))
    (start,) = (event.data for event in events if event.kind == "started")
    assert (start["num_workers"], start["parallel_strategy"]) == (2, "fsdp")
    assert [event.step for event in events if event.kind == "checkpoint"] == [5, 10]
    together = spec.run_config(run, {}, storage)
    alone = RunConfig.model_validate(together.model_dump() | {"output_dir": str(fast_path / "alone")})
    list(execute(alone))
    Yardstick(alone, 2).assert_same(together)
