"""Where MLflow lies: who decides it, and addresses that cannot be used."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from study.storage.layout import Storage, sqlite_path
from study.tracking.mlflow_store import resolve_tracking_uri
from study.tracking.reachable import check_tracking, tracking_problems
from trainables.errors import UserError


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_the_order_of_tracking_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path, "uris")
    assert resolve_tracking_uri(storage) == f"sqlite:////{str(tmp_path)[1:]}/mlflow.db"
    storage.folder.mkdir()
    (storage.folder / "study.json").write_text(json.dumps({"spec": {"tracking": {"uri": "http://file:1"}}}))
    assert resolve_tracking_uri(storage) == "http://file:1"
    assert resolve_tracking_uri(storage, None, "http://given:1") == "http://given:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment:1")
    assert resolve_tracking_uri(storage) == "http://environment:1"
    assert resolve_tracking_uri(storage, "http://explicit:1") == "http://explicit:1"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file:///tmp/mlruns", "plain folders"),
        ("./mlruns", "plain folders"),
        ("mlruns", "plain folders"),
        ("sqlite:///mlflow.db", "sqlite:////...mlflow.db"),
        ("sqlite://", "relative"),
        ("http://", "host"),
        ("ftp://me:s3cret@host/x", "not supported"),
    ],
)
def test_addresses_that_cannot_be_used_are_refused(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_tracking_uri(Storage(tmp_path, "uris"), uri)
    assert "s3cret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 ") as caught:
        check_tracking("http://me:s3cret@127.0.0.1:9")
    assert "s3cret" not in str(caught.value)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("kind", ["no database", "a folder", "read-only", "in a read-only folder"])
def test_a_file_that_cannot_be_the_store_is_refused_alike_before_a_launch_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "mlflow.db"
    if kind == "no database":
        path.write_text("a text")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "read-only":
        path.touch()
    if "read-only" in kind:
        refused = path if kind == "read-only" else tmp_path
        monkeypatch.setattr("study.tracking.reachable.os.access", lambda asked, _: asked != refused)
    (before,) = tracking_problems(f"sqlite:///{path}")
    with pytest.raises(UserError) as later:
        check_tracking(f"sqlite:///{path}")
    reason = before.removeprefix("--tracking-uri: ").removesuffix("; choose another")
    assert str(path) in reason
    assert str(later.value) == f"{reason}; mend that, or give another --tracking-uri"


def test_the_options_of_a_sqlite_url_are_no_part_of_its_path() -> None:
    assert sqlite_path("sqlite:////a/mlflow.db?timeout=5") == Path("/a/mlflow.db")
    assert sqlite_path("sqlite+pysqlite:////a/mlflow.db") == Path("/a/mlflow.db")
    assert sqlite_path("postgresql://host/a") is None
