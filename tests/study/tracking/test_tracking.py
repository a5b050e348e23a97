"""Runs in MLflow: complete, once each, whatever was killed. On real SQLite stores."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.mirror import Mirror
from study.tracking.mlflow_store import MlflowStore
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from study.tracking.tracker import Tracker
from study.tracking.ui_defaults import GRID
from tests.helpers.fake_runs import (
    STEPS,
    add_image,
    make_study,
    write_run,
)
from tests.helpers.mlflow_stores import history, prepare_store, runs_by_key
from tests.helpers.tracked_runs import FAILED, ONE, RUNS, SOME, assert_exact, go_on, planned
from tests.helpers.waiting import wait_for
from trainables.errors import UserError
from trainables.events import EventLog


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Storage, MlflowStore]:
    """A fake study of all kinds of runs, written to MLflow once."""
    storage = make_study(tmp_path_factory.mktemp("whole"), runs=list(SOME.values()))
    spec = {"name": "fake", "arms": {"lora-cosine": {"method": "lora", "lr_scheduler": "cosine"}}}
    spec["tracking"] = {"uri": None, "log_weights_limit_mb": 16}
    spec["storage"] = {"ledger_url": "postgresql://me:s3cret@db/ledger"}
    (storage.folder / "study.json").write_text(json.dumps({"digest": "d1g", "identity": {}, "spec": spec}))
    store = prepare_store(storage)
    TrackingRecord(storage).add_launch()
    counts = sync(storage)
    assert (counts.runs, counts.created, counts.left) == (len(SOME), len(SOME), ())
    return storage, store


# ------------------------------------------------------------------ what a finished study leaves


def test_every_run_is_there_with_its_state(whole: tuple[Storage, MlflowStore]) -> None:
    _, store = whole
    found = runs_by_key(store)
    assert set(found) == set(SOME)
    status = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    for name, run in SOME.items():
        tags = found[name].data.tags
        assert found[name].info.status == status[run.state]
        assert tags["state"] == run.state
        expected = {"study": "fake", "arm": run.key.arm, "method": run.arm.method, "phase": run.key.phase}
        expected |= {"trial": str(run.key.trial), "subject": run.key.subject, "seed": str(run.key.seed)}
        assert expected.items() <= tags.items()
        assert found[name].info.end_time >= found[name].info.start_time > 1.6e12
    failed = found[FAILED.key.name]
    assert failed.data.tags["reason"] == "nan_loss"
    assert "NaN" in failed.data.tags["mlflow.note.content"]
    texts = {item.path for item in store.client.list_artifacts(failed.info.run_id)}
    assert {"traceback.txt", "result.json", "config"} <= texts


def test_a_run_has_its_points_params_and_artifacts(
    whole: tuple[Storage, MlflowStore], tmp_path: Path
) -> None:
    storage, store = whole
    found = assert_exact(storage, store, ONE)
    assert history(store, found.info.run_id, "train/loss")[0][0] == 20
    assert [step for step, _ in history(store, found.info.run_id, "eval/quality")] == [60, 120]
    params = found.data.params
    assert (params["training.learning_rate"], params["training.lr_scheduler"]) == ("0.001", "cosine")
    assert (params["evaluation.guidance_scale"], params["model.path"], params["training.r"]) == (
        "3.0",
        "embedded",
        "8",
    )
    path = store.client.download_artifacts(found.info.run_id, "config/run.yaml", str(tmp_path))
    assert yaml.safe_load(Path(path).read_text())["training"]["learning_rate"] == 0.001
    weights = [item.path for item in store.client.list_artifacts(found.info.run_id, "weights")]
    assert weights == ["weights/pytorch_lora_weights.safetensors"]
    assert "mlflow.loggedImages" in found.data.tags
    assert json.loads(found.data.tags["versions"])["torch"] == "2.13.0"


def test_parents_hold_the_runs_of_an_arm_and_phase(
    whole: tuple[Storage, MlflowStore], tmp_path: Path
) -> None:
    _, store = whole
    parents = runs_by_key(store, "parent")
    assert set(parents) == {f"{run.key.phase}/{run.key.arm}" for run in SOME.values()}
    for name, run in runs_by_key(store).items():
        parent = parents["/".join(name.split("/")[:2])]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    parent = parents["search/dreambooth-constant"]
    assert parent.info.status == "FINISHED"
    scores = [run.data.metrics["eval/quality"] for name, run in runs_by_key(store).items()
              if name.startswith("search/dreambooth") and run.data.tags["state"] == "COMPLETE"]  # fmt: skip
    assert parent.data.metrics["summary/mean_quality"] == pytest.approx(sum(scores) / len(scores))
    assert parent.data.metrics["summary/n_fail"] == 1
    assert parents["search/lora-cosine"].data.params["arm.lr_scheduler"] == "cosine"
    path = store.client.download_artifacts(parent.info.run_id, "study.json", str(tmp_path))
    assert "s3cret" not in Path(path).read_text()


def test_the_ui_opens_on_columns_that_exist(whole: tuple[Storage, MlflowStore]) -> None:
    _, store = whole
    experiment = store.find_experiment()
    assert experiment is not None
    view = json.loads(experiment.tags["mlflow.sharedViewState.study"])
    run = runs_by_key(store)[ONE.key.name].data
    there = {"tags": run.tags, "metrics": run.metrics, "params": run.params}
    for column in (*view["selectedColumns"], view["orderByKey"]):
        group, _, name = column.partition(".")
        assert name.strip("`") in there[group], column
    assert len(list(store.runs({"kind": "run"}))) == len(SOME)


def test_the_view_of_arms_opens_on_columns_that_parents_have(tmp_path: Path) -> None:
    storage = make_study(tmp_path, runs=list(RUNS.values()))
    third = [replace(run, key=replace(run.key, subject="cat-2")) for run in RUNS.values()]
    for run in third:
        if run.key.phase == "confirm":
            write_run(storage, run)
    store = prepare_store(storage)
    sync(storage)
    experiment = store.find_experiment()
    assert experiment is not None
    view = json.loads(experiment.tags["mlflow.sharedViewState.arms"])
    found = store.client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert {run.data.tags["run_key"] for run in found} == {f"confirm/{run.key.arm}" for run in third}
    for column in (*view["selectedColumns"], view["orderByKey"]):
        group, _, name = column.partition(".")
        assert all(name.strip("`") in getattr(run.data, group) for run in found), column


def test_syncing_again_changes_nothing(whole: tuple[Storage, MlflowStore]) -> None:
    storage, store = whole
    counts = sync(storage)
    assert (counts.runs, counts.created, counts.events, counts.metrics, counts.images) == (
        len(SOME),
        0,
        0,
        0,
        0,
    )
    assert_exact(storage, store, ONE)
    parent = runs_by_key(store, "parent")["search/lora-cosine"]
    assert len(history(store, parent.info.run_id, "summary/mean_quality")) == 1


def test_sync_rebuilds_everything_in_an_empty_store(
    whole: tuple[Storage, MlflowStore], tmp_path: Path
) -> None:
    storage, store = whole
    other = prepare_store(Storage(tmp_path, storage.study))
    ours = (storage.folder / "tracking.json").read_text()
    counts = sync(storage, other.uri)
    assert counts.created == len(SOME)
    before, after = runs_by_key(store), runs_by_key(other)
    for name in SOME:
        assert after[name].data.metrics == before[name].data.metrics
        assert after[name].data.params == before[name].data.params
        assert after[name].info.status == before[name].info.status
        assert after[name].data.tags["git_commit"] == before[name].data.tags["git_commit"]
    assert (storage.folder / "tracking.json").read_text() == ours, (
        "the ids are those of the study's own store"
    )


def grouped(paths: list[str]) -> dict[str, dict[int, list[str]]]:
    """Artifacts as MLflow's page groups them: the images of one key by their steps, each with its preview.

    The page splits a file's name at the plus signs, into key, "step", its number, "timestamp", its number and what is
    the same for an image and its preview, which ends with "+compressed"; of the key it makes a path by its tildes.
    """
    found: dict[str, dict[int, list[str]]] = {}
    for path in paths:
        name, _, suffix = path.removeprefix("images/").rpartition(".")
        key, step_mark, step, time_mark, moment, *rest = name.split("+")
        assert (step_mark, time_mark, len(rest)) == ("step", "timestamp", 1 + (suffix == "webp"))
        assert int(moment) > 0
        found.setdefault(key.replace("~", "/"), {}).setdefault(int(step), []).append(path)
    return found


def test_one_prompt_is_one_key_over_runs_and_steps_as_mlflow_itself_would_name_it(tmp_path: Path) -> None:
    """Of the keys that evaluations give; a key that no store takes is spelt alike in every run."""
    prompts, storage = ["00 subject in the snow", "01 subject, with a cr\u00eape"], Storage(tmp_path, "grids")
    runs = [RUNS[f"confirm/lora-cosine/0001-{subject}-s100"] for subject in ("dog-1", "bird-1")]
    for run in runs:
        folder = write_run(storage, run, finish=False)
        for step in (STEPS // 2, STEPS):
            for key in prompts:
                add_image(EventLog(folder), folder, run, step, key)
    store = prepare_store(storage)
    sync(storage)
    ids = [runs_by_key(store)[run.key.name].info.run_id for run in runs]
    experiment = store.find_experiment()
    assert experiment is not None
    keys = [GRID, "samples/00 subject in the snow", "samples/01 subject_ with a cr_pe"]
    for run_id in ids:
        paths = [item.path for item in store.client.list_artifacts(run_id, "images")]
        images = grouped(paths)
        assert sorted(images) == sorted(keys)
        assert {step: len(files) for step, files in images[keys[1]].items()} == {STEPS // 2: 2, STEPS: 2}
        for files in (files for steps in images.values() for files in steps.values()):
            small, large = sorted(files)
            assert (small, large) == (large.removesuffix(".png") + "+compressed.webp", large)
        # The same picture, key, step and time given to MLflow itself: but for the unique end, the same names.
        own = store.client.create_run(experiment.experiment_id).info.run_id
        large = next(path for path in images[keys[1]][STEPS] if path.endswith(".png"))
        with Image.open(store.client.download_artifacts(run_id, large, str(tmp_path))) as picture:
            moment = int(large.split("+")[4])
            store.client.log_image(own, picture, key=keys[1], step=STEPS, timestamp=moment, synchronous=True)
        theirs = [item.path for item in store.client.list_artifacts(own, "images")]
        ours = images[keys[1]][STEPS]
        unique = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
        assert sorted(unique.sub("", path) for path in theirs) == sorted(
            unique.sub("", path) for path in ours
        )
        assert all(unique.search(path) for path in ours)
        tags = [store.client.get_run(each).data.tags["mlflow.loggedImages"] for each in (run_id, own)]
        assert tags == ["True", "True"]


def test_large_weights_are_logged_by_reference(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "large")
    write_run(storage, ONE)
    store = prepare_store(storage)
    (storage.folder / "study.json").write_text(
        json.dumps({"spec": {"tracking": {"uri": None, "log_weights_limit_mb": 0.001}}})
    )
    sync(storage)
    run_id = runs_by_key(store)[ONE.key.name].info.run_id
    assert "weights" not in [item.path for item in store.client.list_artifacts(run_id)]
    path = store.client.download_artifacts(run_id, "weights.json", str(tmp_path))
    reference = json.loads(Path(path).read_text())
    assert reference["path"] == str(storage.run_folder(ONE.key) / "weights")
    assert reference["bytes"] == reference["files"][0]["bytes"] == 4096
    assert len(reference["files"][0]["sha256"]) == 64


# ------------------------------------------------------------------ killed and resumed


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def test_killed_before_any_call_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver dies before its n-th call to MLflow, for every n; syncing again ends in the same state."""
    calls = ["create_run", "log", "log_file", "log_folder", "log_text", "set_status", "one_run"]
    calls += ["log_inputs", "create_model", "link_models", "finish_model"]
    originals = {name: getattr(MlflowStore, name) for name in calls}
    left = [0]

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return originals[name](*arguments, **named)

        return call

    for name in calls:
        monkeypatch.setattr(MlflowStore, name, counted(name))
    deaths = 0
    for number in range(1, 100):
        storage = Storage(tmp_path / str(number), "killed")
        write_run(storage, ONE)
        store = prepare_store(storage)
        left[0] = number
        try:
            sync(storage)
        except Killed:
            deaths += 1
        else:
            break
        left[0] = -1
        assert sync(storage).left == ()
        found = assert_exact(storage, store, ONE)
        assert [run.info.status for run in runs_by_key(store, "parent").values()] == ["FINISHED"]
        models = store.models_of(found.info.run_id)
        assert sorted((model.step, model.ready) for model in models) == [(STEPS // 2, True), (STEPS, True)]
        assert store.linked_models(found.info.run_id) == {model.model_id for model in models}
        assert len(store.client.get_run(found.info.run_id).inputs.dataset_inputs) == 2
    assert deaths >= 18


def test_kill_9_between_create_run_and_the_stored_id(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "kill9")
    write_run(storage, ONE)
    store = prepare_store(storage)
    code = (
        "import os, signal, sys, time; from pathlib import Path\n"
        "from study.storage.layout import Storage; from study.tracking.run_ids import TrackingRecord\n"
        "from study.tracking.tracker import Tracker\n"
        "TrackingRecord.set_mlflow_run_id = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage = Storage(Path(sys.argv[1]), 'kill9'); Tracker(storage, storage.tracking_uri)\n"
        "time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert runs_by_key(store)[ONE.key.name].info.status == "RUNNING"
    assert json.loads((storage.folder / "tracking.json").read_text())["runs"] == {}
    assert sync(storage).created == 0
    found = assert_exact(storage, store, ONE)
    assert json.loads((storage.folder / "tracking.json").read_text())["runs"] == {
        ONE.key.name: found.info.run_id
    }


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "resumed")
    write_run(storage, ONE, finish=False)
    store = prepare_store(storage)
    first = Tracker(storage, storage.tracking_uri, poll_seconds=0.05)
    first.watch(planned(storage, ONE))
    first.close()
    interrupted = runs_by_key(store)[ONE.key.name]
    assert (interrupted.info.status, interrupted.data.tags["state"]) == ("KILLED", "RUNNING")
    assert runs_by_key(store, "parent")["search/lora-cosine"].info.status == "KILLED"

    second = Tracker(storage, storage.tracking_uri, poll_seconds=0.05)
    go_on(storage, ONE)
    second.close()
    assert (second.unsynced, second.message()) == ((), None)
    found = assert_exact(storage, store, ONE)
    assert found.info.run_id == interrupted.info.run_id
    assert (found.data.tags["state"], found.data.tags["attempt"]) == ("COMPLETE", "1")
    losses = [step for step, _ in history(store, found.info.run_id, "train/loss")]
    assert losses == sorted(set(losses)), "a repeated step was logged twice"
    assert runs_by_key(store, "parent")["search/lora-cosine"].info.status == "FINISHED"


def test_the_tracker_follows_runs_while_they_train(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "live")
    store = prepare_store(storage)
    write_run(storage, ONE, finish=False)
    ids: dict[RunKey, str] = {}

    class Ledger:
        def mlflow_run_id(self, key: RunKey) -> str | None:
            return ids.get(key)

        def set_mlflow_run_id(self, key: RunKey, run_id: str) -> None:
            ids[key] = run_id
            raise RuntimeError("the trial has ended and cannot be changed")

    tracker = Tracker(storage, storage.tracking_uri, ids=Ledger(), poll_seconds=0.05)
    tracker.watch(planned(storage, ONE))
    tracker.watch(planned(storage, ONE))
    wait_for(lambda: ONE.key.name in runs_by_key(store))
    run_id = runs_by_key(store)[ONE.key.name].info.run_id
    EventLog(storage.run_folder(ONE.key)).append("progress", 61, loss=0.123)
    wait_for(lambda: (61, 0.123) in history(store, run_id, "train/loss"))
    go_on(storage, ONE)
    wait_for(lambda: runs_by_key(store)[ONE.key.name].info.status == "FINISHED")
    tracker.close()
    tracker.close()
    assert_exact(storage, store, ONE)
    assert ids == {ONE.key: run_id}


def test_two_runs_of_one_key_are_reduced_to_one(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "twice")
    write_run(storage, ONE, finish=False)
    store = prepare_store(storage)
    mirror = Mirror(storage, store.uri, TrackingRecord(storage))
    mirror.add_all()
    mirror.update()
    mirror.release()
    tags = {"study_id": mirror.record.study_id, "run_key": ONE.key.name, "kind": "run", "study": "twice"}
    store.create_run("an answer was lost", int(time.time() * 1000), {**tags, "last_event": "0"})
    go_on(storage, ONE)
    sync(storage)
    assert_exact(storage, store, ONE)


def test_a_run_deleted_in_mlflow_is_written_again(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "deleted")
    write_run(storage, ONE)
    store = prepare_store(storage)
    sync(storage)
    store.client.delete_run(runs_by_key(store)[ONE.key.name].info.run_id)
    assert sync(storage).created == 1
    assert_exact(storage, store, ONE)


def test_two_storages_never_share_runs_of_one_server(tmp_path: Path) -> None:
    here, there = Storage(tmp_path / "a", "same"), Storage(tmp_path / "b", "same")
    store = prepare_store(here)
    for storage in (here, there):
        write_run(storage, ONE)
        assert sync(storage, store.uri).created == 1
    assert len(list(store.runs({"kind": "run", "run_key": ONE.key.name}))) == 2


def test_a_refused_run_does_not_hold_up_the_others(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "refused")
    other = RUNS["search/lora-cosine/0002-cat-1-s0"]
    write_run(storage, ONE)
    write_run(storage, other)
    store = prepare_store(storage)
    (storage.run_folder(ONE.key) / "run.json").write_text("{")
    counts = sync(storage)
    assert counts.left == (ONE.key.name,)
    assert counts.problem
    assert_exact(storage, store, other)


def test_what_mlflow_refuses_for_a_moment_is_there_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that comes back answers a ping before it answers everything: such a run looks refused."""
    storage = Storage(tmp_path, "moment")
    write_run(storage, ONE)
    store = prepare_store(storage)
    create, refusals = MlflowStore.create_run, [RuntimeError("not yet"), RuntimeError("not yet")]

    def hesitant(*arguments: Any) -> str:
        if refusals:
            raise refusals.pop()
        return create(*arguments)

    monkeypatch.setattr(MlflowStore, "create_run", hesitant)
    tracker = Tracker(storage, store.uri, poll_seconds=0.05)
    wait_for(lambda: len(refusals) < 2)
    tracker.close()
    assert tracker.message() is None
    assert_exact(storage, store, ONE)


def test_only_one_process_writes(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "busy")
    write_run(storage, ONE)
    store = prepare_store(storage)
    running = Mirror(storage, store.uri, TrackingRecord(storage))
    running.add_all()
    running.update()
    with pytest.raises(UserError, match="running"):
        sync(storage)
    running.release()
    assert sync(storage).left == ()


def test_mlflow_is_silent(tmp_path: Path) -> None:
    """A new database, a whole run and its end print nothing."""
    write_run(Storage(tmp_path, "silent"), ONE)
    code = (
        "import sys; from pathlib import Path; from study.storage.layout import Storage\n"
        "from study.results.from_mlflow import mlflow_results; from study.tracking.tracker import Tracker\n"
        "storage = Storage(Path(sys.argv[1]), 'silent')\n"
        "tracker = Tracker(storage, storage.tracking_uri); tracker.close(); assert not tracker.unsynced\n"
        "assert len(mlflow_results(storage).frame) == 1"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
