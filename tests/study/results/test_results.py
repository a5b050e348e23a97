"""Results as frames: the same from MLflow, from CSV and from the run folders."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import study
from study.api import report_study
from study.results import columns
from study.results.csv_files import write_csv
from study.results.frames import Results
from study.results.from_folders import local_results
from study.results.from_mlflow import mlflow_results
from study.results.loading import load_results
from study.results.run_rows import rows
from study.storage.layout import Storage
from study.tracking.event_metrics import latest_metrics
from study.tracking.run_ids import TrackingRecord
from study.tracking.sync import sync
from tests.helpers.fake_runs import fake_runs, write_run
from tests.helpers.mlflow_stores import prepare_store
from trainables.errors import UserError
from trainables.evaluation.metrics_table import metric_names
from trainables.events import EventLog, read_events, sum_up

RUNS = {run.key.name: run for run in fake_runs()}
NAMES = (
    "search/lora-cosine/0000-cat-1-s0",
    "search/lora-cosine/0001-cat-1-s0",
    "search/lora-constant/0002-cat-1-s0",  # PRUNED
    "search/dreambooth-constant/0002-cat-1-s0",  # FAIL
    "confirm/base/0000-dog-1-s100",
    "confirm/lora-cosine/0001-dog-1-s100",
)
RUNNING = "confirm/lora-cosine/0001-dog-1-s101"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Six ended runs and one that is running, in MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        storage = Storage(tmp_path_factory.mktemp("results"), "fake")
        for name in NAMES:
            write_run(storage, RUNS[name])
        write_run(storage, RUNS[RUNNING], finish=False)
        spec = {"name": "fake", "tracking": {"uri": None}, "arms": {}}
        (storage.folder / "study.json").write_text(json.dumps({"digest": "d1g", "spec": spec}))
        prepare_store(storage)
        TrackingRecord(storage).add_launch()
        sync(storage)
    return storage


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def results(storage: Storage) -> Results:
    return mlflow_results(storage, storage.tracking_uri)


def test_the_columns_that_others_rely_on_come_first_in_their_order(results: Results) -> None:
    issue = (
        "study, arm, method, phase, trial, subject, seed, state, quality, subject_fidelity, prompt_fidelity, "
        "diversity, drift, memorisation, train_seconds, device_seconds, preparation_seconds, "
        "evaluation_seconds, train_flops, peak_memory_bytes, trainable_parameters, artifact_bytes, "
        "image_latency_seconds, "
        "learning_rate, lr_scheduler, max_train_steps, mlflow_run_id"
    )
    assert ", ".join(columns.RUN_COLUMNS) == issue
    found = list(results.frame.columns)
    assert ", ".join(found[:27]) == issue
    assert found[27 : 27 + len(columns.MORE_COLUMNS)] == list(columns.MORE_COLUMNS)
    assert found[27 + len(columns.MORE_COLUMNS) :] == [
        "dataset_cmmd",
        "dataset_cmmd_high",
        "dataset_cmmd_low",
        "dataset_kid",
        "dataset_kid_high",
        "dataset_kid_low",
        "worst_character",
        "param.lora_alpha",
        "param.r",
        "param.target_modules",
        "param.with_prior_preservation",
    ]


def test_a_new_metric_has_a_column_a_measure_and_a_line_of_the_listing() -> None:
    """Nothing but the table of metrics names it."""
    code = (
        "from pathlib import Path; from trainables.evaluation import metrics_table as table\n"
        "before = list(table.METRICS)\n"
        "for kind, name, unit in (('eval', 'sharpness', ''), ('cost', 'disk_bytes', 'B')):\n"
        "    table.METRICS[name] = table.Metric(name, name.title(), 'higher', unit, kind, 'About it.')\n"
        "from study.cli.listing import listing; from study.report import measures; from study.results import columns\n"
        "assert columns.EVALUATION_METRICS[-1] == 'sharpness' and columns.COST_METRICS[-1] == 'disk_bytes'\n"
        "assert {'sharpness', 'disk_bytes'} <= set(columns.MORE_COLUMNS)\n"
        "assert 'disk_bytes' in columns.COUNTS and 'sharpness' not in columns.COUNTS\n"
        "assert 'sharpness' in measures.MORE_QUALITY and 'disk_bytes' in measures.MORE_COSTS\n"
        "assert 'sharpness' in measures.SCORES and 'disk_bytes' not in measures.SCORES\n"
        "assert measures.measure('sharpness').sign == 1 and measures.measure('sharpness').title == 'Sharpness'\n"
        "assert [row['name'] for row in listing('metrics', Path())[0]] == [*before, 'sharpness', 'disk_bytes']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_reports_know_of_a_new_metric_stands_in_its_line() -> None:
    code = (
        "from trainables.evaluation import metrics_table as table\n"
        "table.METRICS['blur'] = table.Metric('blur', 'Blur', 'lower', '', 'eval', 'Share.', limits=table.SHARE,\n"
        "    listed=False, of_data_sets=True, as_score=False, false_alarms=0.1,\n"
        "    shown_unit='count', explained='More.')\n"
        "from study.report import measures\n"
        "assert 'blur' in measures.BOUNDED and measures.FALSE_ALARMS['blur'] == 0.1\n"
        "assert measures.DATA_SET[-1] == 'blur' and 'blur' not in measures.SCORES\n"
        "found = measures.measure('blur')\n"
        "assert (found.unit, found.description) == ('count', 'More.')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_counts_are_those_that_have_ever_been() -> None:
    names = "artifact_bytes best_step class_image_flops peak_memory_bytes train_flops train_steps trainable_parameters"
    later = "generate_flops inference_bytes inference_fused_bytes"
    assert sorted(columns.COUNTS) == sorted([*names.split(), *later.split()])


def test_values_and_types(results: Results) -> None:
    frame = results.frame.set_index("run_key")
    assert set(frame.index) == {*NAMES, RUNNING}
    one = frame.loc["search/lora-cosine/0001-cat-1-s0"]
    assert (one["trial"], one["seed"], one["max_train_steps"], one["attempts"]) == (1, 0, 120, 1)
    assert (one["learning_rate"], one["lr_scheduler"], one["param.r"]) == (0.001, "cosine", 8.0)
    assert one["peak_memory_kind"] == "resident_set"
    assert one["trainable_parameters"] == 98304
    assert one["started"] < one["ended"]
    types = results.frame.dtypes
    for name in (*columns.EVALUATION_METRICS, *columns.COST_METRICS, "learning_rate"):
        assert types[name] == "float64", name
    assert {str(types[name]) for name in columns.INTEGERS} == {"Int64"}
    assert {str(types[name]) for name in columns.TEXTS} == {"str"}
    assert types["started"] == "datetime64[ms, UTC]"


def test_what_is_missing_is_missing(results: Results) -> None:
    frame = results.frame.set_index("run_key")
    failed = frame.loc["search/dreambooth-constant/0002-cat-1-s0"]
    assert (failed["state"], failed["reason"]) == ("FAIL", "nan_loss")
    assert pd.isna(failed["quality"])
    assert failed["train_seconds"] > 0
    assert pd.isna(frame.loc["confirm/base/0000-dog-1-s100", "param.r"])
    running = frame.loc[RUNNING]
    assert (running["state"], pd.isna(running["ended"]), pd.isna(running["train_seconds"])) == (
        "RUNNING",
        True,
        True,
    )
    assert running["quality"] > 0, "the last evaluation so far"
    assert frame.loc["search/lora-constant/0002-cat-1-s0", "state"] == "PRUNED"


def test_a_metric_that_the_last_evaluation_lacks_is_missing_in_all_ways(tmp_path: Path) -> None:
    from trainables.events import EventLog

    storage = Storage(tmp_path, "lacks")
    run = RUNS[NAMES[0]]
    folder = write_run(storage, run)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    EventLog(folder).append("evaluation", 121, clip_i=0.5)
    result["evaluation"] |= {"clip_i": None, "quality": 0.125}
    (folder / "result.json").write_text(json.dumps(result))
    prepare_store(storage)
    sync(storage)
    for frame in (mlflow_results(storage).frame, local_results(storage).frame):
        assert pd.isna(frame.loc[0, "clip_i"])
        assert frame.loc[0, "quality"] == 0.125


@pytest.mark.parametrize("way", ["csv", "folders"])
def test_all_ways_give_the_same(storage: Storage, results: Results, way: str, tmp_path: Path) -> None:
    if way == "csv":
        write_csv(results, tmp_path)
        other = load_results(storage, csv_folder=tmp_path)
        pd.testing.assert_frame_equal(other.images, results.images)
        assert other.meta == results.meta
    else:
        other = local_results(storage)
        pd.testing.assert_frame_equal(other.images.drop(columns="path"), results.images.drop(columns="path"))
        assert other.meta == results.meta
    pd.testing.assert_frame_equal(other.frame, results.frame)
    pd.testing.assert_frame_equal(other.curves, results.curves)


def test_the_csv_is_plain(results: Results, tmp_path: Path) -> None:
    write_csv(results, tmp_path)
    with (tmp_path / "runs.csv").open(newline="") as file:
        found = {row["run_key"]: row for row in csv.DictReader(file)}
    one = found["search/lora-cosine/0001-cat-1-s0"]
    assert (one["trial"], one["trainable_parameters"], one["learning_rate"]) == ("1", "98304", "0.001")
    assert one["started"].endswith("+00:00")
    assert found["confirm/base/0000-dog-1-s100"]["param.with_prior_preservation"] == "false"
    assert found["search/dreambooth-constant/0002-cat-1-s0"]["quality"] == ""


def test_curves_and_images(storage: Storage, results: Results) -> None:
    curves = results.curves
    assert tuple(curves.columns) == columns.CURVE_COLUMNS
    one = curves[curves["run_key"] == "search/lora-cosine/0001-cat-1-s0"]
    assert list(one.loc[one["metric"] == "train/loss", "step"]) == [20, 40, 60, 80, 100, 120]
    assert list(one.loc[one["metric"] == "eval/quality", "step"]) == [60, 120]
    assert set(curves["metric"]) == {"train/loss"} | {f"eval/{name}" for name in metric_names("eval")}
    images = results.images
    assert tuple(images.columns) == columns.IMAGE_COLUMNS
    mine = images[images["run_key"] == "search/lora-cosine/0001-cat-1-s0"]
    assert list(mine["step"]) == [60, 120]
    for step, path in zip(mine["step"], mine["path"], strict=True):
        source = (
            storage.run_folder(RUNS["search/lora-cosine/0001-cat-1-s0"].key) / f"samples/grid-{step:06d}.png"
        )
        assert pixels(Path(path)) == pixels(source)


def pixels(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        return image.tobytes()


def test_meta_says_where_results_come_from(storage: Storage, results: Results) -> None:
    meta = results.meta
    assert (meta["study"], meta["spec_digest"], meta["spec"]["name"]) == ("fake", "d1g", "fake")
    assert meta["tracking_uri"] == storage.tracking_uri
    assert meta["launches"][0]["versions"]["torch"].startswith("2.")
    assert json.dumps(meta)


def test_rows_are_those_of_the_frame_and_plain_json(storage: Storage, results: Results) -> None:
    found = rows(storage)
    assert list(found[0]) == list(results.frame.columns)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert [row["run_key"] for row in again] == list(results.frame["run_key"])
    assert {row["state"] for row in again} == {"RUNNING", "COMPLETE", "PRUNED", "FAIL"}
    for row, quality in zip(again, results.frame["quality"], strict=True):
        assert row["quality"] == (None if pd.isna(quality) else quality)
    assert all(row["mlflow_run_id"] for row in again)
    counts = [row["trainable_parameters"] for row in found if row["trainable_parameters"] is not None]
    assert counts
    assert all(isinstance(count, int) for count in counts)


def test_rows_need_no_mlflow_no_pandas_and_survive_a_run_that_just_begins(storage: Storage) -> None:
    code = (
        "import sys; from pathlib import Path; from study.storage.layout import Storage\n"
        "from study.results.run_rows import rows; found = rows(Storage(Path(sys.argv[1]), 'fake'))\n"
        "print(len(found), {'mlflow', 'pandas', 'torch', 'ray', 'optuna'} & set(sys.modules))"
    )
    empty = storage.folder / "runs" / "search" / "lora-cosine" / "0009-cat-1-s0"
    empty.mkdir(parents=True)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(storage.root)], capture_output=True, text=True, check=True
        )
        (empty / "events.jsonl").write_text('{"number": 1, "ti')
        assert len(rows(storage)) == 7
    finally:
        (empty / "events.jsonl").unlink()
        empty.rmdir()
    assert done.stdout.strip() == "7 set()"


def test_a_study_that_mlflow_does_not_know(tmp_path: Path, storage: Storage) -> None:
    with pytest.raises(UserError, match="study sync nobody"):
        mlflow_results(Storage(tmp_path, "nobody"))
    assert list(tmp_path.iterdir()) == [], "reading must not create a store"
    with pytest.raises(UserError, match="study sync nobody"):
        mlflow_results(Storage(storage.root, "nobody"))
    with pytest.raises(UserError, match=r"runs\.csv"):
        load_results(storage, csv_folder=tmp_path)


def test_run_folders_are_read_unless_another_source_is_named(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **options: object) -> Results:
        raise AssertionError("read")

    write_csv(local_results(storage), tmp_path)
    monkeypatch.setattr("study.results.from_mlflow.mlflow_results", refuse)
    found = load_results(storage).frame
    pd.testing.assert_frame_equal(found, local_results(storage).frame)
    assert load_results(storage, images=False).images.empty
    assert study.load_results("fake", storage=storage.root).frame.equals(found)
    assert study.load_results("fake", storage=tmp_path, csv_folder=tmp_path).frame.equals(found)
    for options in ({"from_mlflow": True}, {"tracking_uri": storage.tracking_uri}):
        for load in (
            lambda **how: load_results(storage, **how),
            partial(study.load_results, "fake", storage=tmp_path),
        ):
            with pytest.raises(AssertionError, match="read"):
                load(**options)
    with pytest.raises(UserError, match="leave one of them out"):
        load_results(storage, from_mlflow=True, csv_folder=tmp_path)


def test_runs_whose_folders_were_removed_are_missed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = Storage(tmp_path, "thinned")
    kept, removed = (RUNS[name] for name in NAMES[:2])
    write_run(storage, kept)
    record = TrackingRecord(storage)
    record.set_mlflow_run_id(kept.key, "one")
    record.flush()
    load_results(storage)
    assert capsys.readouterr().err == ""
    record.set_mlflow_run_id(removed.key, "two")
    record.flush()
    assert len(load_results(storage).frame) == 1
    assert "note: 1 runs that were written to MLflow have no folder" in capsys.readouterr().err


def test_a_study_of_which_no_run_has_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run of study 'new' has begun"):
        load_results(Storage(tmp_path, "new"))
    with pytest.raises(UserError, match="no study called 'new'"):
        study.load_results("new", storage=tmp_path)
    assert list(tmp_path.iterdir()) == [], "reading must leave nothing behind"


def test_reports_from_all_sources_are_the_same_bytes(storage: Storage, tmp_path: Path) -> None:
    folders = report_study(storage, tmp_path / "folders").folder
    sources: dict[str, dict[str, Any]] = {
        "mlflow": {"from_mlflow": True},
        "uri": {"tracking_uri": storage.tracking_uri},
        "csv": {"csv_folder": folders},
    }
    for source, options in sources.items():
        other = report_study(storage, tmp_path / source, **options).folder
        for path in (path for path in folders.rglob("*") if path.is_file()):
            again = other / path.relative_to(folders)
            assert again.read_bytes() == path.read_bytes(), f"{source}: {path.relative_to(folders)}"


def test_a_study_can_be_read_from_mlflow_alone(storage: Storage, results: Results, tmp_path: Path) -> None:
    """Somebody else's machine: no storage folder, only the tracking store."""
    found = load_results(Storage(tmp_path, "fake"), tracking_uri=storage.tracking_uri)
    pd.testing.assert_frame_equal(found.frame, results.frame)
    assert found.meta["spec"] == results.meta["spec"]


def test_values_that_chose_a_step_make_curves_and_no_results(tmp_path: Path) -> None:
    """In MLflow as in the folders: of a run that restored its best step, and of one that was stopped before."""
    storage = Storage(tmp_path, "fake")
    complete = RUNS["search/lora-cosine/0000-cat-1-s0"]
    stopped = RUNS["search/lora-constant/0002-cat-1-s0"]
    for run in (complete, stopped):
        folder = write_run(storage, run)
        lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        for event in lines:
            if event["kind"] == "evaluation" and not event["data"]["final"]:
                event["data"]["choice"] = "*"
                event["data"]["class_kid"] = 0.5
            elif event["kind"] == "evaluation":
                event["data"]["class_kid"] = None
        (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in lines))
        content = sum_up(folder, "d1g")
        assert content is not None
        (folder / "result.json").write_text(json.dumps(content))
    (storage.folder / "study.json").write_text(
        json.dumps({"digest": "d1g", "spec": {"name": "fake", "arms": {}}})
    )
    prepare_store(storage)
    TrackingRecord(storage).add_launch()
    sync(storage)
    local, remote = local_results(storage), mlflow_results(storage, storage.tracking_uri)
    for results in (local, remote):
        by_state = results.frame.set_index("state")
        assert by_state.loc["COMPLETE", "quality"] > 0
        assert pd.isna(by_state.loc["COMPLETE", "class_kid"])
        assert pd.isna(by_state.loc["PRUNED", "quality"])
        curves = results.curves[results.curves["metric"] == "eval/quality"]
        assert curves.groupby("run_key")["step"].agg(list).to_dict() == {
            complete.key.name: [60, 120],
            stopped.key.name: [60],
        }
        ends = curves.set_index(["run_key", "step"])["value"]
        assert ends[complete.key.name, 120] == by_state.loc["COMPLETE", "quality"]
    pd.testing.assert_frame_equal(local.curves, remote.curves)


def test_images_for_classifiers_are_told_by_their_cost_and_by_class(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "fake")
    drew, not_drew = RUNS["confirm/lora-cosine/0001-dog-1-s100"], RUNS["confirm/base/0000-dog-1-s100"]
    for run in (drew, not_drew):
        write_run(storage, run)
    without = local_results(storage).frame
    assert not {"generate_seconds", "generate_flops"} & set(without.columns)
    folder = storage.run_folder(drew.key)
    log = EventLog(folder)
    data = {"label": "score 1", "name": "score-1", "prompt": "a cat", "entries": ["generated/a.safetensors"]}
    log.append("generated", 120, **data, images=3, vendi=2.5, vendi_real=None, grade_seen=[1, 0, 0, 1, 1])
    metrics = {name: point.value for name, point in latest_metrics(read_events(folder)).items()}
    assert {name: value for name, value in metrics.items() if name.startswith("generated/")} == {
        "generated/score-1/images": 3.0,
        "generated/score-1/vendi": 2.5,
    }
    content = json.loads((folder / "result.json").read_text())
    content["cost"] |= {"generate_seconds": 1.5, "generate_flops": 7}
    (folder / "result.json").write_text(json.dumps(content))
    frame = local_results(storage).frame.set_index("run_key")
    assert list(frame.loc[drew.key.name, ["generate_seconds", "generate_flops"]]) == [1.5, 7]
    assert pd.isna(frame.loc[not_drew.key.name, "generate_seconds"])
    both = [
        one.drop(columns=["generate_seconds", "generate_flops"], errors="ignore") for one in (frame, without)
    ]
    assert list(both[0].columns) == list(both[1].set_index("run_key").columns)
