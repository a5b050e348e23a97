"""What is read of a study's record, whole, damaged, or of an earlier version."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.storage.layout import Storage
from study.storage.study_record import (
    frozen_spec,
    is_recorded,
    published_spec,
    read_study_record,
    recorded_spec,
    recorded_studies,
    spec_digest,
)
from study.util.json_files import write_json_twice
from trainables.errors import UserError

SPEC = {
    "name": "teapot",
    "tracking": {"uri": "http://me:s3cret@mlflow:5000"},
    "storage": {"ledger_url": "postgresql://me:s3cret@db/x"},
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path, "teapot")
    write_json_twice(storage.folder / "study.json", {"digest": "d1g", "spec": SPEC})
    return storage


def test_before_the_launch(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "teapot")
    assert not is_recorded(storage)
    assert frozen_spec(storage) is None
    assert published_spec(storage) == {}
    assert spec_digest(storage) == ""
    assert recorded_studies(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        read_study_record(storage)


def test_after_the_launch(storage: Storage) -> None:
    assert is_recorded(storage)
    assert frozen_spec(storage) == SPEC == recorded_spec(read_study_record(storage))
    assert spec_digest(storage) == "d1g"
    assert recorded_studies(storage.root) == ["teapot"]
    assert recorded_spec(SPEC) == SPEC, "as the first versions wrote it"


def test_others_see_no_credentials(storage: Storage) -> None:
    shown = published_spec(storage)
    assert "s3cret" not in str(shown)
    assert "mlflow:5000" in shown["tracking"]["uri"]
    assert "s3cret" in str(frozen_spec(storage)), "the record itself is left as it is"


def test_others_do_not_see_where_prepared_images_lie(tmp_path: Path) -> None:
    place = "/home/somebody/.cache/class-data/ab12"
    spec = {
        "subjects": [
            {"name": "cat", "images": f"{place}/train/cat"},
            {"name": "dog", "images": "/photos/dog"},
        ],
        "downstream": {"prepared": place, "trials": 2},
    }
    storage = Storage(tmp_path, "classes")
    write_json_twice(storage.folder / "study.json", {"digest": "d1g", "spec": spec})
    shown = published_spec(storage)
    assert [subject["images"] for subject in shown["subjects"]] == [
        "class-data/ab12/train/cat",
        "/photos/dog",
    ]
    assert shown["downstream"] == {"prepared": "class-data/ab12", "trials": 2}


def test_the_copy_stands_in_for_a_lost_or_damaged_record(storage: Storage) -> None:
    path = storage.folder / "study.json"
    path.write_text('{"spec": ')
    assert frozen_spec(storage) == SPEC
    path.unlink()
    assert is_recorded(storage)
    assert frozen_spec(storage) == SPEC


def test_a_record_that_is_damaged_with_its_copy(storage: Storage) -> None:
    for path in storage.folder.iterdir():
        path.write_text("{")
    with pytest.raises(UserError, match="restore it, or start again under another name"):
        frozen_spec(storage)
