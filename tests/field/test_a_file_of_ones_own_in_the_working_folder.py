"""A user's own ``study.py``, ``peft.py`` or ``random.py`` lies where a command is started: nothing imports it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.util.import_paths import forget_working_folder, import_folders, import_settings

ROOT = Path(__file__).resolve().parents[2]
OWN = ("peft", "torch", "ray", "random", "types", "yaml", "pydantic", "mlflow")
LAUNCH = """
import sys
sys.path[:] = [sys.argv[1], *sys.path[1:]]
from pathlib import Path
from study.driver.launch import Workers, launch
from tests.helpers.small_studies import RESIDENT, RUNNER, small_study, storage_of
spec = small_study(arms={"base": {"method": "base"}}, confirm={"seeds": [100]})
outcome = launch(spec, storage_of(Path("storage").absolute(), spec), workers=Workers(RUNNER, RESIDENT))
print("COMPLETE", outcome.complete, outcome.failed, outcome.notes)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("study", *OWN):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the own file ' + __file__)\n")
    (tmp_path / "trainables").mkdir()
    (tmp_path / "trainables" / "__init__.py").write_text("raise SystemExit('the own folder')\n")
    return tmp_path


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")
    }
    return subprocess.run(
        [sys.executable, *words],
        env=environment | more,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_workers_import_what_is_installed(folder: Path) -> None:
    done = run(folder, "-c", LAUNCH, str(ROOT))
    assert "COMPLETE 1 [] []" in done.stdout, done.stdout + done.stderr


def test_a_module_that_is_run_forgets_the_folder(folder: Path) -> None:
    (folder / "study.py").unlink()
    (folder / "trainables" / "__init__.py").unlink()
    (folder / "trainables").rmdir()
    file = folder / "run.yaml"
    file.write_text("method: lora\nsubject: cat-1\ntraining: {learning_rate: -1}\n")
    for words in (["study.cli", "validate", "quickstart"], ["trainables", str(file)]):
        done = run(folder, "-m", *words, PYTHONPATH=str(ROOT))
        assert "own file" not in done.stdout + done.stderr
        assert ("valid" in done.stdout) or ("learning_rate" in done.stderr)


def test_python_that_is_started_finds_the_project_and_not_the_folder(folder: Path) -> None:
    code = f"import sys; sys.path[:] = [{str(ROOT)!r}, *sys.path[1:]]\nfrom trainables.util.import_paths import *\n"
    code += "import subprocess; print(import_settings()['PYTHONPATH']); sys.stdout.flush()\n"
    code += "subprocess.run([sys.executable, '-m', 'trainables', '--help'], env={**os.environ, **import_settings()})"
    done = run(folder, "-c", "import os\n" + code)
    assert done.stdout.splitlines()[0] == str(ROOT)
    assert "usage: python -m trainables" in done.stdout


def test_an_empty_entry_of_pythonpath_is_not_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"/somewhere{os.pathsep}")
    monkeypatch.setattr(sys, "path", ["", "/somewhere", str(ROOT)])
    assert import_folders() == ["/somewhere", str(ROOT)]
    forget_working_folder()
    assert sys.path == ["/somewhere", str(ROOT)]


def test_a_folder_that_was_named_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    monkeypatch.setattr(sys, "path", [str(tmp_path), str(ROOT)])
    forget_working_folder()
    assert sys.path == [str(tmp_path), str(ROOT)]
    assert import_settings()["PYTHONPATH"].split(os.pathsep) == [str(tmp_path), str(ROOT)]
