"""`study report`: the run folders are enough; MLflow is read when it is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.util.json_files import write_json_twice
from tests.helpers.command_line import run
from tests.helpers.fake_runs import fake_runs, make_study


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_sources_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [one for one in fake_runs() if one.key.phase == "confirm" and one.key.subject == "dog-1"]
    storage = make_study(tmp_path, "fake", kept)
    write_json_twice(storage.folder / "study.json", {"digest": "d", "spec": {"name": "fake", "arms": {}}})
    report = ("report", "fake", "--storage", str(tmp_path))

    code, out, err = run(capsys, *report)
    assert (code, out) == (0, f"report: {tmp_path}/reports/fake/report.html\n"), err
    assert not (storage.root / "mlflow.db").exists(), "MLflow is not needed"

    for options in (["--from-mlflow"], ["--tracking-uri", f"sqlite:///{tmp_path}/other.db"]):
        code, _, err = run(capsys, *report, *options)
        assert code == 2
        assert "knows no study 'fake'; write it there with: study sync fake" in " ".join(err.split())

    code, _, err = run(capsys, *report, "--from-mlflow", "--from-csv", str(tmp_path))
    assert code == 2
    assert "leave one of them out" in err
