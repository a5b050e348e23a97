"""Where results come from, without secrets."""

from __future__ import annotations

import getpass
import json
import socket
import subprocess
from pathlib import Path

import pytest

from study.storage.layout import Storage
from study.util.provenance import git_state, machine, package_versions
from study.util.redaction import without_credentials
from tests.helpers.fake_runs import ARMS, fake_runs, run_document
from trainables.run_config import RunConfig, config_digest


def git(folder: Path, *words: str) -> None:
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def test_the_state_of_a_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "a").write_text("a")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    clean = git_state(tmp_path)
    assert clean is not None
    assert (len(clean.commit), clean.dirty) == (40, False)
    (tmp_path / "a").write_text("b")
    dirty = git_state(tmp_path)
    assert dirty is not None
    assert (dirty.commit, dirty.dirty) == (clean.commit, True)


def test_outside_git_there_is_no_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "nowhere") is None


def test_versions_are_those_installed() -> None:
    versions = package_versions()
    import numpy

    assert versions["numpy"] == numpy.__version__
    assert {"python", "torch", "diffusers", "mlflow"} <= set(versions)


def test_the_machine_is_described_without_names() -> None:
    found = machine()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 1e8
    text = json.dumps(found)
    assert socket.gethostname() not in text
    assert str(Path.home()) not in text
    assert getpass.getuser() not in text.split('"')


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:s3cret@db.host:5432/mlflow", "postgresql://db.host:5432/mlflow"),
        ("https://token@host/path", "https://host/path"),
        ("https://me:p@ss@host/", "https://host/"),
        ("mysql://host/db?user=me&password=s3cret&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("https://host/?api_key=s3cret", "https://host/?api_key=***"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        (
            "request to https://me:s3cret@host/api failed for a@b.c",
            "request to https://host/api failed for a@b.c",
        ),
    ],
)
def test_credentials_are_stripped(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_the_digest_of_a_document_is_that_of_the_run(arm: object, tmp_path: Path) -> None:
    storage = Storage(tmp_path, "digest")
    run = next(run for run in fake_runs() if run.arm is arm)
    config = RunConfig.model_validate(run_document(storage, run))
    document = json.loads(config.model_dump_json())
    assert config_digest(document) == config.digest()
    elsewhere = {**document, "output_dir": "/elsewhere", "cpu_threads": 7}
    assert config_digest(elsewhere) == config.digest()
    assert config_digest({**document, "seed": 99}) != config.digest()
