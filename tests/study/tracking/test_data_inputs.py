"""The data sets of a run in MLflow: which images train it, which judge it, and what their digests hang on."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest

from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.data_inputs import data_inputs
from study.tracking.sync import sync
from tests.helpers.fake_runs import make_study, run_document
from tests.helpers.mlflow_stores import prepare_store, runs_by_key
from tests.helpers.tracked_runs import ONE, RUNS

KEY = RunKey("confirm", "lora", 0, "teapot", 100)
IMAGES, REFERENCES, MODEL = (
    hashlib.sha256(word.encode()).hexdigest() for word in ("images", "references", "model")
)


def document(**changes: Any) -> dict[str, Any]:
    """A run on photographs, whose folders' contents are recorded."""
    made: dict[str, Any] = run_document(Storage(Path("/nowhere"), "s"), ONE)
    made["subject"] |= {
        "name": "teapot", "images": "/photos/teapot", "instance_prompt": "a sks teapot", "class_prompt": "a teapot",
    }  # fmt: skip
    made["contents"] = {"subject.images": IMAGES, "model": MODEL}
    for path, value in changes.items():
        part = made
        *sections, field = path.split("__")
        for section in sections:
            part = part[section]
        part[field] = value
    return made


def digests(given: dict[str, Any], key: RunKey = KEY) -> dict[str, str]:
    return {one.name: one.digest for one in data_inputs(key, given)}


def test_photographs_train_and_held_out_ones_judge() -> None:
    found = data_inputs(KEY, document())
    assert [(one.name, one.context) for one in found] == [
        ("teapot", "training"),
        ("teapot held-out", "evaluation"),
    ]
    assert {one.source_type for one in found} == {"local"}
    assert [one.source for one in found] == ['{"uri": "/photos/teapot"}'] * 2
    assert len({one.digest for one in found}) == 2


def test_digests_hang_on_the_images_and_not_on_their_path() -> None:
    before = digests(document())
    assert digests(document(subject__images="/elsewhere", seed=7, training__learning_rate=1.0)) == before
    other = digests(document(contents={"subject.images": REFERENCES}))
    assert all(other[name] != before[name] for name in before)
    held_out = digests(document(subject__holdout=3))
    assert all(held_out[name] != before[name] for name in before), (
        "other images of the folder train and judge"
    )
    captioned = digests(document(contents={"subject.images": IMAGES, "subject.captions": MODEL}))
    assert captioned["teapot"] != before["teapot"]
    assert captioned["teapot held-out"] == before["teapot held-out"]


@pytest.mark.parametrize("subject", [None, {"name": "cat-1", "holdout": 2}])
def test_so_many_of_the_images_are_a_training_set_of_their_own(subject: dict[str, Any] | None) -> None:
    like = {"subject": subject, "contents": {}} if subject else {}
    found = [digests(document(training__num_training_images=number, **like)) for number in (None, 1, 3)]
    name = "cat-1" if subject else "teapot"
    assert len({one[name] for one in found}) == 3
    assert len({one[f"{name} held-out"] for one in found}) == 1


def test_a_folder_that_is_taken_whole_has_the_digest_of_the_runs_record() -> None:
    contents = {"subject.images": IMAGES, "subject.references": REFERENCES}
    given = document(subject__references="/photos/held-out", contents=contents)
    assert digests(given) == {"teapot": IMAGES[:16], "teapot held-out": REFERENCES[:16]}
    data = {"path": "/sets/twem", "references": None, "holdout": 0.2, "trigger": None}
    of_set = document(
        subject={"name": "twem", "holdout": 2, "dataset": data}, contents={"subject.dataset.path": IMAGES}
    )
    assert set(digests(of_set)) == {"twem", "twem held-out"}
    other = copy.deepcopy(of_set)
    other["subject"]["dataset"]["holdout"] = 0.5
    assert digests(other)["twem"] != digests(of_set)["twem"]


def test_what_comes_with_the_project_is_known_by_its_name() -> None:
    found = [
        digest
        for subject in ("cat-1", "dog-1")
        for digest in digests(document(subject={"name": subject, "holdout": 2}, contents={})).values()
    ]
    assert len(set(found)) == 4


def test_class_images_are_known_by_what_they_follow_from() -> None:
    given = document(training__with_prior_preservation=True, training__num_class_images=32)
    found = {one.name: one for one in data_inputs(KEY, given)}
    assert found["teapot class images"].context == "training"
    assert "a teapot" in found["teapot class images"].source
    again = document(training__with_prior_preservation=True, training__num_class_images=32, seed=9)
    assert digests(again) == digests(given)
    for change in (
        {"training__num_class_images": 64},
        {"contents": {"subject.images": IMAGES, "model": IMAGES}},
    ):
        changed = {"training__with_prior_preservation": True, "training__num_class_images": 32, **change}
        assert digests(document(**changed))["teapot class images"] != digests(given)["teapot class images"]
    base = document(training__with_prior_preservation=True, training__prior_preservation_target="base")
    assert "teapot class images" not in digests(base), "no image is drawn"


@pytest.mark.parametrize(
    ("key", "method"), [(KEY, "base"), (RunKey("foreign", "theirs", 0, "teapot", 100), "foreign")]
)
def test_what_is_not_trained_here_is_judged_alone(key: RunKey, method: str) -> None:
    assert list(digests(document(method=method), key)) == ["teapot held-out"]


def test_runs_have_their_data_sets_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = [ONE, RUNS["search/lora-cosine/0002-cat-1-s0"], RUNS["search/dreambooth-constant/0001-cat-1-s0"]]
    storage = make_study(tmp_path, runs=runs)
    store = prepare_store(storage)
    sync(storage)
    sync(storage)
    found = {
        name: {(one.dataset.name, one.tags[0].value) for one in run.inputs.dataset_inputs}
        for name, run in runs_by_key(store).items()
    }
    plain = {("cat-1", "training"), ("cat-1 held-out", "evaluation")}
    assert found[ONE.key.name] == plain
    assert found[runs[2].key.name] == plain | {("cat-1 class images", "training")}
    same = store.client.search_runs([store.experiment_id()], "dataset.name = 'cat-1' and tags.kind = 'run'")
    assert len(same) == len(runs)
    assert len({one.dataset.digest for run in same for one in run.inputs.dataset_inputs}) == 3
