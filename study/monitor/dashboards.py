"""``study ui --what optuna``: optuna-dashboard on a study's ledger, on loopback and for looking only.

The dashboard can delete studies and change trials; under a driver that is at work, and in a ledger that is the
truth, neither must happen. So the server that is started here answers requests to read and refuses all others, and,
against pages of other sites that would ask in a user's browser, all that do not name it by its own address.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from study.monitor.stop import nobody_drives
from study.monitor.ui_server import HOST, UiCommand, chosen_port
from study.spec.launched import stored_spec
from study.storage.driver_record import read_driver
from study.storage.layout import OPTUNA_UI_LOG, Storage, sqlite_path
from study.util.printing import say
from trainables.errors import UserError

URL_VARIABLE = "STUDY_UI_LEDGER_URL"
FIRST_PORT = 5100  # MLflow's UI takes one from 5000 on, and takes long to start

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def optuna_command(storage: Storage, ledger_url: str, *, port: int | None = None) -> UiCommand:
    """Returns the command that serves optuna-dashboard for a study.

    Raises:
        UserError: The dashboard is not installed, there is no ledger yet, or `port` is in use.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError("optuna-dashboard is not installed; run: pip install 'diffusion-study[dashboard]'")
    if (file := sqlite_path(ledger_url)) is not None and not file.exists():
        raise UserError(f"study {storage.study!r} has no ledger yet; launch it first")
    base = f"http://{HOST}:{(chosen := chosen_port(port, FIRST_PORT))}"
    return UiCommand(
        (
            sys.executable,
            "-m",
            "study.monitor.dashboards",
            str(chosen),
            str(storage.root),
            storage.study,
            *filter(None, [storage.url]),
        ),
        {URL_VARIABLE: ledger_url},  # not on the command line, which every user of the machine can read
        base,
        f"{base}/dashboard/",
        name="optuna-dashboard",
        probe="/api/meta",
    )


def arm_pages(ledger_url: str, study: str, base: str) -> list[tuple[str, str]]:
    """Returns the page of each of the study's arms, by the arm's name in the dashboard."""
    import optuna

    from study.ledger.database import open_storage

    storage = open_storage(ledger_url)
    names = optuna.get_all_study_names(storage)
    mine = [name for name in names if name.partition("/")[0] == study]
    return [(name, f"{base}/dashboard/studies/{storage.get_study_id_from_name(name)}") for name in mine]


def reading_only(application: Application, hosts: frozenset[str]) -> Application:
    """Lets through what reads, and what names the server by one of its own addresses."""

    def guarded(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment.get("HTTP_HOST") not in hosts:
            reason = b"this server answers under its own address only\n"
        elif environment.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            reason = b"the ledger is shown, not changed: study ui only reads\n"
        else:
            return application(environment, start)
        start("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", str(len(reason)))])
        return [reason]

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """The dashboard asks every few seconds."""


def main(port: str, root: str, study: str, url: str | None = None) -> None:
    """Serves until it is ended; the ledger's URL is in the environment.

    Args:
        root: Folder of the storage in which the study's runs lie.
        url: Of that storage, if it has one.
    """
    from optuna_dashboard import wsgi

    from study.ledger.database import open_storage
    from study.monitor.shown_ledger import ShownLedger

    shown = ShownLedger(open_storage(os.environ.pop(URL_VARIABLE)), Storage(Path(root), study, url))
    application = wsgi(shown, shown)
    hosts = frozenset(f"{name}:{port}" for name in (HOST, "localhost"))
    guarded: Any = reading_only(application, hosts)
    with make_server(HOST, int(port), guarded, _Server, _Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])


def serve_optuna(storage: Storage, port: int | None) -> int:
    """Serves optuna-dashboard on the study's ledger until it is interrupted; returns the exit code."""
    from study.monitor.ui_server import serve_command

    url = stored_spec(storage).storage.ledger_url or storage.ledger_url
    return serve_command(
        lambda: optuna_command(storage, url, port=port),
        storage.folder / OPTUNA_UI_LOG,
        lambda command: arm_pages(url, storage.study, command.base),
    )


def name_ray_dashboard(storage: Storage) -> None:
    """Prints where the Ray dashboard of a running study is and how to log in.

    Raises:
        UserError: Nothing drives the study, or its cluster has no dashboard.
    """
    driver = read_driver(storage)
    if driver is None or driver.life(storage) != "alive":
        raise UserError(
            nobody_drives(storage, driver).replace("nothing to stop", "so there is no Ray cluster to show")
        )
    if not driver.dashboard:
        raise UserError(
            f"the Ray cluster of {storage.study} has no dashboard; end it ({storage.command('stop')}) and launch it "
            "again with --ray-dashboard"
        )
    print(f"Ray dashboard: {driver.dashboard}", flush=True)
    port = driver.dashboard.rpartition(":")[2].strip("/")
    if driver.host != socket.gethostname():
        say(f"It listens on {driver.host} only; from here: ssh -N -L {port}:127.0.0.1:{port} {driver.host}")
    asks = f": the content of {driver.token_file} on {driver.host}" if driver.token_file else ""
    say(f"It asks for the cluster's token{asks}")
