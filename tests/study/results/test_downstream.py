"""The downstream phase as tables: apart from the ordinary rows, from folders and MLflow alike, and through files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.results.csv_files import read_csv, write_csv
from study.results.downstream import classifier_of, read_predictions
from study.results.from_folders import local_results
from study.results.from_mlflow import mlflow_results
from study.results.run_rows import rows
from study.storage.layout import DOWNSTREAM_CSV, GENERATED_CSV, PREDICTIONS_PARQUET, Storage
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from tests.helpers.downstream_runs import CLASSES, STEPS, world_of, write_study
from tests.helpers.fake_runs import fake_runs, make_study
from tests.helpers.mlflow_stores import prepare_store
from trainables.errors import UserError
from trainables.events import PREDICTIONS, RECORD

FAILED = "downstream/copies-x10.resnet18.focal/0001-g100-s1"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    world = world_of(
        ("copies",), seeds=(0, 1), generator_seeds=(100, 101), claims={}, failed=frozenset({FAILED}), groups=4,
        filters=("none", "near_copies"), losses=("cross_entropy", "focal"),
    )  # fmt: skip
    return write_study(tmp_path_factory.mktemp("storage"), world)


def test_the_ordinary_rows_hold_no_classifier(storage: Storage) -> None:
    found = rows(storage)
    assert {row["phase"] for row in found} == {"confirm"}
    assert not local_results(storage).curves["phase"].str.startswith("downstream").any()


def test_a_row_says_what_was_learnt_from_and_what_was_counted(storage: Storage) -> None:
    downstream = local_results(storage).downstream
    assert downstream is not None
    runs = downstream.runs.set_index("run_key")
    stated = {name: runs[name].to_dict() for name in runs.columns}
    assert (stated["state"][FAILED], stated["reason"][FAILED]) == ("FAIL", "nan_loss")
    one = "downstream/copies-x10-near_copies.resnet18.focal/0001-g101-s0"
    names = ("source", "generator", "ratio", "filter", "loss", "classifier")
    assert [stated[name][one] for name in names] == [
        "copies-x10-near_copies",
        "copies",
        "10",
        "near_copies",
        "focal",
        "resnet18",
    ]
    counts = ("generator_seed", "seed", "steps", "images_drawn", "real_images", "generated_share")
    assert [stated[name][one] for name in counts] == [101, 0, STEPS, 480, 12, 0.5]
    real = "downstream/real.resnet18.cross_entropy/0001-real-s0"
    assert pd.isna(stated["generator_seed"][real])
    assert pd.isna(stated["generator"][real])


def test_generated_images_that_nearly_show_held_out_ones_are_counted(storage: Storage) -> None:
    downstream = local_results(storage).downstream
    assert downstream is not None
    runs = downstream.runs[downstream.runs["state"] == "COMPLETE"].set_index("source")
    near = runs["generated_near_held_out"].groupby(level=0).max().to_dict()
    drawn = runs["generated_images"].groupby(level=0).max().to_dict()
    assert (near["real"], near["copies-x10"]) == (0, drawn["copies-x10"] // 4)
    assert near["copies-x10"] > 0


def test_results_of_before_these_were_counted_are_read(storage: Storage, tmp_path: Path) -> None:
    results = local_results(storage)
    write_csv(results, tmp_path)
    (path,) = tmp_path.rglob(DOWNSTREAM_CSV)
    pd.read_csv(path).drop(columns="generated_near_held_out").to_csv(path, index=False)
    older = read_csv(tmp_path).downstream
    assert results.downstream is not None
    assert older is not None
    assert older.runs["generated_near_held_out"].isna().all()
    assert list(older.runs["run_key"]) == list(results.downstream.runs["run_key"])


def test_only_final_runs_have_predictions_and_they_are_those_of_the_files(storage: Storage) -> None:
    downstream = local_results(storage).downstream
    assert downstream is not None
    said = downstream.predictions
    assert said["run_key"].str.startswith("downstream/").all()
    assert FAILED not in set(said["run_key"])
    test = said[said["part"] == "test"]
    probabilities = test[["p0", "p1", "p2"]].to_numpy()
    right = (probabilities.argmax(1) == test["label"].to_numpy(dtype=int)).astype(float)
    mean = pd.Series(right, index=test["run_key"].to_numpy()).groupby(level=0).mean()
    stated = downstream.runs.set_index("run_key")["accuracy"]
    assert np.allclose(mean, stated[mean.index])
    assert test["group"].nunique() == 39  # four images each, of 60, 50 and 40


def test_what_generators_drew_is_a_row_a_class(storage: Storage) -> None:
    downstream = local_results(storage).downstream
    assert downstream is not None
    drawn = downstream.generated
    assert list(drawn["label"]) == [label for label in CLASSES for _ in (100, 101)]
    known = drawn[["vendi", "memorisation", "generate_seconds"]].drop_duplicates()
    assert known.to_numpy().tolist() == [[3.5, 0.25, 4]]


def test_folders_and_mlflow_say_the_same(tmp_path: Path) -> None:
    world = world_of(("copies",), seeds=(0,), generator_seeds=(100,), trials=1, generated_only=False)
    storage = write_study(tmp_path, world)
    prepare_store(storage)
    TrackingRecord(storage).add_launch()
    sync(storage)
    local, tracked = local_results(storage), mlflow_results(storage, storage.tracking_uri)
    assert local.downstream is not None
    assert tracked.downstream is not None
    pd.testing.assert_frame_equal(local.downstream.runs, tracked.downstream.runs)
    pd.testing.assert_frame_equal(local.downstream.predictions, tracked.downstream.predictions)
    pd.testing.assert_frame_equal(local.downstream.generated, tracked.downstream.generated)
    pd.testing.assert_frame_equal(local.frame, tracked.frame)
    assert set(local.images["key"]) == set(tracked.images["key"])
    for path in storage.artifact_root.rglob(PREDICTIONS):
        path.unlink()
    bare = mlflow_results(storage, storage.tracking_uri).downstream
    assert bare is not None
    assert bare.predictions.empty
    assert len(bare.runs) == len(local.downstream.runs)


def test_files_give_the_same_tables_and_bytes(storage: Storage, tmp_path: Path) -> None:
    results = local_results(storage)
    write_csv(results, tmp_path / "one")
    again = read_csv(tmp_path / "one")
    assert results.downstream is not None
    assert again.downstream is not None
    for name in ("runs", "predictions", "generated"):
        pd.testing.assert_frame_equal(getattr(results.downstream, name), getattr(again.downstream, name))
    write_csv(again, tmp_path / "two")
    names = (DOWNSTREAM_CSV, GENERATED_CSV, PREDICTIONS_PARQUET, "dictionary.csv")
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    dictionary = pd.read_csv(tmp_path / "one" / "dictionary.csv")
    told = dictionary[dictionary["table"].isin(("downstream", "downstream_predictions", "generated"))]
    assert told["meaning"].notna().all()
    assert len(told) == sum(
        len(getattr(results.downstream, name).columns) for name in ("runs", "predictions", "generated")
    )


def test_a_study_without_the_phase_has_none_of_its_files(tmp_path: Path) -> None:
    storage = make_study(tmp_path, runs=fake_runs()[:4])
    results = local_results(storage)
    assert results.downstream is None
    write_csv(results, tmp_path / "data")
    assert not {DOWNSTREAM_CSV, GENERATED_CSV, PREDICTIONS_PARQUET} & {
        p.name for p in (tmp_path / "data").iterdir()
    }
    assert read_csv(tmp_path / "data").downstream is None


def test_an_altered_table_is_refused_by_its_cell(storage: Storage, tmp_path: Path) -> None:
    write_csv(local_results(storage), tmp_path)
    path = tmp_path / DOWNSTREAM_CSV
    path.write_text(path.read_text().replace(",480,", ",many,", 1))
    with pytest.raises(UserError, match=r"downstream\.csv, row 2, column images_drawn: 'many' is not a"):
        read_csv(tmp_path)
    (tmp_path / PREDICTIONS_PARQUET).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"downstream_predictions\.parquet is damaged"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "part,image\n", "part,image,group,label,p0,p1\ntest,a,,0,1,x\n", "part,image,group,label,p0\ntest,a,,0,nan\n",
     "part,image,group,label,p0,p1\ntest,a,,0,1\n"],
)  # fmt: skip
def test_damaged_predictions_count_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / PREDICTIONS).write_text(content)
    assert read_predictions(tmp_path, "x") == []


def test_a_run_without_a_record_has_no_counts(tmp_path: Path) -> None:
    world = world_of(("copies",), seeds=(0,), generator_seeds=(100,), trials=1, generated_only=False)
    storage = write_study(tmp_path, world)
    for path in storage.runs.rglob(RECORD):
        path.write_text("{")
    downstream = local_results(storage).downstream
    assert downstream is not None
    assert downstream.runs["steps"].isna().all()
    assert downstream.runs["classes"].isna().all()


def test_a_classifier_is_named_by_its_cell_and_by_its_network_where_that_was_cut() -> None:
    assert classifier_of("lora-x1.tiny.focal", "lora-x1", "focal", "small_cnn") == "tiny"
    assert classifier_of("lora-x1.tiny", "lora-x1", "focal", "small_cnn") == "tiny"
    assert (
        classifier_of("lora-with-a-lo-1234abcd", "lora-with-a-long-name-x1", "focal", "timm:vgg")
        == "timm-vgg"
    )
