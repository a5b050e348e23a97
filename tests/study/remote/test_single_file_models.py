"""A base model in one file: found from the study file's folder, looked for on nodes, its configurations shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from study.driver.node_preparation import inputs_of
from study.preflight.estimates import model_bytes
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.worker.workspace import WorkspaceError, check_inputs
from trainables.run_config import RunConfig


@pytest.fixture
def spec(tmp_path: Path) -> StudySpec:
    (tmp_path / "configs").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    content = {
        "name": "one-file",
        "model": {"path": "model.safetensors", "config": "./configs"},
        "subjects": ["cat-1", "dog-1"],
        "arms": {"lora": {"method": "lora"}},
        "confirm": {"seeds": [1]},
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    return load_study(tmp_path / "study.yaml")


def test_file_and_configurations_are_named_from_the_study_file_on(spec: StudySpec, tmp_path: Path) -> None:
    assert spec.model.path == str(tmp_path / "model.safetensors")
    assert spec.model.config == str(tmp_path / "configs")
    assert inputs_of(spec) == [str(tmp_path / "configs")]  # a file is not shipped
    assert model_bytes(spec) == 100


def test_a_node_is_asked_for_both(spec: StudySpec, tmp_path: Path) -> None:
    config = RunConfig.model_validate(
        {
            "method": "base",
            "model": spec.model.model_dump(),
            "subject": {"name": "cat-1"},
            "output_dir": str(tmp_path / "run"),
            "cache_dir": str(tmp_path / "cache"),
        }
    )
    check_inputs(config)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WorkspaceError, match=r"model\.safetensors.*folders, no single files"):
        check_inputs(config)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "configs").rmdir()
    with pytest.raises(WorkspaceError, match=r"lacks the folder .*configs"):
        check_inputs(config)


def test_where_the_configurations_lie_is_no_part_of_a_runs_identity(spec: StudySpec, tmp_path: Path) -> None:
    common = {
        "method": "base",
        "subject": {"name": "cat-1"},
        "output_dir": str(tmp_path / "run"),
        "cache_dir": str(tmp_path / "cache"),
        "contents": {"model": "0" * 64},
    }
    digests = {
        RunConfig.model_validate({**common, "model": {"path": path, "config": config}}).digest()
        for path, config in (("/a/m.safetensors", "/a/configs"), ("/b/m.safetensors", "/b/configs"))
    }
    assert len(digests) == 1
