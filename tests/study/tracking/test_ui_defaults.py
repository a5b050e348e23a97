"""``study ui`` starts the real MLflow UI on loopback."""

from __future__ import annotations

import http.server
import json
import signal
import socket
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.support.ports import free_port, free_ports
from study.monitor import ui_server as ui
from study.storage.layout import Storage
from study.tracking.mlflow_store import MlflowStore
from study.tracking.sync import sync
from tests.helpers.fake_runs import fake_runs, write_run
from tests.helpers.mlflow_stores import prepare_store
from trainables.errors import UserError


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    storage = Storage(tmp_path, "shown")
    write_run(storage, next(run for run in fake_runs() if run.key.arm == "lora-cosine"))
    prepare_store(storage)
    sync(storage)
    return storage


def store_of(storage: Storage) -> MlflowStore:
    return MlflowStore(storage.tracking_uri, storage.study, storage.artifact_root)


def test_the_answer_of_another_program_on_the_port_is_not_taken_for_the_ui(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{other.server_port}"
        command = ui.UiCommand(
            (sys.executable, "-c", "import time; time.sleep(2)"), {}, base, base, probe="/"
        )
        process = ui.start(command, tmp_path / "ui.log")
        try:
            assert not ui.wait_until_up(command, process)
        finally:
            ui.stop(process)
            other.shutdown()


def test_the_ui_shows_the_study_on_loopback_and_stops(storage: Storage, tmp_path: Path) -> None:
    command = ui.ui_command(storage, port=free_port())
    assert command.url.startswith("http://127.0.0.1:")
    assert storage.tracking_uri not in command.arguments
    process = ui.start(command, tmp_path / "ui.log")
    try:
        assert ui.wait_until_up(command, process), (tmp_path / "ui.log").read_text()
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        sockets = [found for member in tree for found in member.net_connections("inet")]
        listening = {found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
        with urllib.request.urlopen(command.base, timeout=30) as page:
            assert b"<html" in page.read()
        experiment = command.url.split("/experiments/")[1].split("/")[0]
        question = json.dumps({"experiment_ids": [experiment], "filter": "tags.kind = 'run'"}).encode()
        request = urllib.request.Request(
            f"{command.base}/api/2.0/mlflow/runs/search", question, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            (run,) = json.load(answer)["runs"]
        # The image grid of the UI loads its images so.
        run_id = run["info"]["run_id"]
        images = [item.path for item in store_of(storage).client.list_artifacts(run_id, "images")]
        name = next(path for path in images if path.endswith(".png"))
        query = urllib.parse.urlencode({"path": name, "run_uuid": run_id})
        with urllib.request.urlopen(f"{command.base}/get-artifact?{query}", timeout=30) as image:
            assert image.read()[:4] == b"\x89PNG"
    finally:
        ui.stop(process)
    assert process.poll() is not None
    assert ui.is_free(int(command.base.rsplit(":", 1)[1])), "a worker of the UI is left"


LISTENING = """
import http.server, sys, time
time.sleep(0.5)
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler)
server.handle_request()
time.sleep(2)  # listens on, until it has been looked at
"""


@pytest.fixture
def signals_kept() -> Iterator[None]:
    """`serve_command` takes SIGTERM for a process of its own; this one has others to come."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def listening(port: int) -> ui.UiCommand:
    """A server that answers one request and ends soon."""
    base = f"http://127.0.0.1:{port}"
    return ui.UiCommand((sys.executable, "-c", LISTENING, str(port)), {}, base, base, "a server", probe="/")


def test_a_port_that_is_taken_while_the_server_starts_is_left_for_another(
    signals_kept: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two users of a machine open a UI in the same second: both find the same port free."""
    ports = free_ports(2)
    asked = []
    with socket.socket() as taken:

        def command_now() -> ui.UiCommand:
            port = ports[len(asked)]
            asked.append(port)
            if len(asked) == 1:
                taken.bind(("127.0.0.1", port))
                taken.listen()
            return listening(port)

        assert (
            ui.serve_command(command_now, tmp_path / "ui.log", lambda command: [("page", command.base)]) == 0
        )
    assert asked == ports
    printed = capsys.readouterr().out
    assert f"http://127.0.0.1:{ports[1]}" in printed
    assert f"http://127.0.0.1:{ports[0]}" not in printed


def test_a_server_that_fails_for_another_reason_is_not_tried_again(
    signals_kept: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"http://127.0.0.1:{free_port()}"
    broken = ui.UiCommand(
        (sys.executable, "-c", "raise SystemExit('no such table')"), {}, base, base, "a server"
    )
    commands = [broken]
    assert ui.serve_command(commands.pop, tmp_path / "ui.log") == 1
    assert "a server did not start:\nno such table" in capsys.readouterr().err


def test_a_port_in_use_and_an_unknown_study_are_refused(storage: Storage) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} .* in use"):
            ui.ui_command(storage, port=port)
    with pytest.raises(UserError, match="study sync other"):
        ui.ui_command(Storage(storage.root, "other"))


def test_a_server_is_only_named(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "check_tracking", lambda uri: None)
    monkeypatch.setattr(ui, "MlflowStore", lambda uri, study, root: store_of(storage))
    assert ui.serve(storage, tracking_uri="https://me:s3cret@mlflow.host/") == 0
    printed = capsys.readouterr().out
    assert "https://mlflow.host/#/experiments/" in printed
    assert "s3cret" not in printed
