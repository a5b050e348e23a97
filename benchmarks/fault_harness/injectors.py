"""The faults, by name. Each does its damage to a study in the middle and returns how to see that it was overcome."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks.fault_harness.driving import PATIENCE, Driven, Hung
from benchmarks.fault_harness.studies import run_folders

Recovered = Callable[[], bool]
Injector = Callable[[Driven], Recovered]


def _one(driven: Driven) -> str:
    """A run that is in the middle of its training now."""
    runs = driven.halfway() or [name for name in run_folders(driven.storage) if driven.attempts(name)][-1:]
    return driven.rng.choice(runs)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# Processes


def worker_kill(driven: Driven) -> Recovered:
    """SIGKILL of a run's worker."""
    name = _one(driven)
    again = driven.is_tried_again(name)
    _kill(driven.worker(name))
    return again


def all_workers_kill(driven: Driven) -> Recovered:
    """SIGKILL of all workers at once."""
    names = driven.halfway()
    again = driven.is_tried_again(*names)
    for name in names:
        _kill(driven.worker(name))
    return again


def raylet_kill(driven: Driven) -> Recovered:
    """SIGKILL of the raylet."""
    again = driven.is_tried_again(*driven.halfway())
    for process in driven.children("raylet"):
        _kill(process.pid)
    return again


def gcs_kill(driven: Driven) -> Recovered:
    """SIGKILL of Ray's control service."""
    again = driven.is_tried_again(*driven.halfway())
    for process in driven.children("gcs_server"):
        _kill(process.pid)
    return again


def driver_kill(driven: Driven) -> Recovered:
    """SIGKILL of the driver; the same command again."""
    again = driven.is_tried_again(*driven.halfway())
    driven.kill_driver()
    return again


def group_kill(driven: Driven) -> Recovered:
    """SIGKILL of the driver and of everything that it started."""
    again = driven.is_tried_again(*driven.halfway())
    driven.kill_everything()
    return again


# Signals


def sigint(driven: Driven) -> Recovered:
    """SIGINT: the launch ends in order and says how to go on."""
    return _graceful(driven, signal.SIGINT)


def sigterm(driven: Driven) -> Recovered:
    """SIGTERM: likewise."""
    return _graceful(driven, signal.SIGTERM)


def second_signal(driven: Driven) -> Recovered:
    """A second signal a moment after the first ends the launch at once."""
    assert driven.process is not None
    again = driven.is_tried_again(*driven.halfway())
    driven.process.send_signal(signal.SIGTERM)
    time.sleep(driven.rng.uniform(0.05, 1.0))
    driven.process.send_signal(signal.SIGTERM)
    code = driven.wait_for_driver(60.0)
    if code not in (0, 1, 130) or "Traceback" in driven.said():
        raise Hung(f"ended with {code} after a second signal: {driven.said()[-600:]}")
    return again


def _graceful(driven: Driven, number: signal.Signals) -> Recovered:
    assert driven.process is not None
    again = driven.is_tried_again(*driven.halfway())
    driven.process.send_signal(number)
    code = driven.wait_for_driver(PATIENCE)
    if code == 0:  # it came after the last run
        return again
    _must_say(driven, 130, "run the same command again")
    return again


def _must_say(driven: Driven, code: int, *texts: str) -> None:
    said = " ".join(driven.said().split())
    assert driven.process is not None
    if driven.process.returncode != code or "Traceback" in said or not all(text in said for text in texts):
        raise Hung(f"the driver ended with {driven.process.returncode} and said: {said[-800:]}")


# Nodes; the driver has joined a cluster of several


def node_lost(driven: Driven) -> Recovered:
    """A node goes without grace; another comes some seconds later."""
    again = driven.is_tried_again(*driven.halfway())
    node = driven.rng.choice(driven.cluster.worker_nodes())
    driven.cluster.remove(node)
    time.sleep(driven.rng.uniform(0.0, 5.0))
    driven.cluster.add()
    return _or_goes_on(driven, again)


def node_drained(driven: Driven) -> Recovered:
    """A node is announced to go (spot preemption) and goes at its deadline; another comes."""
    node = driven.rng.choice(driven.cluster.worker_nodes())
    seconds = driven.rng.randint(2, 6)
    driven.cluster.drain(node, seconds)
    time.sleep(seconds)
    driven.cluster.remove(node)
    driven.cluster.add()
    return driven.goes_on()


def _or_goes_on(driven: Driven, again: Recovered) -> Recovered:
    """Only the runs of the lost node are tried again."""
    before = sum(driven.attempts(name) for name in run_folders(driven.storage))
    on = driven.goes_on()
    end = time.monotonic() + 20.0
    return lambda: (
        again()
        or (
            on()
            and (sum(map(driven.attempts, run_folders(driven.storage))) > before or time.monotonic() > end)
        )
    )


# Servers


def mlflow_kill(driven: Driven) -> Recovered:
    """The MLflow server is killed and started again after a while."""
    driven.tracking.server.kill()
    time.sleep(driven.rng.uniform(1.0, 5.0))
    on = driven.goes_on()
    driven.tracking.server.start()
    return on


def mlflow_error(driven: Driven) -> Recovered:
    """The MLflow server answers 500 for a while."""
    return _tracking(driven, "error")


def mlflow_hang(driven: Driven) -> Recovered:
    """The MLflow server accepts requests and does not answer for a while."""
    return _tracking(driven, "hang")


def _tracking(driven: Driven, mode: str) -> Recovered:
    driven.tracking.set(mode)
    on = driven.goes_on()
    try:
        time.sleep(driven.rng.uniform(1.0, 8.0))
    finally:
        driven.tracking.set("ok")
    return on


def ledger_locked(driven: Driven) -> Recovered:
    """Another process holds SQLite's exclusive lock on the ledger for a while."""
    on = driven.goes_on()
    with contextlib.closing(sqlite3.connect(driven.storage.folder / "ledger.db", timeout=30)) as connection:
        connection.isolation_level = None
        connection.execute("begin exclusive")
        time.sleep(driven.rng.uniform(2.0, 8.0))
        connection.execute("rollback")
    return on


def database_restart(driven: Driven) -> Recovered:
    """The ledger's PostgreSQL server crashes and comes back after a while."""
    on = driven.goes_on()
    driven.database.stop("immediate")
    time.sleep(driven.rng.uniform(0.5, 6.0))
    driven.database.start()
    return on


# Storage


def disk_error(driven: Driven) -> Recovered:
    """Writes of the workers fail (EIO) for a while."""
    return _disk(driven, errno.EIO)


def disk_read_only(driven: Driven) -> Recovered:
    """The storage is read-only (EROFS) for the workers for a while."""
    return _disk(driven, errno.EROFS)


def disk_full_for_a_moment(driven: Driven) -> Recovered:
    """The storage has no room (ENOSPC) for the workers for a while."""
    return _disk(driven, errno.ENOSPC)


def _disk(driven: Driven, number: int) -> Recovered:
    driven.tell("disk", json.dumps({"errno": number, "under": str(driven.storage.folder.resolve())}))
    time.sleep(driven.rng.uniform(0.3, 4.0))
    driven.untell("disk")
    return driven.goes_on()


def disk_slow(driven: Driven) -> Recovered:
    """Every flush to the disk takes up to two seconds longer for a while."""
    on = driven.goes_on()
    driven.tell("slow", str(driven.rng.uniform(0.5, 2.0)))
    time.sleep(driven.rng.uniform(3.0, 6.0))
    driven.untell("slow")
    return on


def disk_full(driven: Driven) -> Recovered:
    """The file system of the storage is really full: for driver, ledger, workers and MLflow; until there is room."""
    again = driven.is_tried_again(*driven.halfway())
    filler = driven.storage.root / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 2**20)
    try:
        if driven.wait_for_driver() != 0:
            _must_say(driven, 1, "run the same command again", "make room")
    finally:
        filler.unlink(missing_ok=True)
    return again


# Damaged files: the driver is killed, something is damaged, the same command again


def torn_checkpoint(driven: Driven) -> Recovered:
    """The newest checkpoint's tensors end in the middle."""
    return _damaged(
        driven,
        lambda name, folder: _truncate(driven, name, _newest(folder) / "tensors.safetensors", "checkpoint"),
    )


def corrupt_checkpoint(driven: Driven) -> Recovered:
    """Bytes of the newest checkpoint are wrong."""
    return _damaged(
        driven,
        lambda name, folder: _flip(driven, name, _newest(folder) / "tensors.safetensors", "checkpoint"),
    )


def corrupt_checkpoint_state(driven: Driven) -> Recovered:
    """The JSON of the newest checkpoint is no JSON any more."""
    return _damaged(
        driven, lambda name, folder: _garbage(driven, name, _newest(folder) / "state.json", "checkpoint")
    )


def torn_events(driven: Driven) -> Recovered:
    """The last line of a run's events ends in the middle."""

    def tear(name: str, folder: Path) -> None:
        path = folder / "events.jsonl"
        last = path.read_bytes().rstrip(b"\n").rsplit(b"\n", 1)[-1]
        os.truncate(path, path.stat().st_size - driven.rng.randint(1, len(last)))
        driven.allowed.setdefault(name, set()).add("records")

    return _damaged(driven, tear)


def corrupt_events(driven: Driven) -> Recovered:
    """A line in the middle of a run's events is garbage."""

    def spoil(name: str, folder: Path) -> None:
        path = folder / "events.jsonl"
        lines = path.read_bytes().split(b"\n")
        chosen = driven.rng.randrange(1, max(2, len(lines) - 1))
        lines[chosen] = driven.rng.choice(
            [b"\xff\x00garbage", b"null", b"{}", b"[1, 2]", lines[chosen][: len(lines[chosen]) // 2]]
        )
        path.write_bytes(b"\n".join(lines))
        driven.allowed.setdefault(name, set()).add("records")

    return _damaged(driven, spoil)


def corrupt_attempts(driven: Driven) -> Recovered:
    """The list of a run's attempts is garbage."""
    return _damaged(driven, lambda name, folder: _garbage(driven, name, folder / "attempts.jsonl", "records"))


def corrupt_result(driven: Driven) -> Recovered:
    """The result of a run that has ended is cut short or empty."""

    def spoil(name: str, folder: Path) -> None:
        ended = [place for place in run_folders(driven.storage).values() if (place / "result.json").exists()]
        if ended:
            place = driven.rng.choice(ended)
            (place / "result.json").write_text(driven.rng.choice(["", "{", "null", '{"state": "COMPL']))
            driven.allowed.setdefault("/".join(place.parts[-3:]), set()).add("records")

    return _damaged(driven, spoil)


def corrupt_records(driven: Driven) -> Recovered:
    """The study's own records, study.json and tracking.json, are cut short."""

    def spoil(name: str, folder: Path) -> None:
        for file in ("study.json", "tracking.json"):
            path = driven.storage.folder / file
            if path.exists():
                os.truncate(path, driven.rng.randrange(path.stat().st_size))

    return _damaged(driven, spoil)


def _damaged(driven: Driven, damage: Callable[[str, Path], object]) -> Recovered:
    name = _one(driven)
    pid = driven.worker(name)
    again = driven.is_tried_again(name)
    driven.kill_driver()
    _kill(pid)  # or it would write on for a moment
    psutil.wait_procs([process for process in driven.family.values() if process.pid == pid], timeout=30)
    folder = driven.storage.folder / "runs" / name
    if not (folder / "result.json").exists():
        damage(name, folder)
    return again


def _newest(folder: Path) -> Path:
    return sorted(path for path in (folder / "checkpoint").glob("step-*") if path.suffix != ".partial")[-1]


def _truncate(driven: Driven, name: str, path: Path, what: str) -> None:
    os.truncate(path, driven.rng.randrange(path.stat().st_size))
    driven.allowed.setdefault(name, set()).add(what)


def _flip(driven: Driven, name: str, path: Path, what: str) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[driven.rng.randrange(len(content))] ^= 0x55
    path.write_bytes(content)
    driven.allowed.setdefault(name, set()).add(what)


def _garbage(driven: Driven, name: str, path: Path, what: str) -> None:
    path.write_bytes(
        driven.rng.choice([b"", b"null\n", b"{}\n", b"[\n", b'{"pid": 1}\n"x"\n', driven.rng.randbytes(64)])
    )
    driven.allowed.setdefault(name, set()).add(what)


# Time


def clock_jump(driven: Driven) -> Recovered:
    """The wall clock of driver and workers jumps by an hour, there or back."""
    on = driven.goes_on()
    driven.tell("clock", str(driven.rng.choice([-3600.0, 3600.0, 0.0, -7200.0])))
    for name in run_folders(driven.storage):
        driven.allowed.setdefault(name, set()).add("clock")
    return on


def silence(driven: Driven) -> Recovered:
    """Workers fall silent: the watchdog ends the launch and says what it waited for."""
    before = driven.watchdog_minutes
    again = driven.is_tried_again(*driven.halfway())
    driven.kill_driver()
    driven.watchdog_minutes = 0.4
    try:
        if driven.wait_for(again, "going on before the silence"):
            driven.tell("silent", "")
            if driven.wait_for_driver() != 0:
                _must_say(
                    driven,
                    1,
                    "no sign of life for 0.4 minutes while waiting for",
                    "run the same command again",
                )
    finally:
        driven.untell("silent")
        driven.watchdog_minutes = before
    return driven.goes_on() if not driven.finished else lambda: True


LOCAL: dict[str, Injector] = {
    function.__name__: function
    for function in (
        worker_kill, all_workers_kill, raylet_kill, gcs_kill, driver_kill, group_kill, sigint, sigterm, second_signal,
        ledger_locked, disk_error, disk_read_only, disk_full_for_a_moment, disk_slow, clock_jump, silence,
        torn_checkpoint, corrupt_checkpoint, corrupt_checkpoint_state, torn_events, corrupt_events, corrupt_attempts,
        corrupt_result, corrupt_records,
    )
}  # fmt: skip
FULL_DISK: dict[str, Injector] = {"disk_full": disk_full}
SERVED: dict[str, Injector] = {
    function.__name__: function for function in (mlflow_kill, mlflow_error, mlflow_hang, database_restart)
}
NODES: dict[str, Injector] = {function.__name__: function for function in (node_lost, node_drained)}
SETTINGS: dict[str, dict[str, Injector]] = {
    "local": LOCAL,
    "full": FULL_DISK,
    "served": SERVED,
    "nodes": NODES,
}
KINDS: dict[str, Injector] = {
    name: injector for kinds in SETTINGS.values() for name, injector in kinds.items()
}


def run_ray(*words: str) -> None:
    """Runs a command of Ray's own command line."""
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *words], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
