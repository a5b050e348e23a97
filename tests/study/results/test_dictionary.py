"""The data dictionary: every column of every table once, no other, and what Parquet says agrees with it."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from study.results.any_table import table_source
from study.results.columns import IDENTITY, MORE_COLUMNS, RUN_COLUMNS
from study.results.csv_files import read_csv, write_csv
from study.results.dictionary import HEADER, RUNS, SCORES, table_entries
from study.results.external import external_results
from study.results.frames import Results
from study.results.mapping import ResultMapping
from study.results.parquet_files import arrow_types
from tests.helpers.synthetic_results import Study, make_results
from trainables.errors import UserError
from trainables.evaluation.metrics_table import METRICS

SHIPPED = Path(__file__).parents[3] / "reports" / "quickstart"
TABLES = ("runs", "curves", "images", "image_scores")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return make_results(
        Study(trials=2, modern=True, failing=(), pruned=(), folder=tmp_path_factory.mktemp("i"))
    )


@pytest.fixture(scope="module")
def data(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_csv(results, folder)
    return folder


def dictionary(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "dictionary.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {(row["table"], row["column"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_it_has_every_column_of_every_table_and_no_other(data: Path) -> None:
    found = dictionary(data)
    for table in TABLES:
        listed = [column for name, column in found if name == table]
        assert listed == pq.read_schema(data / f"{table}.parquet").names
        if (data / f"{table}.csv").exists():
            with (data / f"{table}.csv").open(newline="") as file:
                assert listed == next(csv.reader(file))
    assert {table for table, _ in found} == set(TABLES)
    assert (data / "dictionary.csv").read_text().splitlines()[0] == ",".join(HEADER)


def test_parquet_has_its_types_and_its_words(data: Path) -> None:
    for (table, column), row in dictionary(data).items():
        field = pq.read_schema(data / f"{table}.parquet").field(column)
        assert field.type == arrow_types()[row["type"]], column  # type: ignore[index]
        told = {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
        words = {name: row[name] for name in ("unit", "range", "direction", "meaning") if row[name]}
        assert {name: told[name] for name in words} == words


def test_every_column_that_is_declared_is_described() -> None:
    """Also those that no run of this test has: a metric or a column that is added says what it means."""
    entries = table_entries(RUNS, pd.DataFrame(columns=[*RUN_COLUMNS, *MORE_COLUMNS, *METRICS]))
    assert all(entry.meaning and "does not describe" not in entry.meaning for entry in entries)
    found = {entry.column: entry for entry in entries}
    quality, memory = found["quality"], found["peak_memory_bytes"]
    assert (quality.type, quality.unit, quality.range, quality.direction) == ("number", "", "0..1", "higher")
    assert (memory.type, memory.unit, memory.range, memory.direction) == ("integer", "B", ">= 0", "lower")
    assert found["started"].type == "time"
    assert found["phase"].range == "search | confirm | foreign"
    unknown = table_entries(RUNS, pd.DataFrame({"of_another_version": [1.0]}))
    assert "does not describe" in unknown[0].meaning


def test_values_of_a_shipped_report_lie_within_the_ranges_that_are_stated() -> None:
    results = read_csv(SHIPPED)
    frames = {
        "runs": results.frame, "curves": results.curves, "images": results.images, "image_scores": results.image_scores,
    }  # fmt: skip
    checked = 0
    for table, frame in frames.items():
        for entry in table_entries(table, frame):
            values, stated = frame[entry.column].dropna(), entry.range
            checked += bool(stated and len(values))
            if "|" in stated:
                assert set(values.astype(str)) <= set(stated.split(" | ")), entry
            elif ".." in stated:
                low, high = map(float, stated.split(".."))
                assert values.between(low, high).all(), entry
            elif stated:
                sign, limit = stated.split()
                assert ((values > float(limit)) if sign == ">" else (values >= float(limit))).all(), entry
    assert checked > 40


def test_parquet_and_csv_hold_the_same(data: Path) -> None:
    for table in ("runs", "curves", "images"):
        typed, plain = pd.read_parquet(data / f"{table}.parquet"), pd.read_csv(data / f"{table}.csv")
        assert len(typed) == len(plain) > 0
        for name in typed.columns:
            if typed[name].dtype == "float64":
                pd.testing.assert_series_equal(typed[name], plain[name].astype("float64"))
            elif name in ("run_key", "arm", "key", "path", "state", "seed", "step"):
                assert typed[name].tolist() == plain[name].tolist()
    images = pd.read_parquet(data / "images.parquet")
    assert images["path"].map(lambda path: Path(path).is_file()).all()


def test_the_same_results_have_the_same_bytes(data: Path, results: Results, tmp_path: Path) -> None:
    write_csv(read_csv(data), tmp_path)
    assert digests(tmp_path) == digests(data)


def test_a_compact_folder_has_each_table_once_and_gives_the_same(
    data: Path, results: Results, tmp_path: Path
) -> None:
    write_csv(results, tmp_path)
    write_csv(results, tmp_path, compact=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "runs.csv",
        "curves.parquet",
        "images.csv",
        "image_scores.parquet",
        "meta.json",
        "dictionary.csv",
    }
    assert dictionary(tmp_path) == dictionary(data)
    whole, compact = read_csv(data), read_csv(tmp_path)
    pd.testing.assert_frame_equal(compact.curves, whole.curves)
    pd.testing.assert_frame_equal(compact.frame, whole.frame)


def test_curves_that_somebody_has_edited_are_taken_from_csv(
    data: Path, results: Results, tmp_path: Path
) -> None:
    write_csv(results, tmp_path)
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    (tmp_path / "curves.csv").write_text("\n".join(lines[:3]) + "\n")
    assert len(read_csv(tmp_path).curves) == 2


def test_damaged_curves_say_what_to_do(results: Results, tmp_path: Path) -> None:
    write_csv(results, tmp_path, compact=True)
    path = tmp_path / "curves.parquet"
    path.write_bytes(b"PAR1 no more")
    with pytest.raises(UserError, match=r"curves\.parquet is damaged .*remove it"):
        read_csv(tmp_path)
    wrong = replace(results, curves=results.curves.assign(value="much"))
    wrong.curves.to_parquet(path)
    with pytest.raises(UserError, match=r"curves\.parquet: .*much.*remove it"):
        read_csv(tmp_path)
    path.unlink()
    assert read_csv(tmp_path).curves.empty


def test_anybodys_metrics_are_described_as_their_mapping_says(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("kind,fid,secs\na,3,5\nb,4,6\n")
    mapping = ResultMapping.model_validate({
        "arm": ["kind"], "quality": ["fid"], "cost": ["secs"], "lower_is_better": True,
        "metrics": {"fid": {"title": "FID", "unit": "", "description": "Distance to the training set."}},
    })  # fmt: skip
    write_csv(external_results(table_source(tmp_path / "theirs.csv"), mapping), tmp_path / "data")
    row = dictionary(tmp_path / "data")["runs", "metric.fid"]
    assert (row["direction"], row["meaning"]) == ("lower", "Distance to the training set.")


def test_runs_of_others_have_no_columns_that_nobody_fills(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("kind,fid,drift\na,3,\nb,4,\n")
    mapping = ResultMapping.model_validate({
        "arm": ["kind"], "quality": ["fid"], "lower_is_better": True, "metrics": {"drift": None}
    })  # fmt: skip
    data = tmp_path / "data"
    write_csv(external_results(table_source(tmp_path / "theirs.csv"), mapping), data)
    names = list(pd.read_csv(data / "runs.csv").columns)
    assert names == [*IDENTITY, "run_key", "metric.fid", "metric.drift"]
    assert pq.read_schema(data / "runs.parquet").names == names
    again = read_csv(data)
    assert again.frame["metric.fid"].tolist() == [3, 4]
    write_csv(again, tmp_path / "again")
    assert (tmp_path / "again" / "runs.csv").read_bytes() == (data / "runs.csv").read_bytes()
    (data / "meta.json").unlink()
    with pytest.raises(UserError, match="of the columns are missing: quality"):
        read_csv(data)


def test_without_scores_the_dictionary_names_none(results: Results, tmp_path: Path) -> None:
    write_csv(Results(results.frame, results.curves, results.images, results.meta), tmp_path)
    assert SCORES not in {table for table, _ in dictionary(tmp_path)}
