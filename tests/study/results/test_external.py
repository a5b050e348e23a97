"""Anybody's runs and rows as results: names, nesting, what is missing, and what cannot be meant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from study.results.any_experiment import experiment_source
from study.results.any_table import table_source
from study.results.csv_files import read_csv, write_csv
from study.results.external import MOST_ARMS, NO_SUBJECT, external_results
from study.results.frames import Results
from study.results.mapping import mapping_of
from study.results.records import Record, Source
from tests.helpers.other_results import OtherExperiment, other_runs, write_table
from trainables.errors import UserError

MEANING = {
    "arm": ["adapter"], "quality": ["fid"], "cost": ["minutes"], "subject": ["item"], "seed": ["seed"],
    "lower_is_better": True,
}  # fmt: skip


def from_table(path: Path, **meaning: Any) -> Results:
    return external_results(table_source(path), mapping_of(None, {**MEANING, **meaning}))


def source(*records: Record) -> Source:
    return Source("the experiment", "x", records, "tag or param", "metric", ("params.", "tags."))


def record(key: str, arm: str | None, value: float | None, **facts: Any) -> Record:
    fields = {} if arm is None else {"tags.kind": arm}
    metrics = {} if value is None else {"score": value}
    return Record(key, fields, metrics, **facts)


def results_of(*records: Record, **meaning: Any) -> Results:
    return external_results(
        source(*records), mapping_of(None, {"arm": ["kind"], "quality": ["score"], **meaning})
    )


def left_out(results: Results) -> Mapping[str, int]:
    return {item["reason"]: item["runs"] for item in results.meta["external"]["left_out"]}


def problems_of(*records: Record, **meaning: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        results_of(*records, **meaning)
    return caught.value.problems


# Experiments of MLflow


def test_runs_of_an_experiment_of_others(tmp_path: Path) -> None:
    other = OtherExperiment(tmp_path, "/Users/me/adapters")
    parent = other.log({"val/fid": 1.0}, tags={"adapter.type": "LoRA"})
    runs = [
        other.log({"val/fid": 30.0 + k, "minutes": 5.0}, {"item": item, "rng": k}, parent=parent)
        for k, item in enumerate(("cup", "dog"))
    ]
    own = other.log({"val/fid": 20.0}, {"item": "cup", "rng": 0}, {"adapter.type": "OFT"})
    other.log({"val/fid": 9.0}, {"item": "dog", "rng": 0}, {"adapter.type": "OFT"}, status="FAILED")
    other.log({"val/fid": 9.0}, {"item": "dog", "rng": 1}, {"adapter.type": "OFT"}, status="RUNNING")
    other.log({"minutes": 3.0}, {"item": "dog", "rng": 2}, {"adapter.type": "OFT"})
    other.log({"val/fid": 9.0}, {"item": "dog", "rng": 3})
    other.log({"val/fid": math.nan}, {"rng": 3}, {"adapter.type": "OFT"})

    found = external_results(
        experiment_source(other.uri, "/Users/me/adapters"),
        mapping_of(
            None,
            {"arm": ["adapter.type"], "quality": ["val/fid"], "cost": ["minutes"], "subject": ["item"], "seed": ["rng"],
             "lower_is_better": True},
        ),
    )  # fmt: skip
    frame = found.frame[found.frame["state"] == "COMPLETE"].set_index("mlflow_run_id")
    assert set(frame.index) == {*runs, own, frame.index[frame["metric.val/fid"].isna()][0]}
    assert frame.loc[runs[1], ["arm", "subject", "seed", "metric.val/fid"]].tolist() == [
        "LoRA",
        "dog",
        1,
        31.0,
    ]
    assert math.isnan(frame.loc[own, "metric.minutes"])
    assert left_out(found) == {
        "parents of nested runs that are judged themselves": 1,
        "did not complete: MLflow's status is FAILED": 1,
        "have not ended: MLflow's status is RUNNING": 1,
        "have no value of val/fid; their other measures count": 1,
        "have no value of adapter.type (arm)": 1,
        "have no value of item (subject)": 1,
    }
    assert found.meta["study"] == "Users-me-adapters"
    assert found.meta["external"]["read"] == 9


def test_experiments_are_found_by_id_and_their_names_are_told(tmp_path: Path) -> None:
    other = OtherExperiment(tmp_path, "adapters")
    with pytest.raises(UserError, match="'adapters' has no runs"):
        experiment_source(other.uri, "adapters")
    other.log({"fid": 1.0})
    assert len(experiment_source(other.uri, other.id).records) == 1
    with pytest.raises(UserError, match="no experiment 'adaptors'; nearest: 'adapters'"):
        experiment_source(other.uri, "adaptors")
    other.client.delete_experiment(other.id)
    with pytest.raises(UserError, match=f"was deleted; restore it with: .* --experiment-id {other.id}"):
        experiment_source(other.uri, "adapters")
    with pytest.raises(UserError, match="there is no MLflow at sqlite"):
        experiment_source(f"sqlite:///{tmp_path}/none.db", "adapters")
    assert not (tmp_path / "none.db").exists()


# Names


def test_nested_runs_have_what_their_parents_say() -> None:
    found = results_of(
        record("sweep", None, None),
        record("lora", "LoRA", None, parent="sweep"),
        record("one", None, 1.0, parent="lora"),
        record("two", "OFT", 2.0, parent="lora"),
    )
    assert found.frame[["arm", "metric.score"]].values.tolist() == [["LoRA", 1.0], ["OFT", 2.0]]
    assert left_out(found) == {"parents of nested runs, without score": 2}


def test_a_circle_of_parents_ends() -> None:
    found = results_of(
        record("a", None, 1.0, parent="b"), record("b", "x", 1.0, parent="a"), record("c", "x", 3.0)
    )
    assert found.frame["metric.score"].tolist() == [3.0]


def test_arms_of_several_fields() -> None:
    rows = [
        Record("1", {"params.kind": "lora", "params.r": "4"}, {"score": 1.0}),
        Record("2", {"params.kind": "lora", "params.r": "16"}, {"score": 2.0}),
    ]
    assert results_of(*rows, arm=["kind", "r"]).frame["arm"].tolist() == ["lora, r 4", "lora, r 16"]


def test_a_tag_and_a_param_of_one_name() -> None:
    alike = Record("1", {"params.kind": "a", "tags.kind": "a"}, {"score": 1.0})
    differ = Record("2", {"params.kind": "a", "tags.kind": "b"}, {"score": 1.0})
    assert results_of(alike).frame["arm"].tolist() == ["a"]
    assert problems_of(alike, differ) == (
        "arm: 'kind' is params.kind and tags.kind, which differ; write which of them is meant",
    )
    assert results_of(alike, differ, arm=["tags.kind"]).frame["arm"].tolist() == ["a", "b"]


def test_a_param_that_is_a_number_is_a_cost() -> None:
    rows = [
        Record(str(k), {"tags.kind": "a", "params.size": size}, {"score": 1.0})
        for k, size in enumerate(("1e6", "None"))
    ]
    assert results_of(*rows, cost=["size"]).frame["metric.size"].fillna(-1).tolist() == [1e6, -1]


def test_everything_that_is_not_there_is_told_at_once() -> None:
    rows = (record("1", "a", 1.0), Record("2", {"params.size": "big", "tags.kind": "b"}, {"score": 1.0}))
    said = problems_of(*rows, arm=["knd"], subject=["item"], cost=["size"], quality=["scores"])
    assert said == (
        "arm: no tag or param of the experiment is called 'knd'; nearest: tags.kind",
        "subject: no tag or param of the experiment is called 'item'; there are: tags.kind, params.size",
        "quality: no metric of the experiment is called 'scores'; nearest: score",
        "cost: 'size' is not numeric: 2: 'big' is not a number; name one that is",
    )


def test_why_no_run_can_be_compared() -> None:
    said = problems_of(record("1", "a", 1.0, state="FAIL", reason="it was killed"), record("2", "a", None))
    assert said == (
        "no run of the experiment can be compared: 1: did not complete: it was killed; 1: have no value of score; "
        "their other measures count",
    )


def test_a_field_with_a_value_for_each_run_is_no_arm() -> None:
    rows = [record(str(k), f"run {k}", 1.0) for k in range(MOST_ARMS + 1)]
    assert "kind has 101 arms, and a report compares at most 100" in problems_of(*rows)[0]
    assert len(results_of(*rows[1:]).frame) == MOST_ARMS


# Subjects and seeds


def test_without_subjects_and_seeds_runs_are_repetitions_of_one() -> None:
    found = results_of(record("1", "a", 1.0), record("2", "a", 2.0), record("3", "b", 3.0)).frame
    assert set(found["subject"]) == {NO_SUBJECT}
    assert found[["arm", "trial", "seed"]].values.tolist() == [["a", 0, 0], ["a", 1, 0], ["b", 0, 0]]
    assert found["run_key"].is_unique


def test_seeds_that_are_no_numbers_are_numbered(tmp_path: Path) -> None:
    rows = [{"adapter": "x", "item": "y", "seed": seed, "fid": 1, "minutes": 1} for seed in ("b", "a", "b")]
    found = from_table(write_table(tmp_path / "t.csv", rows))
    assert found.frame["seed"].tolist() == [1, 0, 1]
    assert found.meta["external"]["seeds"] == {"a": 0, "b": 1}
    rows = [{**row, "seed": seed} for row, seed in zip(rows, ("42", "7", "-1"), strict=True)]
    found = from_table(write_table(tmp_path / "t.csv", rows))
    assert found.frame["seed"].tolist() == [42, 7, -1]
    assert found.meta["external"]["seeds"] == {}


# Settings


def test_params_in_which_runs_of_an_arm_differ_are_named() -> None:
    rows = [
        Record(
            str(k),
            {
                "tags.kind": arm,
                "tags.user": str(k),
                "params.lr": lr,
                "params.out": f"/runs/{k}",
                "params.bs": "4",
            },
            {"score": 1.0},
        )
        for k, (arm, lr) in enumerate((("a", "1e-3"), ("a", "1e-4"), ("b", "1e-3"), ("b", "1e-3")))
    ]
    assert results_of(*rows).meta["external"]["varying"] == ["lr"]
    assert results_of(*rows, arm=["kind", "lr"]).meta["external"]["varying"] == []
    assert results_of(*rows, cost=["lr"]).meta["external"]["varying"] == []


# Tables


def test_a_table_in_a_spreadsheets_notation(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(
        "\ufeffadapter;item;seed;fid;minutes\nLoRA;a cup;1;31,5;1.200,5\nLoKr;a cup;1;24,25;n/a\n;;;;\n",
        "utf-8",
    )
    found = from_table(path).frame
    assert found[["arm", "subject", "seed", "metric.fid"]].values.tolist() == [
        ["LoRA", "a cup", 1, 31.5],
        ["LoKr", "a cup", 1, 24.25],
    ]
    assert found["metric.minutes"].fillna(-1).tolist() == [1200.5, -1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_columns_are_separated_by_what_the_header_has(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = ["adapter item seed fid minutes", "LoRA cup 1 31.5 2", "LoKr cup 1 24.25 3"]
    path.write_text("\n".join(row.replace(" ", delimiter) for row in rows))
    assert from_table(path).frame["metric.fid"].tolist() == [31.5, 24.25]


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        ("1.5;1,234;0", None),  # the name of an arm tells nothing of a number that stands elsewhere
        ("1,5;1,234;0", 1.234),
        ("a;1,234;2,5", 1.234),
        ("1.5;1.234,5;0", 1234.5),
    ],
)
def test_names_do_not_set_thousands_apart(cells: str, value: float | None, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"adapter;fid;lr\n{cells}\n")
    meaning = mapping_of(None, {"arm": ["adapter"], "quality": ["fid"]})
    if value is None:
        with pytest.raises(UserError, match="may be a fraction or have thousands set apart"):
            external_results(table_source(path), meaning)
    else:
        found = external_results(table_source(path), meaning)
        assert found.frame["metric.fid"].tolist() == [value]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "t.csv is empty; its first row must name the columns"),
        ("adapter,fid\n", "t.csv has no row under its header, so that there is nothing to compare"),
        ("adapter,fid,fid\na,1,2\n", "t.csv: columns called 'fid' stand there twice; rename or remove one"),
        ("adapter,fid\na,1,2\n", "t.csv, row 2: it has 3 cells for 2 columns"),
        ("adapter,fid\na,good\n", "quality: 'fid' is not numeric: row 2: 'good' is not a number"),
        ('adapter,fid\n"a,1\n', "t.csv: it is no sound CSV"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        external_results(
            table_source(tmp_path / "t.csv"), mapping_of(None, {"arm": ["adapter"], "quality": ["fid"]})
        )
    assert said in " ".join(caught.value.problems)


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder; name the CSV file itself"):
        table_source(tmp_path)
    with pytest.raises(UserError, match="there is no file"):
        table_source(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="it is a spreadsheet, not a CSV file"):
        table_source(tmp_path / "t.xlsx")


def test_written_results_are_read_back(tmp_path: Path) -> None:
    rows = [vars(run) for run in other_runs()]
    found = from_table(write_table(tmp_path / "t.csv", rows))
    write_csv(found, tmp_path / "data")
    again = read_csv(tmp_path / "data")
    assert again.frame.equals(found.frame)
    assert again.meta == found.meta
