"""The command line: its help, its formats, and that it answers without loading what it does not need."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from study.cli.main import main

COMMANDS = {
    "validate", "plan", "launch", "submit", "status", "logs", "stop", "trials", "best", "report", "ui", "sync",
    "generate", "export", "evaluate", "doctor", "ls",
}  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Runs the command line in this process; returns exit code, standard output and standard error."""
    with pytest.raises(SystemExit) as exit_:
        main(list(arguments))
    printed = capsys.readouterr()
    code = exit_.value.code
    return int(code or 0), printed.out, printed.err


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Usage" in out


@pytest.mark.parametrize("arguments", [["--help"], ["validate", "quickstart"], ["ls", "spaces"]])
def test_light_commands_load_no_heavy_library(arguments: list[str]) -> None:
    heavy = {"torch", "ray", "mlflow", "optuna", "pandas", "matplotlib", "diffusers", "transformers"}
    code = (
        "import sys\nfrom study.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as error:\n    assert not error.code, error.code\n"
        f"print('LOADED', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("LOADED []")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", out)


@pytest.mark.parametrize("what", ["methods", "spaces", "presets", "metrics", "subjects"])
def test_listings_say_the_same_in_json_and_csv(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ls", what, "--format", "json")
    assert code == 0
    records = json.loads(out)
    assert records
    _, out, _ = run(capsys, "ls", what, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row[next(iter(row))] for row in rows] == [str(record[next(iter(record))]) for record in records]


def test_an_unknown_listing_names_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "ls", "colours")
    assert code == 2
    assert "methods" in err
    assert "colours" in err


def test_a_misspelt_command_is_a_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "lunch")
    assert code == 2
    assert "Traceback" not in err


def test_doctor_reports_every_topic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "doctor", "--storage", str(tmp_path), "--format", "json")
    findings = {row["topic"]: row for row in json.loads(out)}
    assert {"python", "torch", "ray", "storage", "loopback"} <= set(findings)
    assert code == (1 if any(row["ok"] is False for row in findings.values()) else 0)


def test_doctor_shows_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@example.org")
    _, out, _ = run(capsys, "doctor", "--storage", str(tmp_path), "--format", "csv")
    assert "example.org" in out
    assert "secret" not in out


def test_presets_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "validate", "quickstart")
    assert code == 0, err
    assert "7 arms" in out


def test_presets_are_listed_in_a_terminal_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, "ls", "presets")
    *lines, place = out.splitlines()
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert "Six kinds of adapters on the embedded model, each with" in out  # sentences are broken at words
    folder = place.removeprefix("files: ").removesuffix("/NAME.yaml")
    assert (Path(folder) / "adapters.yaml").is_file()
    listed = json.loads(run(capsys, "ls", "presets", "--format", "json")[1])
    assert all(Path(row["file"]).is_file() for row in listed)


def test_a_storage_without_studies_is_said_to_have_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "ls", "--storage", str(tmp_path))
    assert (code, out.replace("\n", "")) == (0, f"no studies in {tmp_path}")
    assert run(capsys, "ls", "--storage", str(tmp_path), "--format", "json")[1] == "[]\n"
