"""MLflow at Databricks, in a folder, of a plugin, with a slip of the pen: called what it is, and nothing is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.storage.layout import Storage
from study.tracking.mlflow_store import resolve_tracking_uri, tracking_command
from study.tracking.reachable import tracking_problems
from trainables.errors import UserError

SAID = {
    "databricks": "Databricks is not supported",
    "databricks://profile": "Databricks is not supported",
    "databricks-uc": "Databricks is not supported",
    "uc:http://127.0.0.1:8080": "Databricks is not supported",
    "my-plugin://host/x": "stores of the kind 'my-plugin' are not supported",
    "s3://bucket/mlruns": "stores of the kind 's3' are not supported",
    "file:///tmp/mlruns": "no runs in plain folders",
    "file:mlruns": "no runs in plain folders",
    "mlruns": "no runs in plain folders",
    "C:\\mlruns": "no runs in plain folders",
    "http:/127.0.0.1:5000": "a server needs a host",
    "http://127.0.0.1:port": "is no address",
    "http://127.0.0.1:99999": "is no address",
    "127.0.0.1:5000": "write http://127.0.0.1:5000",
    "localhost:5000": "write http://localhost:5000",
    " http://127.0.0.1:5000": "begins or ends with a space",
    "postgres://me:s3cret@host/db": "write postgresql://",
    "HTTP://127.0.0.1:5000": "in capitals",
    "sqlite:///mlflow.db": "write sqlite:////...mlflow.db",
}


@pytest.mark.parametrize("uri", SAID)
@pytest.mark.parametrize("origin", ["--tracking-uri", "MLFLOW_TRACKING_URI", "tracking.uri"])
def test_it_is_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, origin: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if origin == "MLFLOW_TRACKING_URI":
        monkeypatch.setenv(origin, uri)
    given = (uri if origin == "--tracking-uri" else None, uri if origin == "tracking.uri" else None)
    (message,) = tracking_problems(*given)
    assert message.startswith(f"{origin}: ")
    assert SAID[uri] in message
    assert "s3cret" not in message
    with pytest.raises(UserError) as error:
        resolve_tracking_uri(Storage(tmp_path, "s"), *given)
    assert error.value.problems == (message,)
    assert list(tmp_path.iterdir()) == []


def test_commands_that_we_print_name_the_storage_and_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "STUDY_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    usual = Storage(tmp_path / "storage", "s")
    assert usual.command("status") == "study status s"
    assert tracking_command("sync", usual, usual.tracking_uri) == "study sync s"
    assert tracking_command("sync", usual, "http://h:1") == "study sync s --tracking-uri http://h:1"
    assert Storage(tmp_path / "a b", "s").command("logs", "RUN") == "study logs s RUN --storage 'a b'"
    assert Storage(Path("/mnt/x"), "s").command("stop") == "study stop s --storage /mnt/x"
    assert Storage(tmp_path, "s", "s3://b/p").command("ui") == "study ui s --storage s3://b/p"
    monkeypatch.setenv("STUDY_STORAGE", "/elsewhere")
    assert usual.command("status") == "study status s --storage storage"
