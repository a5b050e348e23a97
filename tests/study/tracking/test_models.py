"""A LoggedModel for each evaluation of a run, and the alias of the result that leads, on SQLite and on a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.arm_summary import Child
from study.tracking.champion import leading
from study.tracking.mlflow_store import MlflowStore
from study.tracking.sync import sync
from tests.helpers.fake_runs import STEPS, make_study, write_run
from tests.helpers.mlflow_stores import Server, prepare_store, runs_by_key
from tests.helpers.tracked_runs import ONE, PRUNED, RUNS, assert_exact, expected_points, go_on

CONFIRM = [run for run in RUNS.values() if run.key.phase == "confirm" and run.key.arm != "lora-constant"]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


def models_by_step(store: MlflowStore, run_id: str) -> dict[int, Any]:
    found = store.client.search_logged_models([store.experiment_id()], f"source_run_id = '{run_id}'")
    steps = {int(model.tags["step"]): model for model in found}
    assert len(steps) == len(found)
    return steps


def version_at(store: MlflowStore, name: str) -> Any:
    return store.client.get_model_version_by_alias(name, "champion")


def test_each_evaluation_is_a_model_with_its_values_at_its_step(tmp_path: Path) -> None:
    storage = make_study(tmp_path, runs=[ONE, PRUNED])
    store = prepare_store(storage)
    sync(storage)
    for run in (ONE, PRUNED):
        found = runs_by_key(store)[run.key.name]
        points = expected_points(storage, run)
        models = models_by_step(store, found.info.run_id)
        assert sorted(models) == [step for step, _ in points["eval/quality"]]
        assert {one.model_id: one.step for one in found.outputs.model_outputs} == {
            model.model_id: step for step, model in models.items()
        }
        for step, model in models.items():
            values = {metric.key: metric.value for metric in model.metrics}
            expected = {
                name: value
                for name, history in points.items()
                for at, value in history
                if at == step and name.startswith(("eval/", "choice/", "cost/"))
            }
            assert values == expected
            assert {"eval/quality", "eval/subject_fidelity"} <= set(values)
            assert str(model.status) == "READY"
            assert model.source_run_id == found.info.run_id
            assert model.model_type == run.arm.method
            assert model.params["training.learning_rate"] == str(run.learning_rate)
            assert model.tags["run_key"] == run.key.name
            (data,) = {(m.dataset_name, m.dataset_digest) for m in model.metrics if m.key.startswith("eval/")}
            inputs = {one.dataset.name: one.dataset.digest for one in found.inputs.dataset_inputs}
            assert inputs[data[0]] == data[1]
    best = store.client.search_logged_models(
        [store.experiment_id()], order_by=[{"field_name": "metrics.eval/quality", "ascending": False}]
    )[0]
    assert best.name == f"step {STEPS} lora-cosine 0001 cat-1 s0"


def test_a_resumed_run_gets_each_model_once(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "resumed")
    write_run(storage, ONE, finish=False)
    store = prepare_store(storage)
    sync(storage)
    run_id = runs_by_key(store)[ONE.key.name].info.run_id
    (pending,) = models_by_step(store, run_id).values()
    assert str(pending.status) == "PENDING"
    go_on(storage, ONE)
    sync(storage)
    models = models_by_step(store, run_id)
    assert sorted(models) == [STEPS // 2, STEPS]
    assert models[STEPS // 2].model_id == pending.model_id
    assert {str(model.status) for model in models.values()} == {"READY"}
    assert_exact(storage, store, ONE)


def test_the_champion_is_the_best_run_of_the_best_arm_and_can_be_fetched(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    storage = make_study(tmp_path, "champions", runs=CONFIRM)
    bare = prepare_store(storage)
    for uri in (bare.uri, server.uri):
        store = MlflowStore(uri, storage.study, tmp_path)
        sync(storage, uri)
        sync(storage, uri)
        runs = [run for key, run in runs_by_key(store).items() if "dreambooth-constant" in key]
        best = max(runs, key=lambda run: run.data.metrics["eval/quality"])
        version = version_at(store, "champions")
        assert (version.version, version.run_id) in (("1", best.info.run_id), (1, best.info.run_id))
        assert version.tags["run_key"] == best.data.tags["run_key"]
        assert version.tags["reproduce"] == storage.lasting_command("reproduce", best.data.tags["run_key"])
        model = models_by_step(store, best.info.run_id)[STEPS]
        assert version.tags["model_id"] == model.model_id
        (noted,) = json.loads(model.tags["mlflow.modelVersions"])
        assert (noted["name"], str(noted["version"])) == ("champions", "1")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        fetched = mlflow.artifacts.download_artifacts(
            "models:/champions@champion", dst_path=str(tmp_path / "got")
        )
        kept = storage.run_folder(RunKey.parse(version.tags["run_key"])) / "weights"
        for path in kept.iterdir():
            assert (Path(fetched) / path.name).read_bytes() == path.read_bytes()


def test_a_killed_driver_names_the_champion_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = make_study(tmp_path, "killed", runs=CONFIRM)
    store = prepare_store(storage)

    class Killed(BaseException):
        pass

    from mlflow import MlflowClient

    def die(*_: Any) -> None:
        raise Killed

    calls = ("create_registered_model", "create_model_version", "set_logged_model_tags")
    for call in (*calls, "set_registered_model_alias"):
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, call, die)
            with pytest.raises(Killed):
                sync(storage)
    sync(storage)
    assert len(store.client.search_model_versions("name = 'killed'")) == 1
    assert str(version_at(store, "killed").version) == "1"


def test_a_registered_model_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    storage = make_study(tmp_path, "taken", runs=CONFIRM)
    store = prepare_store(storage)
    store.client.create_registered_model("taken", {"owner": "another"})
    sync(storage)
    assert store.client.search_model_versions("name = 'taken'") == []
    (own,) = [one.name for one in store.client.search_registered_models() if one.name != "taken"]
    assert own.startswith("taken-")
    assert version_at(store, own)


def test_a_registry_that_refuses_and_a_server_without_models_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import ENDPOINT_NOT_FOUND, PERMISSION_DENIED

    asked: list[str] = []

    def answer(name: str, code: int) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            asked.append(name)
            raise MlflowException("no", error_code=code)

        monkeypatch.setattr(MlflowClient, name, refuse)

    answer("get_registered_model", PERMISSION_DENIED)
    storage = make_study(tmp_path, "refused", runs=CONFIRM[:6])
    prepare_store(storage)
    assert sync(storage).left == ()
    assert asked == ["get_registered_model"]
    asked.clear()
    storage = make_study(tmp_path, "old", runs=CONFIRM[:6])
    store = MlflowStore(storage.tracking_uri, "old", storage.artifact_root)
    for name in ("create_logged_model", "log_inputs"):
        answer(name, ENDPOINT_NOT_FOUND)
    assert sync(storage).left == ()
    assert sorted(asked) == ["create_logged_model", "log_inputs"], "each is asked once"
    for run in CONFIRM[:6]:
        assert_exact(storage, store, run)


def test_a_single_lucky_run_of_another_arm_does_not_lead() -> None:
    def child(
        arm: str, subject: str, quality: float | None, method: str = "lora", phase: str = "confirm"
    ) -> Child:
        values = {} if quality is None else {"eval/quality": quality}
        return Child(RunKey.parse(f"{phase}/{arm}/0000-{subject}-s1"), "COMPLETE", method, values)

    steady = [child("steady", "cat-1", 0.5), child("steady", "dog-1", 0.6), child("steady", "bird-1", None)]
    lucky = [child("lucky", "cat-1", 0.9), child("lucky", "dog-1", 0.1)]
    others = [child("base", "cat-1", 1.0, "base"), child("steady", "cat-2", 0.99, phase="search")]
    assert leading([*lucky, *others, *steady]) is steady[1]
    assert leading(others) is None
