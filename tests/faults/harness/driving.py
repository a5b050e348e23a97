"""One study under test: its storage, its driver's process and all that the driver started, and what it says."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from study.storage.attempts import attempts, worker_failures
from study.storage.layout import Storage, storage_at
from study.worker.workspace import scratch_root
from tests.faults.harness.drive import MACHINE, WATCHDOG
from tests.faults.harness.runner import FOLDER
from tests.faults.harness.studies import CONTENTS, run_folders
from tests.helpers.mlflow_stores import copied_template
from tests.helpers.waiting import wait_gone
from trainables.events import Event, read_events

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 300.0  # seconds; a busy machine starts Ray and imports everything in a minute


class Hung(Exception):
    """Something that had to happen did not."""


@dataclass
class Driven:
    """A study and its driver.

    Attributes:
        folder: Of everything: storage, control files, logs.
        cluster: `nodes.Nodes` or `hosts.Hosts` that the driver joins, or None.
        tracking: The proxy before an MLflow server, or None for the default store.
        store: The proxy before an object store, and `url` the storage there; None for a folder. The storage is then
            the working copy, which the driver keeps up to date.
        kind: Of the study, one of `studies.CONTENTS`.
        resources: What its file says otherwise under that name.
        pace: Seconds between two progress events of a run.
        allowed: Runs that may go back to the checkpoint before their last, or whose records a fault damaged, with why.
        floors: Of runs at a URL: attempts that began after so many events must have gone on at this step or later.
    """

    folder: Path
    models: Path
    name: str
    rng: random.Random
    kind: str = "usual"
    resources: dict[str, Any] = field(default_factory=dict)
    pace: float = 0.3
    cluster: Any = None
    tracking: Any = None
    database: Any = None
    store: Any = None
    url: str | None = None
    ledger_url: str | None = None
    watchdog_minutes: float = 10.0
    process: subprocess.Popen[bytes] | None = None
    launches: int = 0
    restarts: list[str] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    allowed: dict[str, set[str]] = field(default_factory=dict)
    floors: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    machine: int = 1
    family: dict[int, psutil.Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        place = self.url or self.folder / "storage"
        self.storage: Storage = storage_at(place, self.name)
        self.control = self.folder / "control"
        self.control.mkdir(parents=True, exist_ok=True)
        self.tell("pace", str(self.pace))
        if self.url is None and self.tracking is None:
            copied_template(self.storage.root)  # making an empty MLflow store takes seconds of each study
        content = CONTENTS[self.kind](self.models, self.name, self.ledger_url)
        content["resources"] |= self.resources
        self.num_workers = int(content["resources"].get("num_workers", 1))
        (self.folder / "study.yaml").write_text(yaml.safe_dump(content))

    # The driver

    @property
    def alive(self) -> bool:
        """Whether the driver runs."""
        return self.process is not None and self.process.poll() is None

    def launch(self) -> None:
        """Runs the command of the study, again or for the first time."""
        self.launches += 1
        words = [
            *(self.cluster.prefix if self.cluster is not None else []),
            sys.executable,
            "-m",
            "tests.faults.harness.drive",
            "launch",
            str(self.folder / "study.yaml"),
        ]
        words += ["--storage", self.storage.uri, "--no-report"]
        words += ["--address", self.cluster.address] if self.cluster is not None else []
        words += ["--tracking-uri", self.tracking.uri] if self.tracking is not None else []
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment |= {
            FOLDER: str(self.control),
            WATCHDOG: str(self.watchdog_minutes),
            MACHINE: f"machine-{self.machine}" if self.url is not None else "",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
            **(self.database.environment if self.database is not None else {}),
        }  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> Path:
        """What the present launch says."""
        return self.folder / f"launch-{self.launches}.log"

    def said(self) -> str:
        """What the present launch has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def look(self) -> None:
        """Remembers what the driver has started; launches it again if it has ended before its study."""
        if self.alive:
            assert self.process is not None
            with contextlib.suppress(psutil.Error):
                for process in psutil.Process(self.process.pid).children(recursive=True):
                    self.family[process.pid] = process
            return
        if self.process is not None:
            self.exit_codes.append(self.process.returncode)
            self.restarts.append(self.said().strip()[-400:])
            if self.process.returncode == 2 or "Traceback" in self.said():
                raise Hung(f"the launch broke off: {self.said().strip()[-1500:]}")
        if not self.finished:
            self.launch()

    @property
    def finished(self) -> bool:
        """Whether the last launch brought the study to its end."""
        return self.process is not None and self.process.poll() == 0

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> bool:
        """Waits, launching the driver again when it ends; returns False if the study ends before.

        Raises:
            Hung: It took too long.
        """
        end = time.monotonic() + seconds
        while not condition():
            if self.finished:
                return False
            self.look()
            if time.monotonic() > end:
                raise Hung(f"{what}: not within {seconds:g} s")
            time.sleep(0.1)
        return True

    def wait_for_driver(self, seconds: float = PATIENCE) -> int:
        """Waits until the driver has ended and returns its exit code."""
        assert self.process is not None
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > end:
                raise Hung(f"the driver did not end within {seconds:g} s")
            self.look()
            time.sleep(0.1)
        return int(self.process.returncode)

    def kill_driver(self) -> None:
        """SIGKILL to the driver alone."""
        assert self.process is not None
        self.look()
        self.process.kill()
        self.process.wait()

    def kill_everything(self) -> None:
        """SIGKILL to the driver's process group and to all that it ever started."""
        if self.alive:
            assert self.process is not None
            self.look()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        wait_gone(list(self.family.values()), 30)

    def lose_machine(self) -> None:
        """SIGKILL to everything, and nothing that was on its disk is there any more; the next launch is elsewhere."""
        assert self.url is not None
        self.kill_everything()
        end = time.monotonic() + 30.0
        for place in (self.storage.root, scratch_root(self.url)):
            while place.exists() and time.monotonic() < end:  # who dies late may still write a file
                shutil.rmtree(place, ignore_errors=True)
            if place.exists():
                raise Hung(f"{place} cannot be removed")
        self.machine += 1

    def children(self, name: str) -> list[psutil.Process]:
        """Living processes of the driver whose name or command begins so."""
        self.look()
        found = []
        for process in self.family.values():
            with contextlib.suppress(psutil.Error):
                if process.is_running() and (
                    process.name().startswith(name) or name in (process.cmdline() or [""])[0]
                ):
                    found.append(process)
        return found

    # The runs

    def tell(self, name: str, content: str) -> None:
        """Switches a fault of the runner on."""
        partial = self.control / f".{name}"
        partial.write_text(content)
        os.replace(partial, self.control / name)

    def untell(self, name: str) -> None:
        """Switches it off."""
        (self.control / name).unlink(missing_ok=True)

    def events(self, name: str) -> list[Event]:
        """The events of a run."""
        try:
            return read_events(self.storage.folder / "runs" / name)
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def halfway(self) -> list[str]:
        """Runs that are in training now, in a living process, with a checkpoint behind them."""
        found = []
        for name, folder in run_folders(self.storage).items():
            if (folder / "result.json").exists():
                continue
            events = read_events(folder)
            started = [event for event in events if event.kind == "started"]
            begun = any(event.kind == "checkpoint" for event in events)
            if (
                begun
                and started
                and events[-1].kind in ("progress", "checkpoint")
                and psutil.pid_exists(started[-1].data["pid"])
            ):
                found.append(name)
        return found

    def worker(self, name: str) -> int:
        """The process of a run's last attempt."""
        return int([event for event in self.events(name) if event.kind == "started"][-1].data["pid"])

    def attempts(self, name: str) -> int:
        """How many attempts at a run have begun."""
        return sum(event.kind == "started" for event in self.events(name))

    def begun(self, name: str) -> int:
        """Likewise, by the list in its folder: the number of the last one."""
        return len(attempts(self.storage.folder / "runs" / name))

    def mark(self) -> int:
        """Grows with every event of training."""
        folders = run_folders(self.storage).values()
        return sum(
            (folder / "events.jsonl").stat().st_size
            for folder in folders
            if (folder / "events.jsonl").exists()
        )

    def goes_on(self) -> Callable[[], bool]:
        """A condition: something was recorded after now, by a driver that lives."""
        before = self.mark()
        return lambda: self.alive and self.mark() > before

    def is_tried_again(self, *names: str) -> Callable[[], bool]:
        """A condition: another attempt at each of these runs has begun, or they have ended."""
        before = {name: self.attempts(name) for name in names}
        runs = self.storage.folder / "runs"

        def condition() -> bool:
            return all(
                self.attempts(name) > count or (runs / name / "result.json").exists()
                for name, count in before.items()
            )

        return condition

    def all_attempts(self) -> int:
        """How many attempts at runs there were in all."""
        return sum(map(self.attempts, run_folders(self.storage)))

    def worker_failures(self) -> dict[str, int]:
        """How many of them the driver saw die, by the reason that it noted."""
        found = [death for folder in run_folders(self.storage).values() for death in worker_failures(folder)]
        return dict(Counter(str(death.get("reason")) for death in found))
