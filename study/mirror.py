"""Keeps MLflow equal to a study's run folders: one MLflow run a run key, whatever was killed in between.

Nothing here waits or retries: a call brings what it can up to date and raises `Outage` when the store is away. Calling
again goes on where MLflow stands, because each batch carries the number of the last event that it covers.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import tempfile
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from study.mlflow_store import MlflowStore, frozen_spec, is_missing
from study.parents import Child, Parents
from study.provenance import config_digest
from study.run_batches import Batch, ImageFile, batches, corrections, flat_params, milliseconds, mlflow_status
from study.runs import RunKey, Storage
from study.tracking_record import RunIds, TrackingRecord
from trainables.events import EVENTS_FILE, RESULT_FILE, RUN_FILE, Event, read_events

LOCK_FILE = "tracking.lock"
RETRY_RUN_SECONDS = 30.0


class Outage(Exception):
    """The tracking store does not answer."""


class Busy(Exception):
    """Another process writes this study to MLflow now."""


@dataclass
class Counts:
    """What was done."""

    runs: int = 0
    created: int = 0
    events: int = 0
    metrics: int = 0
    images: int = 0


@dataclass
class _Run:
    """One run and how far MLflow has it.

    Attributes:
        size: Bytes of the event file when it was last looked at.
        logged: Number of the last event that MLflow holds; None: to be asked.
        retry_at: Monotonic time before which a run that MLflow refused is left alone.
    """

    key: RunKey
    folder: Path
    run_id: str | None = None
    status: str = "RUNNING"
    logged: int | None = None
    size: int = -1
    done: bool = False
    problem: str | None = None
    retry_at: float = 0.0
    document: dict[str, Any] = field(default_factory=dict)


class Mirror:
    """Writes a study's runs to one tracking store; use it from one thread.

    Args:
        ids: Where run ids are kept beside ``tracking.json`` (the ledger); its failures are ignored.
        log_weights_limit_mb: Weights up to so many MB are uploaded, larger ones named by path and hash.
    """

    def __init__(
        self, storage: Storage, uri: str, *, ids: RunIds | None = None, log_weights_limit_mb: float = 16
    ) -> None:
        self.storage = storage
        self.store = MlflowStore(uri, storage.study, storage.artifact_root)
        self.record = TrackingRecord(storage)
        self.counts = Counts()
        self._ids = ids
        self._weights_limit = int(log_weights_limit_mb * 1e6)
        self._runs: dict[RunKey, _Run] = {}
        self._spec = frozen_spec(storage) or {}
        self._parents = Parents(self.store, self.record.study_id, self._spec)
        self._opened = False
        self._lock: IO[str] | None = None

    def add(self, key: RunKey) -> None:
        """Takes a run into care; adding it again is harmless."""
        if key not in self._runs:
            self._runs[key] = _Run(key, self.storage.run_folder(key))

    def add_all(self) -> None:
        """Takes every run that has a folder into care."""
        for path in sorted((self.storage.folder / "runs").glob(f"*/*/*/{EVENTS_FILE}")):
            try:
                self.add(RunKey.parse("/".join(path.parent.parts[-3:])))
            except ValueError:
                continue  # not a run's folder

    def update(self) -> None:
        """Brings every run up to date; raises Outage when the store is away, Busy when another process writes."""
        self._open()
        now = time.monotonic()
        for run in list(self._runs.values()):
            if run.done or run.retry_at > now:
                continue
            try:
                self._update(run)
                run.problem = None
            except Exception as error:
                self._after_failure(run, error)

    def finish(self) -> None:
        """Leaves nothing RUNNING in MLflow: interrupted runs are KILLED there (and go on when resumed)."""
        self._open()
        for run in self._runs.values():
            if not run.done and run.run_id is not None and run.status == "RUNNING":
                self._guarded(run, self._interrupt)
        self._close_strangers()
        try:
            self._parents.finish(self._children())
        except Exception as error:
            raise Outage(str(error)) from error

    def pending(self) -> list[str]:
        """Names the runs of which MLflow lacks something that the event files have."""
        left = []
        for run in self._runs.values():
            path = run.folder / EVENTS_FILE
            if not run.done and path.exists() and (run.logged is None or path.stat().st_size != run.size):
                left.append(run.key.name)
            elif not run.done and (run.folder / RESULT_FILE).exists():
                left.append(run.key.name)
        return left

    def first_problem(self) -> str | None:
        """Returns why MLflow refused a run; None if it refused none."""
        return next((run.problem for run in self._runs.values() if run.problem), None)

    def number_of_runs(self) -> int:
        """Returns how many runs have begun."""
        return sum((run.folder / EVENTS_FILE).exists() for run in self._runs.values())

    def release(self) -> None:
        """Lets other processes write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open(self) -> None:
        if self._lock is None:
            self.storage.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.storage.folder / LOCK_FILE).open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                raise Busy(f"another process writes study {self.storage.study} to MLflow") from None
            self._lock = lock
        if self._opened:
            return
        try:
            self._learn_what_is_there()
        except Exception as error:
            raise Outage(str(error)) from error
        self._opened = True

    def _learn_what_is_there(self) -> None:
        """One look at the whole experiment, so that finished runs cost nothing more."""
        digest = hashlib.sha256(json.dumps(self._spec, sort_keys=True).encode()).hexdigest()
        self.store.tag_experiment(
            {
                "study": self.storage.study,
                "spec_digest": digest,
                "mlflow.note.content": f"Study {self.storage.study}. Arms by phase are the parent runs; "
                "only the phase `confirm` is compared. `study report` reads this experiment.",
            }
        )
        for found in self.store.runs({"study_id": self.record.study_id, "kind": "run"}):
            tags = found.data.tags
            try:
                key = RunKey.parse(tags.get("run_key", ""))
            except ValueError:
                continue
            run = self._runs.get(key)
            if run is None or run.run_id is not None:
                continue
            if tags.get("synced") == "complete" and found.info.status != "RUNNING":
                run.run_id, run.done, run.status = found.info.run_id, True, found.info.status
                run.logged = int(tags.get("last_event", 0))
                self._remember(run)

    def _update(self, run: _Run) -> None:
        path, result_path = run.folder / EVENTS_FILE, run.folder / RESULT_FILE
        if not path.exists():
            return
        ended = result_path.exists()  # asked before the events: what follows the last event is never missed
        size = path.stat().st_size
        if size == run.size and not ended and run.logged is not None:
            return
        events = read_events(run.folder)
        if not events:
            return
        if not run.document:
            run.document = json.loads((run.folder / RUN_FILE).read_text())
        if run.run_id is None or run.logged is None:
            self._find_or_create(run, events[0])
        assert run.run_id is not None
        assert run.logged is not None
        if run.status != "RUNNING" and (events[-1].number > run.logged or not ended):
            self.store.set_status(run.run_id, "RUNNING")
            run.status = "RUNNING"
        for batch in batches(events, run.logged):
            self._write(run, batch)
        run.size = size
        if ended:
            self._end(run, events, json.loads(result_path.read_text()))

    def _find_or_create(self, run: _Run, first: Event) -> None:
        found = self.store.one_run(self.record.study_id, run.key.name)
        if found is not None:
            run.run_id, run.status = found.info.run_id, found.info.status
            run.logged = int(found.data.tags.get("last_event", 0))
        else:
            method = str(run.document["method"])
            parent = self._parents.ensure(run.key.phase, run.key.arm, method, milliseconds(first.time))
            tags = {**self._run_tags(run, first), "mlflow.parentRunId": parent}
            name = f"{run.key.arm} {run.key.trial:04d} {run.key.subject} s{run.key.seed}"
            run.run_id = self.store.create_run(name, milliseconds(first.time), tags)
            run.status, run.logged = "RUNNING", 0
            self.counts.created += 1
        self._remember(run)
        if run.logged == 0:
            self.store.log(run.run_id, params=flat_params(run.document))
            self._log_config(run)

    def _remember(self, run: _Run) -> None:
        assert run.run_id is not None
        self.record.put(run.key, run.run_id)
        if self._ids is not None:
            try:
                self._ids.put(run.key, run.run_id)
            except Exception:  # e.g. Optuna refuses changes of finished trials; tracking.json has the id
                return

    def _run_tags(self, run: _Run, first: Event) -> dict[str, str]:
        key = run.key
        tags = {
            "kind": "run",
            "study": self.storage.study,
            "study_id": self.record.study_id,
            "run_key": key.name,
            "arm": key.arm,
            "method": str(run.document["method"]),
            "phase": key.phase,
            "trial": str(key.trial),
            "subject": key.subject,
            "seed": str(key.seed),
            "state": "RUNNING",
            "config_digest": config_digest(run.document),
            "last_event": "0",
            "mlflow.note.content": describe(run.key, run.document),
        }
        launch = self.record.launch_at(first.time)
        if launch is not None and launch.git_commit is not None:
            tags["git_commit"] = tags["mlflow.source.git.commit"] = launch.git_commit
            tags["git_dirty"] = str(launch.git_dirty).lower()
        return tags

    def _log_config(self, run: _Run) -> None:
        import yaml

        assert run.run_id is not None
        self.store.log_text(run.run_id, yaml.safe_dump(run.document, sort_keys=False), "config/run.yaml")

    def _write(self, run: _Run, batch: Batch) -> None:
        assert run.run_id is not None
        for image in batch.images:
            self._log_image(run, image)
        tags = {**batch.tags, "last_event": str(batch.last_event)}
        if batch.images:
            tags["mlflow.loggedImages"] = "True"
        self.store.log(run.run_id, batch.metrics, tags=tags)
        self.counts.events += batch.last_event - (run.logged or 0)
        self.counts.metrics += len(batch.metrics)
        self.counts.images += len(batch.images)
        run.logged = batch.last_event

    def _log_image(self, run: _Run, image: ImageFile) -> None:
        """Uploads an image as `MlflowClient.log_image` does, but under a name that repeating gives again."""
        from PIL import Image

        source = run.folder / image.path
        if not source.exists():
            return
        assert run.run_id is not None
        name = uuid.uuid5(uuid.NAMESPACE_URL, f"{self.record.study_id}/{run.key.name}/{image.number}")
        stem = f"{image.key.replace('/', '~')}+step+{image.step}+timestamp+{image.time}+{name}"
        with tempfile.TemporaryDirectory() as folder, Image.open(source) as picture:
            picture.load()
            picture.save(Path(folder) / f"{stem}.png")
            small = picture.convert("RGB")
            small.thumbnail((256, 256))
            small.save(Path(folder) / f"{stem}+compressed.webp")
            self.store.log_folder(run.run_id, Path(folder), "images")

    def _end(self, run: _Run, events: list[Event], result: dict[str, Any]) -> None:
        assert run.run_id is not None
        state = str(result["state"])
        self.store.log_file(run.run_id, run.folder / RESULT_FILE)
        if result.get("traceback"):
            self.store.log_text(run.run_id, str(result["traceback"]), "traceback.txt")
        if result.get("weights"):
            self._log_weights(run, run.folder / str(result["weights"]))
        tags = {
            "state": state,
            "attempt": str(result.get("attempts") or 1),
            "mlflow.note.content": describe(run.key, run.document, result),
        }
        if result.get("reason"):
            tags["reason"] = str(result["reason"])
        if result.get("message"):
            tags["message"] = str(result["message"])
        if result.get("config_digest"):
            tags["config_digest"] = str(result["config_digest"])
        missing = sorted(name for name, value in (result.get("evaluation") or {}).items() if value is None)
        if missing:
            tags["missing"] = ",".join(missing)
        self.store.log(run.run_id, corrections(events, result), tags=tags)
        status = mlflow_status(state)
        self.store.set_status(run.run_id, status, milliseconds(events[-1].time))
        # The mark comes last: a driver that is killed before it does all of this again.
        self.store.log(run.run_id, tags={"synced": "complete"})
        run.status, run.done = status, True
        self.counts.runs += 1

    def _log_weights(self, run: _Run, weights: Path) -> None:
        assert run.run_id is not None
        files = sorted(path for path in weights.rglob("*") if path.is_file())
        size = sum(path.stat().st_size for path in files)
        if size <= self._weights_limit:
            self.store.log_folder(run.run_id, weights, "weights")
            return
        listed = [
            {"file": str(path.relative_to(weights)), "bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in files
        ]
        reference = {"path": str(weights.absolute()), "bytes": size, "files": listed}
        self.store.log_text(run.run_id, json.dumps(reference, indent=1), "weights.json")

    def _interrupt(self, run: _Run) -> None:
        assert run.run_id is not None
        self.store.set_status(run.run_id, "KILLED", int(time.time() * 1000))
        run.status = "KILLED"

    def _close_strangers(self) -> None:
        """Closes runs of this study in MLflow that have no folder any more."""
        known = {run.run_id for run in self._runs.values()}
        try:
            for found in self.store.runs({"study_id": self.record.study_id, "kind": "run"}):
                if found.info.status == "RUNNING" and found.info.run_id not in known:
                    self.store.set_status(found.info.run_id, "KILLED", int(time.time() * 1000))
        except Exception as error:
            raise Outage(str(error)) from error

    def _guarded(self, run: _Run, action: Any) -> None:
        try:
            action(run)
        except Exception as error:
            self._after_failure(run, error)

    def _after_failure(self, run: _Run, error: Exception) -> None:
        """Tells a store that is away (Outage) from a run that it refuses, and asks anew what MLflow holds."""
        run.logged, run.size = None, -1
        if is_missing(error):  # the store was emptied under our hands: begin again
            run.run_id = None
            self.store.forget_experiment()
            self._parents.forget()
            return
        try:
            self.store.ping()
        except Exception:
            raise Outage(str(error)) from error
        run.problem = f"{type(error).__name__}: {error}"
        run.retry_at = time.monotonic() + RETRY_RUN_SECONDS

    def _children(self) -> Iterable[Child]:
        for run in self._runs.values():
            path = run.folder / RESULT_FILE
            result = json.loads(path.read_text()) if path.exists() else {}
            yield Child(run.key, str(result.get("state", "RUNNING")), result.get("evaluation") or {})


def describe(key: RunKey, document: dict[str, Any], result: dict[str, Any] | None = None) -> str:
    """A few lines of Markdown for the head of the run's page in the MLflow UI."""
    training = document.get("training", {})
    lines = [
        f"**{key.arm}** ({document['method']}), {key.phase} phase, trial {key.trial}: "
        f"subject {key.subject}, seed {key.seed}"
    ]
    if document["method"] != "base":
        lines.append(
            f"learning rate {training.get('learning_rate', 0):.3g}, {training.get('lr_scheduler')} schedule, "
            f"{training.get('max_train_steps')} steps"
        )
    if result is not None and result["state"] == "COMPLETE":
        quality = (result.get("evaluation") or {}).get("quality")
        seconds = (result.get("cost") or {}).get("train_seconds")
        scores = [f"quality {quality:.3f}"] if quality is not None else []
        scores += [f"trained in {seconds:.1f} s"] if seconds is not None else []
        lines.append(", ".join(scores))
    elif result is not None:
        reasons = [str(result[name]) for name in ("reason", "message") if result.get(name)]
        lines.append(f"**{result['state']}** {': '.join(reasons)}")
    return "\n\n".join(line for line in lines if line)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
