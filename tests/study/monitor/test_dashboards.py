"""`study ui`: optuna-dashboard only shows, Ray's dashboard is on loopback and asks for the token."""

from __future__ import annotations

import ipaddress
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.support.ports import free_port
from study.cluster.ray_cluster import cluster
from study.dispatch.run_queue import RunQueue
from study.ledger.ledger import Ledger
from study.monitor import ui_server as ui
from study.monitor.dashboards import arm_pages, name_ray_dashboard, optuna_command, reading_only
from study.storage.layout import Storage
from tests.helpers.begun_runs import begun_study, driven
from tests.helpers.small_studies import small_study, storage_of
from trainables.errors import UserError


def answer(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(url, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as found:
            return found.status, found.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def asked(fast_path: Path) -> Storage:
    """A study whose ledger has trials."""
    spec = small_study()
    storage = storage_of(fast_path, spec)
    queue = RunQueue(spec, storage, Ledger(storage.ledger_url, spec.name))
    assert queue.next() is not None
    assert queue.next() is not None
    return storage


def test_optuna_dashboard_shows_the_ledger_and_changes_nothing(asked: Storage, tmp_path: Path) -> None:
    command = optuna_command(asked, asked.ledger_url, port=free_port())
    assert asked.ledger_url not in command.arguments  # it may hold a password
    process = ui.start(command, tmp_path / "ui.log")
    try:
        assert ui.wait_until_up(command, process), (tmp_path / "ui.log").read_text()
        status, content = answer(f"{command.base}/api/studies")
        assert status == 200
        shown = {study["study_name"]: study for study in json.loads(content)["study_summaries"]}
        assert {"small/cosine", "small/constant"} <= set(shown)
        page = dict(arm_pages(asked.ledger_url, "small", command.base))["small/cosine"]
        number = page.rsplit("/", 1)[1]
        assert answer(page)[0] == 200
        status, content = answer(f"{command.base}/api/studies/{number}?after=0")
        assert json.loads(content)["objective_names"] == ["quality"]
        assert answer(f"{command.base}/api/studies/{number}", "DELETE")[0] == 403
        assert answer(f"{command.base}/api/studies", "POST")[0] == 403
        assert answer(f"{command.base}/api/studies", Host="elsewhere.example")[0] == 403
        sockets = psutil.Process(process.pid).net_connections("inet")
        listening = {found.laddr.ip for found in sockets if found.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}
    finally:
        ui.stop(process)
    assert "small/cosine" in [name for name, _ in arm_pages(asked.ledger_url, "small", "")]


def test_only_reading_passes() -> None:
    def application(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return [b"shown"]

    guarded = reading_only(application, frozenset({"127.0.0.1:5100"}))
    said: list[str] = []
    for method, host in (
        ("GET", "127.0.0.1:5100"),
        ("DELETE", "127.0.0.1:5100"),
        ("GET", "x"),
        ("GET", None),
    ):
        environment = {"REQUEST_METHOD": method} | ({"HTTP_HOST": host} if host else {})
        list(guarded(environment, lambda status, headers: said.append(status)))
    assert said == ["200 OK", "403 Forbidden", "403 Forbidden", "403 Forbidden"]


def test_a_study_without_a_ledger_is_refused(tmp_path: Path) -> None:
    storage = Storage(tmp_path, "small")
    with pytest.raises(UserError, match="no ledger yet"):
        optuna_command(storage, storage.ledger_url)


def test_the_ray_dashboard_is_named_or_the_remedy(
    fast_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, storage = begun_study(fast_path)
    with pytest.raises(UserError, match="no driver runs"):
        name_ray_dashboard(storage)
    with driven(spec, storage):
        with pytest.raises(UserError, match="--ray-dashboard"):
            name_ray_dashboard(storage)
        path = storage.folder / "driver.json"
        said = json.loads(path.read_text())
        path.write_text(json.dumps(said | {"dashboard": "http://127.0.0.1:8299", "token_file": "/x/token"}))
        name_ray_dashboard(storage)
    printed = capsys.readouterr()
    assert "http://127.0.0.1:8299" in printed.out
    assert "/x/token" in printed.err


def test_rays_dashboard_is_on_loopback_and_asks_for_the_token() -> None:
    with cluster(cpus=1, dashboard=True) as here:
        assert here.dashboard is not None
        assert here.token_file is not None
        token = Path(here.token_file).read_text()
        assert answer(f"{here.dashboard}/api/jobs/")[0] == 401
        assert answer(f"{here.dashboard}/api/jobs/", Authorization=f"Bearer {token}")[0] == 200
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            found.laddr.ip
            for process in processes
            for found in process.net_connections("inet")
            if found.status == psutil.CONN_LISTEN
        }
    for address in listening:
        found = ipaddress.ip_address(address)
        assert (getattr(found, "ipv4_mapped", None) or found).is_loopback
