"""The scores of single images: from the run's folder through MLflow, and through Parquet beside the CSV files."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pandas as pd
import pytest

from study.results.columns import SCORE_COLUMNS
from study.results.csv_files import read_csv, write_csv
from study.results.frames import Results, scores_of
from study.results.from_folders import local_results
from study.results.from_mlflow import mlflow_results
from study.results.image_scores import SCORES_PARQUET, read_scores
from study.storage.layout import Storage
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from tests.helpers.fake_runs import fake_runs, write_run
from tests.helpers.mlflow_stores import prepare_store
from tests.helpers.synthetic_results import Study, make_results
from trainables.errors import UserError
from trainables.events import IMAGE_SCORES

RUNS = {run.key.name: run for run in fake_runs()}
SCORED = "confirm/lora-cosine/0001-dog-1-s100"
BARE = "confirm/lora-cosine/0001-dog-1-s101"  # as runs were before they kept scores
HEAD = (
    "kind", "prompt", "template", "image", "noise_seed", "subject_similarity", "prompt_similarity",
    "subject_scaled", "prompt_scaled", "failed", "copy", "character",
)  # fmt: skip
LINES = (
    ("instance", 0, "a {} on a beach, at night", 0, 2**64 + 1, 0.71, 0.31, 0.9, 1.02, 0, 0, "momo"),
    ("instance", 0, "a {} on a beach, at night", 1, 2**64 + 2, 0.21, 0.30, 0.01, 0.98, 1, "", ""),
    ("class", 0, "a dog", 0, 5, 0.33, "", "", "", "", "", ""),
)
RUN = dict.fromkeys(("run_key", "arm", "method", "phase", "subject"), "x") | {"trial": 0, "seed": 0}


def write_scores(folder: Path, lines: tuple[tuple[object, ...], ...] = LINES) -> None:
    with (folder / IMAGE_SCORES).open("w", newline="") as file:
        csv.writer(file).writerows([HEAD, *lines])


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    storage = Storage(tmp_path, "fake")
    write_scores(write_run(storage, RUNS[SCORED]))
    write_run(storage, RUNS[BARE])
    return storage


def test_scores_come_back_from_folders_and_from_mlflow_alike(storage: Storage) -> None:
    prepare_store(storage)
    TrackingRecord(storage).add_launch()
    sync(storage)
    local = local_results(storage).image_scores
    tracked = mlflow_results(storage, storage.tracking_uri).image_scores
    pd.testing.assert_frame_equal(local, tracked)
    assert list(local.columns) == list(SCORE_COLUMNS)
    assert set(local["run_key"]) == {SCORED}
    first = local.iloc[0]
    assert (first["arm"], first["phase"], first["trial"], first["subject"]) == (
        "lora-cosine",
        "confirm",
        1,
        "dog-1",
    )
    assert first["template"] == "a {} on a beach, at night"
    assert first["noise_seed"] == str(2**64 + 1)
    assert first["subject_scaled"] == 0.9
    assert local["failed"].tolist()[:2] == [0, 1]
    assert local["character"].isna().tolist() == [False, True, True]
    assert first["character"] == "momo"
    assert local["copy"].isna().tolist() == [False, True, True]
    assert local["prompt_scaled"].isna().tolist() == [False, False, True]


def test_syncing_again_changes_nothing(storage: Storage) -> None:
    prepare_store(storage)
    TrackingRecord(storage).add_launch()
    sync(storage)
    before = mlflow_results(storage, storage.tracking_uri)
    sync(storage)
    after = mlflow_results(storage, storage.tracking_uri)
    pd.testing.assert_frame_equal(before.image_scores, after.image_scores)
    pd.testing.assert_frame_equal(before.frame, after.frame)


def test_an_artifact_that_was_deleted_is_done_without(storage: Storage) -> None:
    prepare_store(storage)
    TrackingRecord(storage).add_launch()
    sync(storage)
    for path in storage.artifact_root.rglob(IMAGE_SCORES):
        path.unlink()
    results = mlflow_results(storage, storage.tracking_uri)
    assert results.image_scores.empty
    assert len(results.frame) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "kind,prompt\ninstance,first\n",
        "\0\0\0",
        'kind,prompt\n"instance',
        "kind,prompt\ninstance,1e999999\n",
    ],
)
def test_a_damaged_file_costs_no_report(tmp_path: Path, content: str) -> None:
    (tmp_path / IMAGE_SCORES).write_text(content)
    found = read_scores(tmp_path, RUN)
    assert scores_of(found)["prompt"].isna().all()


def test_a_file_elsewhere_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    write_scores(tmp_path)
    assert len(read_scores(tmp_path, RUN)) == 3
    (folder / IMAGE_SCORES).symlink_to(tmp_path / IMAGE_SCORES)
    assert read_scores(folder, RUN) == []


# ------------------------------------------------------------------ beside the CSV files


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results(Study(trials=1, modern=True, failing=(), pruned=()))


def test_parquet_gives_the_same_scores_and_the_same_bytes(results: Results, tmp_path: Path) -> None:
    written = write_csv(results, tmp_path / "one")
    assert tmp_path / "one" / SCORES_PARQUET in written
    found = read_csv(tmp_path / "one").image_scores
    order = ["run_key", "kind", "prompt", "image"]
    expected = results.image_scores.sort_values(order, kind="stable").reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)
    shuffled = results.image_scores.sample(frac=1, random_state=3)
    for name, scores in (("again", found), ("shuffled", shuffled)):
        write_csv(
            Results(results.frame, results.curves, results.images, results.meta, scores), tmp_path / name
        )
    digests = {
        hashlib.sha256((tmp_path / name / SCORES_PARQUET).read_bytes()).hexdigest()
        for name in ("one", "again", "shuffled")
    }
    assert len(digests) == 1


def test_a_folder_without_parquet_is_read_as_ever(results: Results, tmp_path: Path) -> None:
    write_csv(results, tmp_path)
    (tmp_path / SCORES_PARQUET).unlink()
    found = read_csv(tmp_path)
    assert found.image_scores.empty
    assert list(found.image_scores.columns) == list(SCORE_COLUMNS)
    bare = Results(results.frame, results.curves, results.images, results.meta)
    assert tmp_path / SCORES_PARQUET not in write_csv(bare, tmp_path)


def test_scores_from_before_data_sets_name_no_character(results: Results, tmp_path: Path) -> None:
    write_csv(results, tmp_path)
    path = tmp_path / SCORES_PARQUET
    pd.read_parquet(path).drop(columns="character").to_parquet(path)
    found = read_csv(tmp_path).image_scores
    assert list(found.columns) == list(SCORE_COLUMNS)
    assert found["character"].isna().all()
    assert found["subject_scaled"].notna().any()


def test_results_without_scores_leave_no_older_file_behind(results: Results, tmp_path: Path) -> None:
    write_csv(results, tmp_path)
    write_csv(Results(results.frame, results.curves, results.images, results.meta), tmp_path)
    assert not (tmp_path / SCORES_PARQUET).exists()


def test_damaged_parquet_says_what_to_do(results: Results, tmp_path: Path) -> None:
    write_csv(results, tmp_path)
    (tmp_path / SCORES_PARQUET).write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"is damaged .*remove it"):
        read_csv(tmp_path)
    pd.DataFrame({"run_key": ["x"]}).to_parquet(tmp_path / SCORES_PARQUET)
    with pytest.raises(UserError, match="lacks the columns arm"):
        read_csv(tmp_path)
