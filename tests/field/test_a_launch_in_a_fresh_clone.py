"""A study is launched and reported from the root of a clone: the clone stays clean, the storage is tidy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import STORAGE_ENTRIES
from tests.helpers.small_studies import small_study
from trainables.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
# Called like the preset whose report is shipped.
STUDY = """
name: quickstart
subjects: [cat-1, dog-1]
arms: {base: {method: base}, lora: {method: lora, search_space: {r: {type: categorical, choices: [2, 4]}}}}
training: {checkpointing_steps: 4, train_batch_size: 2}
search: {trials: 1, subjects: [cat-1]}
confirm: {subjects: [dog-1], seeds: [100]}
budget: {max_train_steps: 2}
evaluation:
  {at: [], num_prompts: 2, images_per_prompt: 2, num_inference_steps: 2, num_class_images: 2, anchor_images: 4}
resources: {max_concurrent_runs: 1}
"""


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "core.excludesFile=")
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout


def clone(folder: Path) -> None:
    """What a clone of the present state holds; this checkout may have changes that are not committed."""
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as cloned")


@pytest.mark.slow
def test_it_stays_clean(tmp_path: Path) -> None:
    if (
        shutil.which("git") is None
        or subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True).returncode
    ):
        pytest.skip("not a git checkout, so there is nothing to clone")
    here = tmp_path / "clone"
    here.mkdir()
    clone(here)
    (tmp_path / "study.yaml").write_text(STUDY)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_T", "STUDY_"))
    }

    def study(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "study.cli", *words],
            cwd=here, env={**environment, "PYTHONPATH": str(here)}, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"report: {here}/storage/reports/quickstart/report.html" in study(
        "launch", str(tmp_path / "study.yaml")
    )
    study("generate", "quickstart", "lora", "-p", "{subject}", "-n", "1", "--steps", "2")
    assert (here / "storage" / "reports" / "quickstart" / "report.html").exists()
    assert git(here, "status", "--porcelain") == ""
    entries = {path.name for path in (here / "storage").iterdir()}
    assert entries - STORAGE_ENTRIES == {"quickstart"}
    assert {"cache", "mlflow.db", "mlartifacts", "reports"} <= entries


@pytest.mark.parametrize("name", sorted([*STORAGE_ENTRIES, "Cache", "INPUTS", "MLflow.db-WAL"]))
def test_a_study_cannot_be_called_like_an_entry_of_the_storage(tmp_path: Path, name: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(small_study().to_yaml().replace("name: small", f"name: {name}"))
    with pytest.raises(UserError, match="used by the storage folder itself") as error:
        load_study(file)
    assert len(error.value.problems) == 1


@pytest.mark.parametrize("name", ["CON", "nul", "com1", "Aux.2", "lpt9.photos", "cats.", "cats.."])
def test_names_that_windows_keeps_for_itself(tmp_path: Path, name: str) -> None:
    content = small_study().to_yaml()
    file = tmp_path / "study.yaml"
    for old, new in (("name: small", f"name: {name}"), ("  cosine:", f"  {name}:")):
        file.write_text(content.replace(old, new))
        with pytest.raises(UserError, match="cannot be a name, because names become folders: Windows"):
            load_study(file)


def test_names_that_only_look_like_them() -> None:
    for name in ("console", "cached", "mlflow", "com10", "com", "inputs2", "probe-1", "mlflow.db2"):
        assert small_study(name).name == name


def test_subjects_that_differ_in_case_only(tmp_path: Path) -> None:
    photos = {"images": "photos", "instance_prompt": "a sks cat", "class_prompt": "a cat"}
    content = small_study().model_dump(mode="json", exclude_defaults=True)
    content["subjects"] = [{"name": "cat-1", **photos}, {"name": "Cat-1", **photos}, "dog-1"]
    with pytest.raises(ValueError, match="only in case"):
        StudySpec.model_validate(content)
