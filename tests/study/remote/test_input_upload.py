"""Inputs that not every node sees, and nodes that see nothing: shipped, refused, put back. Real tiny trainings."""

import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.support.s3_server import Proxy
from study.cluster.node_check import (
    NodeReport,
    Question,
    answer,
    fingerprint,
    node_problems,
    unseen_inputs,
    versions,
)
from study.driver.node_preparation import inputs_of, prepared_nodes
from study.remote.input_upload import ship
from study.remote.inputs import fetch_inputs
from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import attempt_name, read_view, relative, run_prefix
from study.remote.run_upload import pull_run
from study.remote.working_copy import RunCopies, fetch_weights
from study.spec.loading import read_contents
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage, storage_at
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from study.storage.shared_marker import write_marker
from study.worker.attempt import Attempt
from study.worker.order import Order
from study.worker.workspace import WorkspaceError
from tests.helpers.runs_at_a_url import carry_out
from tests.helpers.waiting import wait_for
from trainables.data.path_map import set_path_map
from trainables.errors import UserError

RUN = RunKey("search", "lora", 0, "thing", 0)


@pytest.fixture(autouse=True)
def no_path_map() -> Any:
    yield
    set_path_map({})


def photographed(folder: Path) -> StudySpec:
    """A study of a folder with four photographs, a few steps long."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(4):
        pixels = random.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    subject = {
        "name": "thing", "images": str(folder), "instance_prompt": "a sks dog", "class_prompt": "a dog", "holdout": 1,
    }  # fmt: skip
    return StudySpec.model_validate(
        {
            "name": "photos",
            "subjects": [subject],
            "arms": {"lora": {"method": "lora"}},
            "search": {"trials": 1, "allow_overlap": True},
            "confirm": {"seeds": [100]},
            "training": {"checkpointing_steps": 4},
            "budget": {"max_train_steps": 24},
            "evaluation": {
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 2,
                "anchor_images": 2,
                "num_class_images": 2,
            },
        }
    )


def order_of(
    spec: StudySpec, storage: Storage, number: int = 1, path_map: dict[str, str] | None = None
) -> Order:
    config = spec.run_config(RUN, {}, storage).model_copy(update={"path_map": path_map or {}})
    driver_id = f"session{number}"
    return Order(
        key=RUN.name, phase="search", group="g", config=config.model_dump_json(), driver_id=driver_id,
        runner="trainables.run.execute:execute", resident="", cpus=1.0, gpus=0.0, study=spec.name,
        attempt=attempt_name(number, driver_id), url=storage.url or "",
    )  # fmt: skip


def weights_of(storage: Storage) -> dict[str, bytes]:
    folder = storage.run_folder(RUN) / "weights"
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.slow
def test_a_training_resumed_from_the_url_on_another_node_gives_the_same_weights(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = photographed(tmp_path / "photos")
    here = Storage(tmp_path / "here", spec.name)
    assert carry_out(Attempt(order_of(spec, here)))["state"] == "COMPLETE"
    wanted = weights_of(here)
    assert wanted

    storage = storage_at(s3.url("resumed"), spec.name)
    first = Attempt(order_of(spec, storage))
    store, prefix = ObjectStore(storage.url or ""), run_prefix(spec.name, RUN.name)
    carry_out(first, lambda report: report["budget"] > 0.3)
    first.interrupt()
    left = read_view(store, prefix, relative(store.list(prefix), prefix))
    assert left is not None
    steps = {path.split("/")[1] for path in left.files if path.startswith("checkpoint/step-")}
    assert steps, left.files
    assert max(steps) < "step-00000024"
    monkeypatch.setenv("STUDY_SCRATCH", str(tmp_path / "another-node"))
    assert carry_out(Attempt(order_of(spec, storage, 2)))["state"] == "COMPLETE"
    copies = RunCopies(store, storage)
    assert copies.fetch(RUN.name)
    events = (storage.run_folder(RUN) / "events.jsonl").read_text().splitlines()
    begun = [json.loads(line)["data"]["resumed_step"] for line in events if '"started"' in line]
    assert begun[0] == 0
    assert f"step-{begun[1]:08d}" == max(steps)
    assert not (storage.run_folder(RUN) / "weights").exists()  # they stay at the URL
    fetch_weights(storage, RUN.name)
    assert weights_of(storage) == wanted
    elsewhere = read_result(storage.run_folder(RUN))
    local = read_result(here.run_folder(RUN))
    assert elsewhere is not None
    assert local is not None
    assert elsewhere.evaluation == local.evaluation
    assert not [name for name in relative(store.list(prefix), prefix) if "/checkpoint/" in name]
    assert sorted(path.name for path in (storage.run_folder(RUN) / "samples").iterdir()) == sorted(
        path.name for path in (here.run_folder(RUN) / "samples").iterdir()
    )


@pytest.mark.parametrize("at_url", [False, True])
def test_inputs_that_a_node_lacks_are_shipped(s3: Proxy, tmp_path: Path, at_url: bool) -> None:
    spec = photographed(tmp_path / "photos")
    names = inputs_of(spec)
    assert names == [str(tmp_path / "photos")]
    storage = storage_at(s3.url("shipped"), spec.name) if at_url else Storage(tmp_path / "shared", spec.name)
    said: list[str] = []
    path_map = ship(
        unseen_inputs([NodeReport("far", inputs={names[0]: None})], names), storage, 1.0, said.append
    )
    assert set(path_map) == set(names)
    spec = spec.with_contents(read_contents(spec))
    before = spec.run_config(RUN, {}, storage).digest()
    asked = s3.requests["PUT"]
    assert ship(names, storage, 1.0, said.append) == path_map
    assert s3.requests["PUT"] == asked  # once is enough
    shutil.move(tmp_path / "photos", tmp_path / "gone")  # as on a node that never had them
    assert carry_out(Attempt(order_of(spec, storage, path_map=path_map)))["state"] == "COMPLETE"
    if storage.url:
        assert RunCopies(ObjectStore(storage.url), storage).fetch(RUN.name)
    result = read_result(storage.run_folder(RUN))
    assert result is not None
    assert result.config_digest == before  # the run is the same run


def test_photographs_of_other_content_on_a_node_are_not_taken_for_the_driver_s(tmp_path: Path) -> None:
    """The same names and sizes: only their content tells them apart."""
    photographed(tmp_path / "photos")
    name = str(tmp_path / "photos")
    theirs = NodeReport("far", inputs={name: fingerprint(name)})
    assert unseen_inputs([theirs], [name]) == []
    path = tmp_path / "photos" / "0.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert unseen_inputs([theirs], [name]) == [name]


def test_shipped_inputs_are_checked(s3: Proxy, tmp_path: Path) -> None:
    spec = photographed(tmp_path / "photos")
    storage = storage_at(s3.url("checked"), spec.name)
    path_map = ship(inputs_of(spec), storage, 1.0, lambda line: None)
    key, store = next(iter(path_map.values())), ObjectStore(storage.url or "")
    whole = store.get(f"{key}/f/0.png") or b""
    store.put(f"{key}/f/0.png", whole[:-1] + b"x")
    with pytest.raises(StoreError, match=r"0\.png is damaged"):
        fetch_inputs(store, key, tmp_path / "node")
    store.put(f"{key}/f/0.png", whole)
    assert len(list(fetch_inputs(store, key, tmp_path / "node").iterdir())) == 4


def test_file_names_that_are_not_utf_8_are_shipped(s3: Proxy, tmp_path: Path) -> None:
    spec = photographed(tmp_path / "photos")
    odd = os.fsencode(tmp_path / "photos") + b"/caf\xe9.png"
    os.rename(tmp_path / "photos" / "0.png", odd)
    names = inputs_of(spec)
    storage = storage_at(s3.url("odd"), spec.name)
    key = ship(names, storage, 1.0, lambda line: None)[names[0]]
    copy = fetch_inputs(ObjectStore(storage.url or ""), key, tmp_path / "node")
    assert sorted(os.listdir(os.fsencode(copy))) == [b"1.png", b"2.png", b"3.png", b"caf\xe9.png"]
    folder = ship(names, Storage(tmp_path / "shared", spec.name), 1.0, lambda line: None)[names[0]]
    assert sorted(os.listdir(os.fsencode(folder))) == sorted(os.listdir(os.fsencode(copy)))


def test_what_is_too_large_is_refused_with_the_remedy(tmp_path: Path) -> None:
    spec = photographed(tmp_path / "photos")
    with pytest.raises(UserError) as refused:
        ship(inputs_of(spec), Storage(tmp_path / "shared", spec.name), 1e-6, lambda line: None)
    assert "storage.ship_limit_gb" in str(refused.value)
    assert "hub id" in str(refused.value)
    assert not (tmp_path / "shared").exists()


def test_nodes_that_do_not_see_the_storage_are_named(tmp_path: Path) -> None:
    spec = photographed(tmp_path / "photos")
    folder = tmp_path / "shared" / spec.name
    write_marker(folder, "session-1")
    question = Question(str(folder), "session-1", inputs=tuple(inputs_of(spec)))
    sound = answer(question, "10.0.0.1/aaaa")
    assert sound.problem is None
    assert unseen_inputs([sound], question.inputs) == []
    assert unseen_inputs([], question.inputs) == list(question.inputs)  # nodes that will come are not known
    stray = answer(dataclasses.replace(question, driver_id="another", patience=0.0), "10.0.0.2/bbbb")
    old = NodeReport("10.0.0.3/cccc", versions={**versions(), "torch": "0.1"})
    problems = node_problems([sound, stray, old], Storage(tmp_path / "shared", spec.name))
    assert "1 of 3 nodes cannot use the storage" in problems[0]
    assert "10.0.0.2/bbbb" in problems[0]
    assert "10.0.0.1/aaaa" not in problems[0]
    assert "NFS" in problems[0]
    assert "s3://" in problems[0]
    assert "10.0.0.3/cccc has other versions: torch 0.1" in problems[1]


def test_a_node_that_does_not_see_the_storage_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("study.worker.workspace.VISIBLE_SECONDS", 0.0)
    spec = photographed(tmp_path / "photos")
    storage = Storage(tmp_path / "node-local", spec.name)
    order = dataclasses.replace(order_of(spec, storage), home=str(storage.folder))
    with pytest.raises(WorkspaceError, match="does not see the storage folder"):
        carry_out(Attempt(order))
    assert not storage.root.exists()
    write_marker(storage.folder, order.driver_id)
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(WorkspaceError, match=r"lacks the folder .*photos"):
        carry_out(Attempt(order))
    assert not storage.run_folder(RUN).exists()


@pytest.mark.slow
def test_every_node_of_a_real_cluster_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from study.cluster.ray_cluster import cluster

    spec = photographed(tmp_path / "photos")
    storage = Storage(tmp_path / "shared", spec.name)
    write_marker(storage.folder, "session-1")
    monkeypatch.setattr("study.driver.node_preparation.Question", functools.partial(Question, patience=0.5))
    with cluster(cpus=2):
        assert prepared_nodes(spec, storage, "nobody asks", lambda line: None) == {}  # there is one machine
        monkeypatch.setattr("study.driver.node_preparation.is_one_machine", lambda: False)
        assert prepared_nodes(spec, storage, "session-1", lambda line: None) == {}
        with pytest.raises(UserError, match=r"1 of 1 nodes cannot use the storage(.|\n)*does not see"):
            prepared_nodes(spec, storage, "another-session", lambda line: None)
        missing = storage_at("s3://nowhere/x?endpoint_override=127.0.0.1:1&scheme=http", spec.name)
        with pytest.raises(UserError, match="give every node credentials"):
            prepared_nodes(spec, missing, "session-1", lambda line: None)


def test_a_run_that_no_node_can_place_ends_the_launch_with_the_reason(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from study.dispatch.dispatcher import Dispatcher
    from study.dispatch.run_queue import RunQueue
    from study.ledger.open_ledger import open_ledger
    from tests.helpers.small_studies import small_study

    monkeypatch.setattr("study.dispatch.dispatcher.FIRST_PAUSE_SECONDS", 0.0)
    spec = small_study()
    storage = Storage(fast_path, spec.name)
    notes: list[str] = []
    dispatcher = Dispatcher(
        RunQueue(spec, storage, open_ledger(spec, storage)), spec.resources, runner="", resident="",
        max_concurrent=1, on_start=lambda run: None, note=notes.append,
    )  # fmt: skip
    for number in range(spec.resources.max_attempts):
        assert dispatcher.trouble is None
        order = dispatcher.next_order(f"t{number}")
        assert order is not None
        assert order.attempt.startswith(f"{number + 1:04d}-")
        dispatcher.died(f"t{number}", "Traceback\nstudy.run_place.WorkspaceError: node n7 does not see /data")
    assert dispatcher.trouble == "node n7 does not see /data"
    assert "was put back: node n7 does not see /data" in notes[0]
    assert dispatcher.queue.ended == {}


def test_a_run_is_not_given_out_while_the_ledger_cannot_be_copied(fast_path: Path) -> None:
    from study.dispatch.dispatcher import Dispatcher
    from study.dispatch.run_hooks import RunHooks, StorageUnavailable
    from study.dispatch.run_queue import RunQueue
    from study.ledger.open_ledger import open_ledger
    from tests.helpers.small_studies import small_study

    spec = small_study()
    storage = Storage(fast_path, spec.name)
    away = [True]
    given: list[PlannedRun] = []

    def before(run: PlannedRun, driver_id: str) -> None:
        if away[0]:
            raise StorageUnavailable("the store is away")

    dispatcher = Dispatcher(
        RunQueue(spec, storage, open_ledger(spec, storage)), spec.resources, runner="", resident="",
        max_concurrent=1, on_start=given.append, note=lambda line: None, hooks=RunHooks(before_start=before),
    )  # fmt: skip
    assert dispatcher.next_order("t1") is None
    assert given == []
    assert dispatcher.queue.live == ()
    away[0] = False
    order = dispatcher.next_order("t2")
    assert order is not None
    assert [run.key.name for run in given] == [order.key]


def test_what_one_node_has_computed_no_other_computes(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from study.remote.cache_backend import use_backend
    from study.storage.layout import CACHE
    from trainables.data.cache import Cache

    url, computed = s3.url("cached"), []

    def compute() -> dict[str, torch.Tensor]:
        computed.append(1)
        return {"x": torch.arange(4.0)}

    def entry(node: str) -> torch.Tensor:
        use_backend(url, tmp_path / node)
        return Cache(tmp_path / node).tensors("latents", {"of": "this"}, compute)["x"]

    first = entry("one")
    wait_for(lambda: ObjectStore(url).list(CACHE))
    assert torch.equal(entry("two"), first)
    assert len(computed) == 1
    for key in ObjectStore(url).list(CACHE):
        ObjectStore(url).put(key, b"damaged")
    assert torch.equal(entry("three"), first)
    assert len(computed) == 2
    s3.answer = lambda method, path: 503
    assert torch.equal(entry("four"), first)  # a store that is away is no error
    asked = sum(s3.requests.values())
    Cache(tmp_path / "four").tensors("latents", {"of": "that"}, compute)
    assert sum(s3.requests.values()) == asked  # nor is it waited for again


def test_latents_of_one_node_are_found_by_another_that_trains_on_other_images_too(
    s3: Proxy, tmp_path: Path
) -> None:
    import torch

    from study.remote.cache_backend import use_backend
    from study.storage.layout import CACHE
    from trainables.data.cache import Cache
    from trainables.data.packs import packed

    url, computed = s3.url("packed"), []

    def entries(node: str, numbers: range) -> list[float]:
        def compute(place: int) -> dict[str, torch.Tensor]:
            computed.append(numbers[place])
            return {"x": torch.tensor(float(numbers[place]))}

        use_backend(url, tmp_path / node)
        keys = [f"{number:064x}" for number in numbers]
        return [float(entry["x"]) for entry in packed(Cache(tmp_path / node), "latents", {}, keys, compute)]

    assert entries("one", range(100)) == list(range(100))
    wait_for(lambda: len(ObjectStore(url).list(CACHE)) == 2)
    assert entries("two", range(50, 105)) == list(range(50, 105))
    assert sorted(computed) == list(range(105))
    s3.answer = lambda method, path: 503
    assert entries("three", range(3)) == [0, 1, 2]  # a store that is away is no error


def test_what_is_pulled_needs_no_folder_to_be_there(s3: Proxy, tmp_path: Path) -> None:
    store = ObjectStore(s3.url("empty"))
    assert pull_run(store, "study/runs/search/a/0000-b-s0", tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
