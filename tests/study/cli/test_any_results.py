"""`study report` of anybody's results: an MLflow experiment, a table, and what cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.util.json_files import write_json_twice
from tests.helpers.command_line import run
from tests.helpers.fake_runs import fake_runs, make_study
from tests.helpers.other_results import OtherExperiment, other_runs, write_table


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("STUDY_STORAGE", str(tmp_path / "storage"))


def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "their results.csv", [vars(one) for one in other_runs()])


TABLE = ("--arm", "adapter", "--quality", "fid", "--lower-is-better")
ALL = (*TABLE, "--cost", "minutes", "--subject", "item", "--seed", "seed")


def test_an_experiment_and_a_table_of_the_same_runs_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = OtherExperiment(tmp_path / "mlflow", "their results")
    for one in other_runs():
        other.log(
            {"fid": one.fid, "minutes": one.minutes},
            {"item": one.item, "seed": one.seed},
            {"adapter": one.adapter},
        )
    code, out, err = run(
        capsys, "report", "their results", "--from-mlflow", "--tracking-uri", other.uri, *ALL
    )
    assert code == 0, err
    first = tmp_path / "storage" / "reports" / "their-results"
    assert out == f"report: {first}/report.html\n"
    code, _, err = run(
        capsys, "report", "--from-csv", str(table(tmp_path)), *ALL, "--reports", str(tmp_path / "again")
    )
    assert code == 0, err
    for path in (first / "tables").glob("*.csv"):
        if path.stem not in ("mapping", "provenance"):
            assert (
                path.read_text() == (tmp_path / "again" / "their-results" / "tables" / path.name).read_text()
            )


def test_the_report_is_made_again_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "report", "Theirs!", "--from-csv", str(table(tmp_path)), *ALL)
    assert code == 0, err
    made = tmp_path / "storage" / "reports" / "Theirs"
    code, _, err = run(
        capsys, "report", "Theirs", "--from-csv", str(made), "--reports", str(tmp_path / "again")
    )
    assert code == 0, err
    assert (made / "report.html").read_bytes() == (tmp_path / "again" / "Theirs" / "report.html").read_bytes()


def test_a_mapping_says_what_columns_mean_and_options_win(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "name: theirs\narm: item\nquality: fid\nlower_is_better: true\nmetrics: {fid: {title: FID}}\n"
    )
    code, _, err = run(
        capsys, "report", "--from-csv", str(table(tmp_path)), "--mapping", str(path), "--arm", "adapter"
    )
    assert code == 0, err
    text = (tmp_path / "storage" / "reports" / "theirs" / "tables" / "arms.tex").read_text()
    assert "LoKr" in text
    assert "FID" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("x", "--arm", "a"), ["say where they are: --from-mlflow EXPERIMENT, or --from-csv FILE"]),
        (("x", "--from-mlflow", "--from-csv", "t.csv", *TABLE), ["name two sources of results"]),
        (("--from-mlflow", *TABLE), ["Missing argument 'NAME'"]),
        ((), ["Missing argument 'NAME'"]),
        (
            ("--from-csv", "t.csv"),
            ["Missing argument 'NAME'", "say what a table's columns mean (--arm, --quality)"],
        ),
        (("x", "y"), ["one NAME at a time, got x, y"]),
        (("--from-csv", "none.csv", *TABLE), ["there is no file none.csv"]),
        (("--from-csv", "none.csv", "--cost", "a"), ["--arm, or `arm:`", "--quality, or `quality:`"]),
        (("--from-csv", "t.csv", "--mapping", "none.yaml"), ["there is no file none.yaml"]),
        (("x", "--from-mlflow", *TABLE), ["there is no MLflow at sqlite"]),
        (("x", "--tracking-uri", "mlruns", *TABLE), ["MLflow keeps no runs in plain folders any more"]),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: list[str]
) -> None:
    code, out, err = run(capsys, "report", *words)
    assert (code, out) == (2, "")
    for part in said:
        assert part in " ".join(err.split())
    assert not (tmp_path / "storage").exists()


def test_a_table_without_a_meaning_is_told_how_to_get_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "report", "theirs", "--from-csv", str(table(tmp_path)))
    assert code == 2
    assert "of any other table say what its columns mean, by --arm and --quality" in " ".join(err.split())


def test_the_report_of_a_study_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(tmp_path / "storage", "fake", list(fake_runs())[:1])
    (tmp_path / "storage" / "fake" / "study.json").write_text("{}")
    code, _, err = run(capsys, "report", "fake", "--from-csv", str(table(tmp_path)), *ALL)
    assert code == 2
    assert (
        "would take the place of that of the study 'fake' of this storage; name another folder"
        in " ".join(err.split())
    )
    elsewhere = str(tmp_path / "elsewhere")
    code, _, err = run(
        capsys, "report", "fake", "--from-csv", str(table(tmp_path)), *ALL, "--reports", elsewhere
    )
    assert code == 0, err


def test_studies_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        storage = make_study(tmp_path / "storage", name, [r for r in fake_runs() if r.key.phase == "confirm"])
        write_json_twice(storage.folder / "study.json", {"digest": "d", "spec": {"name": name, "arms": {}}})
    code, out, err = run(capsys, "report", "--compare", "one", "two")
    assert code == 0, err
    made = tmp_path / "storage" / "reports" / "one-vs-two"
    assert out == f"report: {made}/report.html\n"
    text = (made / "tables" / "arms.csv").read_text()
    assert "one/lora-cosine" in text
    assert "two/lora-cosine" in text
    for words, said in (
        (("one",), "two different studies or more, got one"),
        (("one", "one"), "two different studies or more, got one, one"),
        (("one", "three", "four"), "no study called 'four'"),
        (("one", "two", "--from-mlflow"), "reads studies of the storage, and no other source"),
        (("one", "two", "--arm", "x"), "reads studies of the storage, and no other source"),
        ((), "Missing argument 'NAME'"),
    ):
        code, _, err = run(capsys, "report", "--compare", *words)
        assert code == 2
        assert said in " ".join(err.split())
