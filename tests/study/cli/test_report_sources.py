"""`study report`: the run folders are enough; MLflow is read when it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study.util.json_files import write_json_twice
from tests.helpers.command_line import run
from tests.helpers.fake_runs import fake_runs, make_study


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "80")


def test_sources_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [one for one in fake_runs() if one.key.phase == "confirm" and one.key.subject == "dog-1"]
    storage = make_study(tmp_path, "fake", kept)
    write_json_twice(storage.folder / "study.json", {"digest": "d", "spec": {"name": "fake", "arms": {}}})
    report = ("report", "fake", "--storage", str(tmp_path))

    code, out, err = run(capsys, *report)
    assert (code, out) == (0, f"report: {tmp_path}/reports/fake/report.html\n"), err
    assert not (storage.root / "mlflow.db").exists(), "MLflow is not needed"
    headline = "dreambooth-constant has the highest mean (quality "
    assert headline in " ".join(err.split()), "the verdict goes before the path, to who reads it"
    assert max(map(len, err.splitlines())) <= 80
    again = ("--from-csv", str(tmp_path / "reports" / "fake"), "--reports", str(tmp_path / "again"))
    code, out, err = run(capsys, *report, *again)
    assert (code, out) == (0, f"report: {tmp_path}/again/fake/report.html\n")
    assert headline in " ".join(err.split())

    for options in (["--from-mlflow"], ["--tracking-uri", f"sqlite:///{tmp_path}/other.db"]):
        code, _, err = run(capsys, *report, *options)
        assert code == 2
        assert "knows no study 'fake'; write it there with: study sync fake" in " ".join(err.split())

    code, _, err = run(capsys, *report, "--from-mlflow", "--from-csv", str(tmp_path))
    assert code == 2
    assert "leave one of them out" in err


def test_the_arm_to_take_within_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = make_study(tmp_path, "fake", fake_runs())
    write_json_twice(storage.folder / "study.json", {"digest": "d", "spec": {"name": "fake", "arms": {}}})
    best = ("best", "fake", "--storage", str(tmp_path), "--budget", "peak_memory<1.2GB")
    code, out, err = run(capsys, *best, "--format", "json")
    assert code == 0, err
    (row,) = json.loads(out)
    assert row["arm"].startswith("lora-")
    assert row["peak_memory_bytes"] == 1_102_949_120
    code, out, err = run(capsys, *best)
    assert out.split()[:2] == ["peak", "memory"]
    assert "(most)" in out
    assert "1.10 GB" in out
    *sentences, remedy = err.splitlines()
    assert max(map(len, sentences)) <= 80
    assert remedy.startswith("to train it: study best fake --budget 'peak_memory<1.2GB' --out lora-")
    assert remedy.endswith(f".yaml --storage {tmp_path} && python -m trainables {row['arm']}.yaml")
    searched = {name.removeprefix("param.") for name in row if name.startswith("param.")}
    assert "learning_rate" in searched
    told = " ".join(sentences)
    assert f"configuration: learning_rate {row['param.learning_rate']:.4g}" in told
    assert f"(that of {row['run_key']})" in told
    code, out, err = run(capsys, *best[:-1], "peak_memory<1.2MB")
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0] == "error: no arm of study fake keeps all limits; loosen one of them"
    assert "error: dreambooth-constant: peak_memory<1.2MB, and a run has 1301 MB" in lines


def test_a_launch_says_the_verdict_of_its_report(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from study import api

    monkeypatch.setattr(
        api, "launch_study", lambda *_, **__: api.Launched(0, ["report: here"], [], "one is best.")
    )
    assert run(capsys, "launch", "quickstart") == (0, "report: here\n", "one is best.\n")
