"""Keeps MLflow equal to a study's run folders: one MLflow run a run key, whatever was killed in between.

What a server takes time for is waiting for its answers, so runs, which do not depend on each other, are written to
it from several threads; a database is written from one.

Nothing here waits or retries: a call brings what it can up to date and raises `OutageError` when the store is
away. Calling again goes on where MLflow stands: each batch carries the number of the last event that it
covers.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import yaml

from study.storage.event_tail import EventTail
from study.storage.layout import TRACKING_LOCK_FILE, Storage
from study.storage.run_key import RunKey
from study.storage.run_result import result_of
from study.storage.study_record import published_spec, spec_digest
from study.tracking.arm_summary import Child, child_in_mlflow
from study.tracking.champion import leading, name_champion, weights_at_hand
from study.tracking.data_inputs import DataInput, data_inputs
from study.tracking.event_metrics import (
    Batch,
    batches,
    corrections,
    final_metrics,
    milliseconds,
    mlflow_status,
)
from study.tracking.followed_run import FollowedRun
from study.tracking.mlflow_store import (
    MlflowStore,
    brief,
    is_missing,
    is_server,
)
from study.tracking.parallel import side_by_side
from study.tracking.params import flat_params
from study.tracking.parents import Parents
from study.tracking.run_ids import RunIds, TrackingRecord
from study.tracking.run_models import RunModels
from study.tracking.run_writer import end_tags, log_artifacts, log_image, run_tags
from study.tracking.ui_defaults import experiment_tags
from trainables.events import EVENTS_FILE, RUN_FILE, Event, read_events
from trainables.util.file_lock import lock_file

# The parser and emitter in C, where PyYAML was built with them, are ten times as fast.
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

SYNCED = "synced"  # the tag of a run of which MLflow holds everything
HYPOTHESIS_TAG = "hypothesis."  # before a digest: tags of the experiment
RETRY_RUN_SECONDS = 30.0
_SERVER_THREADS = 8  # runs that are written to a server at once; MLflow's client keeps ten connections


class OutageError(Exception):
    """The tracking store does not answer."""


class BusyError(Exception):
    """Another process writes this study to MLflow now."""


@dataclass
class Counts:
    """What was done."""

    runs: int = 0
    created: int = 0
    events: int = 0
    metrics: int = 0
    images: int = 0


class Mirror:
    """Writes a study's runs to one tracking store; to be used from one thread.

    Args:
        record: Names the study and its launches.
        ids: Are told the run ids (the record itself, the ledger); their failures are ignored.
        hypotheses: What was stated, when, and its digest; each becomes a tag of the experiment.
        log_weights_limit_mb: Weights up to so many MB are uploaded, larger ones named by path and hash.
        threads: Runs to write at once; default: several for a server, one for a database.
    """

    def __init__(
        self,
        storage: Storage,
        uri: str,
        record: TrackingRecord,
        *,
        ids: Sequence[RunIds] = (),
        hypotheses: Sequence[Mapping[str, Any]] = (),
        log_weights_limit_mb: float = 32,
        threads: int | None = None,
    ) -> None:
        self.storage = storage
        self.store = MlflowStore(uri, storage.study, storage.artifact_root)
        self.record = record
        self.counts = Counts()
        self._ids = ids
        self._hypotheses = {f"{HYPOTHESIS_TAG}{one['digest'][:16]}": json.dumps(one) for one in hypotheses}
        self._threads = threads or (_SERVER_THREADS if is_server(uri) else 1)
        self._guard = threading.Lock()  # of what the threads share: counts, record, parents
        self._weights_limit = int(log_weights_limit_mb * 1e6)
        self._runs: dict[RunKey, FollowedRun] = {}
        self._data_sets: set[str] = set()  # digests of those that MLflow has
        self._maybe_there: set[RunKey] = set()  # keys of which MLflow may have a run that is not known here
        self._spec = published_spec(storage)
        self._parents = Parents(self.store, self.record.study_id, self._spec)
        self._opened = False
        self._lock: IO[str] | None = None

    def add(self, key: RunKey) -> None:
        """Takes a run into care; adding it again is harmless."""
        if key not in self._runs:
            self._runs[key] = FollowedRun(key, self.storage.run_folder(key))

    def add_all(self) -> None:
        """Takes every run that has a folder into care."""
        for path in sorted((self.storage.runs).glob(f"*/*/*/{EVENTS_FILE}")):
            try:
                self.add(RunKey.parse("/".join(path.parent.parts[-3:])))
            except ValueError:
                continue  # not a run's folder

    def update(self, *, at_once: bool = False) -> None:
        """Brings every run up to date.

        Args:
            at_once: Try those that MLflow has just refused, too.

        Raises:
            OutageError: The store is away.
            BusyError: Another process writes this study.
        """
        self._open()
        now = time.monotonic()
        due = [run for run in self._runs.values() if not run.done and (at_once or run.retry_at <= now)]
        side_by_side(self._bring, due, self._threads)
        self._refresh_parents()

    def finish(self) -> None:
        """Leaves nothing RUNNING in MLflow: interrupted runs are KILLED there (and go on when resumed)."""
        self._open()
        self.record.flush()
        open_runs = [run for run in self._runs.values() if not run.done and run.status == "RUNNING"]
        side_by_side(self._interrupt, [run for run in open_runs if run.run_id is not None], self._threads)
        self._close_strangers()
        try:
            self._parents.finish(self._under_way())
        except Exception as error:
            raise OutageError(str(error)) from error
        self._name_champion()

    def pending(self) -> list[str]:
        """Names the runs of which MLflow lacks something that the event files have."""
        return [run.key.name for run in self._runs.values() if not run.done and self._lacks(run)]

    def _lacks(self, run: FollowedRun) -> bool:
        self._read(run)
        return bool(run.events) and not (run.written and run.logged is not None)

    def first_problem(self) -> str | None:
        """Returns why MLflow refused a run; None if it refused none."""
        return next((run.problem for run in self._runs.values() if run.problem), None)

    def number_of_runs(self) -> int:
        """Returns how many runs have begun."""
        return sum((run.folder / EVENTS_FILE).exists() for run in self._runs.values())

    def release(self) -> None:
        """Lets other processes write."""
        self.record.flush()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open(self) -> None:
        if self._lock is None:
            self.storage.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.storage.folder / TRACKING_LOCK_FILE).open("w")
            try:
                lock_file(lock)
            except OSError:
                lock.close()
                raise BusyError(f"another process writes study {self.storage.study} to MLflow") from None
            self._lock = lock
        if self._opened:
            return
        try:
            self._learn_what_is_there()
        except Exception as error:
            raise OutageError(str(error)) from error
        self._opened = True

    def _learn_what_is_there(self) -> None:
        """One look at the whole experiment, so that finished runs cost nothing more."""
        self.store.tag_experiment(
            {
                "study": self.storage.study,
                "spec_digest": spec_digest(self.storage),
                **experiment_tags(self._spec),
                **self._hypotheses,
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
            self._maybe_there.add(key)
            run = self._runs.get(key)
            if run is None or run.run_id is not None:
                continue
            if SYNCED in tags and found.info.status != "RUNNING":
                run.run_id, run.done, run.status = found.info.run_id, True, found.info.status
                run.logged = int(tags.get("last_event", 0))
                self._parents.ended(child_in_mlflow(key, found), before=True)
                self._remember(run)

    def _bring(self, run: FollowedRun) -> None:
        try:
            self._update(run)
            run.problem = None
        except Exception as error:
            self._after_failure(run, error)

    def _update(self, run: FollowedRun) -> None:
        self._read(run)
        events = run.events
        ending = bool(events) and events[-1].kind == "finished"  # the result comes after that
        if not events or (run.written and run.logged is not None and not ending):
            return
        result = result_of(run.folder)
        if not run.document:
            run.document = json.loads((run.folder / RUN_FILE).read_text())
        if run.run_id is None or run.logged is None:
            self._find_or_create(run, events[0])
        assert run.run_id is not None
        assert run.logged is not None
        if run.status != "RUNNING" and (events[-1].number > run.logged or result is None):
            self.store.set_status(run.run_id, "RUNNING")
            run.status = "RUNNING"
        for batch in batches(events, run.logged):
            self._write(run, batch)
        run.written = True
        if result is not None:
            moment = milliseconds(events[-1].time)
            tags = log_artifacts(self.store, run.run_id, run.folder, result, self._weights_limit)
            tags |= end_tags(run.key, run.document, result)
            run.status = mlflow_status(str(result["state"]))
            self.store.set_status(run.run_id, run.status, moment)
            # The mark comes last: a driver that is killed before it does all of this again.
            tags[SYNCED] = str(events[-1].number)
            assert run.models is not None
            corrected = run.models.of(corrections(events, result))
            run.models.finish()
            self.store.log(run.run_id, corrected, tags=tags)
            with self._guard:
                self._parents.ended(
                    Child(
                        run.key,
                        str(result["state"]),
                        str(run.document["method"]),
                        final_metrics(events, result),
                    )
                )
            run.models = None
            run.done, run.document, run.events, run.tail = True, {}, [], None
            self._count(runs=1)

    def _read(self, run: FollowedRun) -> None:
        """Takes in what is new in the event file."""
        run.tail = run.tail or EventTail(run.folder)
        new = run.tail.new()
        if not new:
            return
        again = run.events and new[0].number <= run.events[-1].number  # the file was made anew
        run.events = new if again else run.events + new
        run.written = False

    def _find_or_create(self, run: FollowedRun, first: Event) -> None:
        method = str(run.document["method"])
        with self._guard:
            parent = self._parents.ensure(run.key.phase, run.key.arm, method, milliseconds(first.time))
        # What was not there when all was looked at, and was not asked for since, need not be looked for.
        known = run.key in self._maybe_there
        found = self.store.one_run(self.record.study_id, run.key.name) if known else None
        self._maybe_there.add(run.key)
        if found is not None:
            run.run_id, run.status = found.info.run_id, found.info.status
            run.logged = int(found.data.tags.get("last_event", 0))
        else:
            launch = self.record.launch_at(first.time)
            tags = run_tags(run.key, run.document, self.storage.study, self.record.study_id, launch)
            tags["mlflow.parentRunId"] = parent
            name = f"{run.key.arm} {run.key.trial:04d} {run.key.subject} s{run.key.seed}"
            run.run_id = self.store.create_run(name, milliseconds(first.time), tags)
            run.status, run.logged = "RUNNING", 0
            self._count(created=1)
        self._remember(run)
        run.models = RunModels(self.store, run.run_id, run.key, run.document, fresh=found is None)
        if run.logged == 0:
            self._log_inputs(run.run_id, data_inputs(run.key, run.document))
            text = yaml.dump(run.document, sort_keys=False, Dumper=_Dumper)
            self.store.log_text(run.run_id, text, "config/run.yaml")

    def _log_inputs(self, run_id: str, inputs: Sequence[DataInput]) -> None:
        """Says which data sets a run has. One that is new is written by one thread: its second maker is refused."""
        new = {one.digest for one in inputs} - self._data_sets
        with self._guard if new else contextlib.nullcontext():
            self.store.optionally("data sets", lambda: self.store.log_inputs(run_id, inputs))
            self._data_sets |= new

    def _remember(self, run: FollowedRun) -> None:
        assert run.run_id is not None
        for keeper in self._ids:
            try:
                with self._guard:
                    keeper.set_mlflow_run_id(run.key, run.run_id)
            except Exception:  # a view of MLflow only: the next start finds the run by its tag
                continue

    def _write(self, run: FollowedRun, batch: Batch) -> None:
        assert run.run_id is not None
        for image in batch.images:
            prefix = f"{self.record.study_id}/{run.key.name}"
            log_image(self.store, run.run_id, run.folder, image, prefix)
        tags = {**batch.tags, "last_event": str(batch.last_event)}
        if batch.images:
            tags["mlflow.loggedImages"] = "True"
        params = None if run.logged else flat_params(run.document)
        assert run.models is not None
        self.store.log(run.run_id, run.models.of(batch.metrics), params, tags)
        events = batch.last_event - (run.logged or 0)
        self._count(events=events, metrics=len(batch.metrics), images=len(batch.images))
        run.logged = batch.last_event

    def _interrupt(self, run: FollowedRun) -> None:
        assert run.run_id is not None
        try:
            self.store.set_status(run.run_id, "KILLED", int(time.time() * 1000))
            run.status = "KILLED"
        except Exception as error:
            self._after_failure(run, error)

    def _close_strangers(self) -> None:
        """Closes runs of this study in MLflow that have no folder any more."""
        known = {run.run_id for run in self._runs.values()}
        try:
            for found in self.store.runs({"study_id": self.record.study_id, "kind": "run"}):
                if found.info.status == "RUNNING" and found.info.run_id not in known:
                    self.store.set_status(found.info.run_id, "KILLED", int(time.time() * 1000))
        except Exception as error:
            raise OutageError(str(error)) from error

    def _after_failure(self, run: FollowedRun, error: Exception) -> None:
        """Tells a store that is away (OutageError) from a run that it refuses; looks anew next time."""
        run.run_id, run.logged, run.written = None, None, False
        if is_missing(error):  # the store was emptied under our hands
            with self._guard:
                self.store.forget_experiment()
                self._parents.forget()
                self._data_sets.clear()
            return
        self._need_answer(error)
        run.problem = f"{type(error).__name__}: {brief(error)}"
        run.retry_at = time.monotonic() + RETRY_RUN_SECONDS

    def _count(self, **done: int) -> None:
        with self._guard:
            for name, number in done.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)

    def _refresh_parents(self) -> None:
        """Brings the summaries of arms up to date; what a store refuses now is written at the end."""
        try:
            self._parents.refresh()
        except Exception as error:
            if is_missing(error):  # deleted meanwhile: made anew with the next run
                self._parents.forget()
                return
            self._need_answer(error)

    def _name_champion(self) -> None:
        """Keeps the alias at the result that leads; a store that refuses it is left without."""
        held = [child for child in self._parents.children() if self._run_id(child.key) is not None]
        best = leading(held)
        if best is None:
            return
        folder, run_id = self._runs[best.key].folder, self._run_id(best.key)
        assert run_id is not None
        weights = weights_at_hand(folder, result_of(folder) or {}, self._weights_limit)
        command = self.storage.lasting_command("reproduce", best.key.name)
        try:
            name_champion(self.store, self.record.study_id, best, run_id, weights, command)
        except Exception as error:
            self._need_answer(error)

    def _run_id(self, key: RunKey) -> str | None:
        """The MLflow run of a run that is there whole."""
        run = self._runs.get(key)
        return run.run_id if run is not None and run.done else None

    def _need_answer(self, error: Exception) -> None:
        """Raises OutageError for an error that came of a store that is away."""
        try:
            self.store.ping()
        except Exception:
            raise OutageError(str(error)) from error

    def _under_way(self) -> list[RunKey]:
        """Runs that have not ended. Of those that have, and that MLflow refuses, their parents are told."""
        found = []
        for run in self._runs.values():
            if self._parents.knows(run.key):
                continue
            result = result_of(run.folder)
            if result is None:
                found.append(run.key)
            else:
                values = final_metrics(read_events(run.folder), result)
                self._parents.ended(Child(run.key, str(result["state"]), "", values))
        return found
