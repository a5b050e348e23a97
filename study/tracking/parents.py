"""The parent run of each arm and phase in MLflow: what its runs share, and what they come to so far."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from study.storage.layout import STUDY_FILE
from study.storage.run_key import DOWNSTREAM, DOWNSTREAM_PHASES, RunKey
from study.tracking.arm_summary import (
    Child,
    classifier_summary,
    estimate_metrics,
    estimate_words,
    estimates,
    summary,
)
from study.tracking.mlflow_store import Metric, MlflowStore
from study.tracking.params import flat_params

if TYPE_CHECKING:
    from mlflow.entities import Run

REFRESH_SECONDS = 10.0  # a parent whose runs end in quick succession is not written for each of them

Group = tuple[str, str]  # phase and arm


class Parents:
    """Finds or makes parent runs, whose key in MLflow is ``<phase>/<arm>``, and keeps their summaries.

    `ensure` and `ended` may be called from several threads that share a lock.
    """

    def __init__(self, store: MlflowStore, study_id: str, spec: Mapping[str, Any]) -> None:
        self._store = store
        self._study_id = study_id
        self._spec = spec
        self._ids: dict[Group, str] = {}
        self._methods: dict[Group, str] = {}
        self._children: dict[Group, dict[RunKey, Child]] = {}
        self._changed: set[Group] = set()  # a run has ended since the parent was written
        self._written: dict[Group, float] = {}  # monotonic time
        self._held: dict[Group, dict[str, float]] = {}  # what MLflow has of a parent's summary

    def forget(self) -> None:
        """Looks the parents up again at their next use."""
        self._ids.clear()
        self._held.clear()

    def ensure(self, phase: str, arm: str, method: str, start_time: int) -> str:
        """Returns the id of a parent, which is RUNNING from now on; `start_time` in milliseconds."""
        group = (phase, arm)
        if group not in self._ids:
            found = self._store.one_run(self._study_id, f"{phase}/{arm}")
            if found is None:
                run_id = self._create(phase, arm, method, start_time)
            else:
                run_id = found.info.run_id
                if found.info.status != "RUNNING":
                    self._store.set_status(run_id, "RUNNING")
            self._ids[group], self._methods[group] = run_id, method
            self._held[group] = dict(found.data.metrics) if found is not None else {}
        return self._ids[group]

    def ended(self, child: Child, *, before: bool = False) -> None:
        """Takes a run that has ended.

        Args:
            before: Whether its parent has been written with it: by an earlier launch.
        """
        group = (str(child.key.phase), child.key.arm)
        self._children.setdefault(group, {})[child.key] = child
        if not before:
            self._changed.add(group)

    def knows(self, key: RunKey) -> bool:
        """Whether a run is known to have ended."""
        return key in self._children.get((str(key.phase), key.arm), {})

    def children(self) -> list[Child]:
        """Returns all runs that are known to have ended."""
        return [child for group in self._children.values() for child in group.values()]

    def refresh(self) -> None:
        """Writes the parents of which a run has ended, each at most every `REFRESH_SECONDS`."""
        now = time.monotonic()
        for group in sorted(self._changed & self._ids.keys()):
            if now - self._written.get(group, -math.inf) < REFRESH_SECONDS:
                continue
            metrics, _ = self._comes_to(group, self._methods[group])
            self._log(group, self._ids[group], metrics, {})
            self._changed.discard(group)
            self._written[group] = now

    def _create(self, phase: str, arm: str, method: str, start_time: int) -> str:
        tags = {
            "kind": "parent",
            "study": self._store.study,
            "study_id": self._study_id,
            "run_key": f"{phase}/{arm}",
            "arm": arm,
            "method": method,
            "phase": phase,
            "mlflow.note.content": f"All {phase} runs of arm **{arm}** ({method}).",
        }
        run_id = self._store.create_run(f"{arm} ({phase})", start_time, tags)
        self._store.log(run_id, params=self._params(phase, arm))
        if self._spec:
            self._store.log_text(run_id, json.dumps(self._spec, indent=1), STUDY_FILE)
        return run_id

    def _params(self, phase: str, arm: str) -> dict[str, str]:
        if phase in DOWNSTREAM_PHASES:
            return flat_params({DOWNSTREAM: self._spec.get(DOWNSTREAM) or {}})
        shared = {name: self._spec.get(name) for name in (phase, "budget", "training", "evaluation")}
        fields = (self._spec.get("arms") or {}).get(arm)
        return flat_params({"arm": fields, **{name: value for name, value in shared.items() if value}})

    def finish(self, under_way: Iterable[RunKey]) -> None:
        """Writes each parent's summary and ends every parent.

        Parents with all runs ended are FINISHED, the others KILLED (resuming sets them RUNNING again).

        Args:
            under_way: Runs that have begun and not ended.
        """
        open_runs: dict[Group, int] = {}
        for key in under_way:
            group = (str(key.phase), key.arm)
            open_runs[group] = open_runs.get(group, 0) + 1
        for found in list(self._store.runs({"study_id": self._study_id, "kind": "parent"})):
            group = (found.data.tags["phase"], found.data.tags["arm"])
            self._finish_one(group, found, open_runs.get(group, 0))
        self._ids.clear()
        self._changed.clear()

    def _finish_one(self, group: Group, found: Run, open_runs: int) -> None:
        phase, arm = group
        tags, run_id = found.data.tags, found.info.run_id
        self._held[group] = dict(found.data.metrics)
        metrics, words = self._comes_to(group, tags["method"])
        children = self._children.get(group, {})
        complete = sum(child.state == "COMPLETE" for child in children.values())
        note = f"All {phase} runs of arm **{arm}** ({tags['method']}): "
        note += f"{complete} of {len(children) + open_runs} complete."
        note += f"\n\n{words}." if words else ""
        changed = {} if tags.get("mlflow.note.content") == note else {"mlflow.note.content": note}
        self._log(group, run_id, metrics, changed)
        status = "KILLED" if open_runs else "FINISHED"
        if found.info.status != status:
            self._store.set_status(run_id, status, int(time.time() * 1000))

    def _comes_to(self, group: Group, method: str) -> tuple[dict[str, float], str]:
        """The metrics of a parent, and what is said of its quality."""
        phase, _ = group
        children = list(self._children.get(group, {}).values())
        found = estimates(children, method) if phase == "confirm" else {}
        if phase in DOWNSTREAM_PHASES:
            return classifier_summary(children)
        return {**summary(children), **estimate_metrics(found)}, estimate_words(found)

    def _log(self, group: Group, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Writes what has changed; the step of a point is the number of complete runs behind it."""
        held, now = self._held.setdefault(group, {}), int(time.time() * 1000)
        step = round(metrics["summary/n_complete"])
        points = [
            Metric(name, value, now, step) for name, value in metrics.items() if held.get(name) != value
        ]
        self._store.log(run_id, points, tags=tags)
        held.update(metrics)
