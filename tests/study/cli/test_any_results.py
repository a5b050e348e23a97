"""`study report` of anybody's results: an MLflow experiment, a table, and what cannot be meant."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from study.results.any_table import table_source
from study.results.csv_files import write_csv
from study.results.external import external_results
from study.results.mapping import mapping_of
from study.results.side_by_side import Beside, side_by_side
from study.util.json_files import write_json_twice
from tests.helpers.command_line import run
from tests.helpers.fake_runs import fake_runs, make_study
from tests.helpers.other_results import OtherExperiment, other_runs, write_table
from tests.helpers.synthetic_results import ARMS, Study, make_results


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
        (
            ("one", "two", "--from-mlflow"),
            "takes studies of the storage and folders of reports, and no other",
        ),
        (("one", "two", "--arm", "x"), "what they name is made a report of first, whose folder is named"),
        ((), "Missing argument 'NAME'"),
    ):
        code, _, err = run(capsys, "report", "--compare", *words)
        assert code == 2
        assert said in " ".join(err.split())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folders of reports: `own` and `other` of this program, `theirs` of somebody else, `mixed` of two."""
    root = tmp_path_factory.mktemp("reports")
    frames = {}
    for name, draw in (("own", 0), ("other", 1)):
        results = make_results(Study(arms=ARMS[:3], trials=1, modern=True), draw)
        frames[name] = replace(results, meta={"study": name, "spec": {"name": name}})
    rows = [
        {"arm": arm, "item": item, "quality": 0.2 + 0.1 * k + 0.01 * len(item)}
        for k, arm in enumerate(("x", "y"))
        for item in ("cup", "van", "clock")
    ]
    meaning = mapping_of(
        None, {"arm": ["arm"], "quality": ["quality"], "subject": ["item"], "name": "theirs"}
    )
    frames["theirs"] = external_results(table_source(write_table(root / "t.csv", rows)), meaning)
    frames["mixed"] = side_by_side([Beside(name, frames[name]) for name in ("own", "other")])
    for name, results in frames.items():
        write_csv(results, root / name / "data")
    return root


def test_folders_of_reports_stand_side_by_side_without_a_storage(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folders / name) for name in ("own", "other/data")]
    code, out, err = run(capsys, "report", "--compare", *words, "--reports", str(tmp_path / "made"))
    assert code == 0, err
    made = tmp_path / "made" / "own-vs-other"
    assert out == f"report: {made}/report.html\n"
    arms = (made / "tables" / "arms.csv").read_text()
    assert "own/lora-cosine" in arms
    assert "other/lora-cosine" in arms
    assert not (tmp_path / "storage").exists()


def test_a_study_of_the_storage_beside_a_report_of_others(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = make_study(tmp_path / "storage", "mine", [r for r in fake_runs() if r.key.phase == "confirm"])
    write_json_twice(storage.folder / "study.json", {"digest": "d", "spec": {"name": "mine", "arms": {}}})
    code, _, err = run(capsys, "report", "--compare", "mine", str(folders / "theirs"))
    assert code == 0, err
    text = (tmp_path / "storage" / "reports" / "mine-vs-theirs" / "report.md").read_text()
    assert "theirs/y" in text
    assert "mine/lora-cosine" in text
    assert "need not be on one scale" in text


def test_reports_of_one_name_are_told_apart_by_their_paths(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders / "own", tmp_path / "again")
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "report", "--compare", str(folders / "own"), "again", "--reports", "made")
    assert code == 0, err
    assert out.endswith("-own-vs-again/report.html\n")
    assert "again/lora-cosine" in next(tmp_path.glob("made/*/tables/arms.csv")).read_text()


def test_what_is_no_report_is_told_with_a_remedy(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders / "own", tmp_path / "reports" / "own")
    shutil.copytree(folders / "theirs", tmp_path / "storage" / "reports" / "theirs")
    shutil.copytree(folders / "own", tmp_path / "bare", ignore=shutil.ignore_patterns("meta.json"))
    (tmp_path / "empty").mkdir()
    own = str(folders / "own")
    for words, said in (
        (("own", "theirs"), "no study called 'own' in"),
        (("own", own), "whose folder can be given instead: reports/own"),
        (("theirs", own), f"whose folder can be given instead: {tmp_path}/storage/reports/theirs"),
        (("none", own), "the folder of a report can be given, too"),
        (("no/where", own), "there is no folder no/where"),
        (("./empty", own), "empty holds no runs.csv"),
        (("./bare", own), "bare/data has no meta.json that says what was compared"),
        ((str(folders / "mixed"), own), "is a report of several already (own, other); name these themselves"),
        ((own, f"{own}/data"), "are one report"),
    ):
        code, out, err = run(capsys, "report", "--compare", *words)
        assert (code, out) == (2, "")
        assert said in " ".join(err.split()), (words, err)
    assert sorted(path.name for path in (tmp_path / "storage" / "reports").iterdir()) == ["theirs"]
