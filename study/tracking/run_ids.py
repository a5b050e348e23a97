"""What a study remembers of its MLflow runs beside the ledger: one small JSON file in the study's folder.

It names the study for ever (`study_id`), so that two storages that write to one tracking server under one
name never adopt each other's runs; and it keeps with which code and on which machine each launch happened.
Of a storage at a URL it lies there, too: the driver's machine may be lost, and its successor must find the runs.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from study.remote.working_copy import send
from study.storage.layout import TRACKING_FILE, Storage
from study.storage.run_key import RunKey
from study.util.json_files import read_json_or_copy, write_json_twice
from study.util.provenance import git_state, machine, package_versions
from trainables.errors import UserError


class RunIds(Protocol):
    """Remembers the MLflow run of each run key; the ledger offers one, `TrackingRecord` is another."""

    def mlflow_run_id(self, key: RunKey) -> str | None:
        """Returns the id of a run's MLflow run, None if there is none yet."""
        ...

    def set_mlflow_run_id(self, key: RunKey, run_id: str) -> None:
        """Remembers it."""
        ...


@dataclass(frozen=True)
class Launch:
    """Code and machine of one launch.

    Attributes:
        time: Seconds since the epoch.
    """

    time: float
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    machine: dict[str, Any]


WRITE_SECONDS = 5.0


class TrackingRecord:
    """The file ``tracking.json`` of a study, always written whole and atomically.

    Launches are written at once; the ids of MLflow runs, which MLflow knows as well, every few seconds and by
    `flush`, since a file that is written whole for every run would cost the square of their number.

    Raises:
        UserError: The file is damaged, or a new one cannot be kept at the storage's URL.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._path = storage.folder / TRACKING_FILE
        try:
            content = read_json_or_copy(self._path)
        except FileNotFoundError:
            content = {}
        except ValueError as error:
            raise UserError(
                f"{error}; restore it, or remove both: then MLflow gets the study's runs anew, beside those it has"
            ) from None
        self.study_id: str = content.get("study_id") or uuid.uuid4().hex[:12]
        self.launches: list[Launch] = [Launch(**launch) for launch in content.get("launches", [])]
        self._runs: dict[str, str] = content.get("runs", {})
        self._dirty = False
        self._written = 0.0
        if not content:
            self._write()
            self._send()  # before MLflow gets a run under this id

    def mlflow_run_id(self, key: RunKey) -> str | None:
        """Returns the id of a run's MLflow run in the store written last, None if there is none yet."""
        return self._runs.get(key.name)

    def run_names(self) -> set[str]:
        """Names of the runs that were written to MLflow."""
        return set(self._runs)

    def set_mlflow_run_id(self, key: RunKey, run_id: str) -> None:
        """Remembers the MLflow run of a run."""
        if self._runs.get(key.name) != run_id:
            self._runs[key.name] = run_id
            self._dirty = True
            self.flush(after=WRITE_SECONDS)

    def flush(self, after: float = 0.0) -> None:
        """Writes what has changed, unless it was written less than so many seconds ago."""
        if self._dirty and time.monotonic() - self._written >= after:
            self._write()

    def add_launch(self) -> None:
        """Records that the study is launched now, by this code on this machine."""
        git = git_state()
        self.launches.append(
            Launch(
                time=time.time(),
                git_commit=git.commit if git else None,
                git_dirty=git.dirty if git else None,
                versions=package_versions(),
                machine=machine(),
            )
        )
        self._write()
        with contextlib.suppress(UserError):  # where it matters, the runs' own tags have it
            self._send()

    def launch_at(self, moment: float) -> Launch | None:
        """Returns the last launch before `moment` (seconds since the epoch), else the first."""
        before = [launch for launch in self.launches if launch.time <= moment]
        return before[-1] if before else next(iter(self.launches), None)

    def _write(self) -> None:
        content = {
            "study_id": self.study_id,
            "launches": [asdict(launch) for launch in self.launches],
            "runs": self._runs,
        }
        write_json_twice(self._path, content)
        self._dirty, self._written = False, time.monotonic()

    def _send(self) -> None:
        if self._storage.url is not None:
            send(self._storage, TRACKING_FILE)


def read_record(storage: Storage) -> TrackingRecord | None:
    """Returns a study's record, None if there is none; writes nothing."""
    return TrackingRecord(storage) if (storage.folder / TRACKING_FILE).exists() else None
