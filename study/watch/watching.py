"""What ``study logs`` and ``study stop`` do and say: the log to the standard output, all else to the standard error."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

from study.errors import UserError
from study.remote.working_copy import fetch_sign, send
from study.spec.launched import readable_storage, stored_spec
from study.storage.attempts import tries
from study.storage.driver_record import REQUEST_FILE, SILENT_SECONDS, Driver, lock_is_held, read_driver
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.util.json_files import write_json
from study.watch.run_logs import attempt_lines, failure_text, find_run, follow_log, log_text
from study.watch.status import RUNS_COLUMNS, StatusReader

POLL_SECONDS = 0.5
FETCH_SECONDS = 10.0


def list_runs(storage: Storage) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Returns a row per run that has begun, failed ones first, and the columns."""
    return StatusReader(storage, stored_spec(storage)).runs(), RUNS_COLUMNS


def known_runs(storage: Storage) -> list[RunKey]:
    """Returns the runs that have a folder, in order."""
    found = []
    for path in (storage.folder / "runs").glob("*/*/*"):
        try:
            found.append(RunKey.parse("/".join(path.parts[-3:])))
        except ValueError:
            continue
    return sorted(found)


def show_log(
    place: str, storage: Storage, wanted: str, *, attempt: int | None, tail: int | None, follow: bool
) -> None:
    """Prints the log of a run; raises UserError if the run or the attempt is not there."""
    key = find_run(wanted, known_runs(storage))
    folder = storage.run_folder(key)
    session = _living_session(storage)
    say(f"{key.name} in {folder}", *attempt_lines(tries(folder, session=session)))
    if follow and session is not None:
        fetched = time.monotonic()

        def over() -> bool:
            nonlocal fetched
            if storage.url is not None and time.monotonic() - fetched > FETCH_SECONDS:
                readable_storage(place, storage.study)
                fetched = time.monotonic()
            return _living_session(storage) is None

        try:
            for text in follow_log(folder, over=over, tail=tail):
                sys.stdout.write(text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            return
    else:
        text = log_text(folder, attempt=attempt, tail=tail)
        sys.stdout.write(text if not text or text.endswith("\n") else text + "\n")
        sys.stdout.flush()
        if not text:
            say("(it printed nothing)")
    failure = failure_text(folder)
    if failure is not None and attempt in (None, len(tries(folder))):
        sys.stdout.write(failure + "\n")


def stop_study(storage: Storage, *, wait: bool, timeout: float) -> int:
    """Asks the driver of a study to end and waits for it; returns the exit code."""
    driver = read_driver(storage)
    if driver is None or driver.life(storage) != "alive":
        say(_nobody(storage, driver))
        return 0 if driver is not None or not lock_is_held(storage) else 1
    request_stop(storage, driver)
    who = f"process {driver.pid} on {driver.host}"
    say(f"asked {who} to end {storage.study}; running runs keep their checkpoints")
    if not wait:
        return 0
    until = time.monotonic() + timeout
    while (now := read_driver(storage)) is not None and now.id == driver.id and now.life(storage) == "alive":
        if time.monotonic() > until:
            silent = time.time() - now.beat
            heard = f"; its last sign of life is {silent:.0f} s old" if silent > SILENT_SECONDS else ""
            say(
                f"{who} still drives it after {timeout:g} s{heard}. Wait longer, or end it there: kill {driver.pid}"
            )
            return 1
        time.sleep(POLL_SECONDS)
        if storage.url is not None:
            fetch_sign(storage)
    say(f"{storage.study} has ended. To go on with it, launch it again as before")
    return 0


def serve_optuna(storage: Storage, port: int | None) -> int:
    """Serves optuna-dashboard on the study's ledger until it is interrupted; returns the exit code."""
    from study.watch.optuna_ui import arm_pages, optuna_command
    from study.watch.ui import serve_command

    url = stored_spec(storage).storage.ledger_url or storage.ledger_url
    command = optuna_command(storage, url, port=port)
    pages = arm_pages(url, storage.study, command.base)
    return serve_command(command, storage.folder / "optuna-ui.log", pages)


def name_ray_dashboard(storage: Storage) -> None:
    """Prints where the Ray dashboard of a running study is and how to log in.

    Raises:
        UserError: Nothing drives the study, or its cluster has no dashboard.
    """
    driver = read_driver(storage)
    if driver is None or driver.life(storage) != "alive":
        raise UserError(
            _nobody(storage, driver).replace("nothing to stop", "so there is no Ray cluster to show")
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


def _nobody(storage: Storage, driver: Driver | None) -> str:
    if driver is None and lock_is_held(storage):
        return (
            f"{storage.study} is driven by an earlier version, which takes no requests; end it where it runs"
        )
    if driver is None:
        return f"no driver runs {storage.study}; nothing to stop"
    if driver.ended is not None:
        return f"no driver runs {storage.study}: the last one has ended ({driver.how}); nothing to stop"
    return (
        f"no driver runs {storage.study}: that on {driver.host} (process {driver.pid}) died; nothing to stop"
    )


def _living_session(storage: Storage) -> str | None:
    driver = read_driver(storage)
    return driver.session if driver is not None and driver.life(storage) == "alive" else None


def say(*lines: str) -> None:
    """Prints lines for a person."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def request_stop(storage: Storage, driver: Driver) -> Path:
    """Writes the request that this driver, and no other, shall end; it obeys within seconds."""
    path = storage.folder / REQUEST_FILE
    asked = {"driver": driver.id, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    write_json(path, asked)
    if storage.url is not None:
        send(storage, REQUEST_FILE)
    return path
