"""The parent run of each arm and phase in MLflow: what its runs share, and their summary at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from study.storage.layout import STUDY_FILE
from study.storage.run_key import END_WORDS, RunKey
from study.tracking.mlflow_store import Metric, MlflowStore
from study.tracking.params import flat_params
from trainables.evaluation.metrics_table import QUALITY


@dataclass(frozen=True)
class Child:
    """What a parent wants to know of one of its runs."""

    key: RunKey
    state: str
    evaluation: Mapping[str, Any]


class Parents:
    """Finds or makes parent runs; their key in MLflow is ``<phase>/<arm>``."""

    def __init__(self, store: MlflowStore, study_id: str, spec: Mapping[str, Any]) -> None:
        self._store = store
        self._study_id = study_id
        self._spec = spec
        self._ids: dict[tuple[str, str], str] = {}

    def forget(self) -> None:
        """Looks the parents up again at their next use."""
        self._ids.clear()

    def ensure(self, phase: str, arm: str, method: str, start_time: int) -> str:
        """Returns the id of a parent, which is RUNNING from now on; `start_time` in milliseconds."""
        if (phase, arm) not in self._ids:
            found = self._store.one_run(self._study_id, f"{phase}/{arm}")
            if found is None:
                run_id = self._create(phase, arm, method, start_time)
            else:
                run_id = found.info.run_id
                if found.info.status != "RUNNING":
                    self._store.set_status(run_id, "RUNNING")
            self._ids[phase, arm] = run_id
        return self._ids[phase, arm]

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
        shared = {name: self._spec.get(name) for name in (phase, "budget", "training", "evaluation")}
        fields = (self._spec.get("arms") or {}).get(arm)
        return flat_params({"arm": fields, **{name: value for name, value in shared.items() if value}})

    def finish(self, children: Iterable[Child]) -> None:
        """Writes each parent's summary and ends every parent.

        Parents with all runs ended are FINISHED, the others KILLED (resuming sets them RUNNING again).
        """
        groups: dict[tuple[str, str], list[Child]] = {}
        for child in children:
            groups.setdefault((child.key.phase, child.key.arm), []).append(child)
        now = int(time.time() * 1000)
        for found in list(self._store.runs({"study_id": self._study_id, "kind": "parent"})):
            tags = found.data.tags
            group = groups.get((tags["phase"], tags["arm"]), [])
            complete = [child for child in group if child.state == "COMPLETE"]
            metrics = [
                Metric(name, value, now, len(complete))
                for name, value in summary(group).items()
                if found.data.metrics.get(name) != value
            ]
            note = f"All {tags['phase']} runs of arm **{tags['arm']}** ({tags['method']}): "
            note += f"{len(complete)} of {len(group)} complete."
            changed = {} if tags.get("mlflow.note.content") == note else {"mlflow.note.content": note}
            self._store.log(found.info.run_id, metrics, tags=changed)
            status = "KILLED" if any(child.state == "RUNNING" for child in group) else "FINISHED"
            if found.info.status != status:
                self._store.set_status(found.info.run_id, status, now)
        self._ids.clear()


def summary(children: Iterable[Child]) -> dict[str, float]:
    """Counts of states, and over complete runs the mean and the best of quality."""
    group = list(children)
    qualities = [
        float(child.evaluation[QUALITY])
        for child in group
        if child.state == "COMPLETE" and child.evaluation.get(QUALITY) is not None
    ]
    found = {
        f"summary/n_{state.lower()}": float(sum(child.state == state for child in group))
        for state in END_WORDS
    }
    if qualities:
        found["summary/mean_quality"] = fmean(qualities)
        found["summary/best_quality"] = max(qualities)
    return found
