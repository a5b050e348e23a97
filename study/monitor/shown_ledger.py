"""A ledger as optuna-dashboard shows it: beside each trial its runs, the commands that concern them, and their samples.

Notes and artifacts are attributes in Optuna's storage. Here they are made up while the storage is read, from the trials
and the run folders, so that the ledger stays what its driver writes, pictures lie in one place alone, and ledgers that
were begun before show them, too.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.safe_paths import inside
from trainables.evaluation.grids import GRID_KEY
from trainables.events import read_events


@dataclass(frozen=True)
class _Grid:
    """A grid of samples: what the dashboard calls it, and its file."""

    artifact_id: str
    name: str
    path: Path


def _handed_on(name: str) -> Callable[..., Any]:
    def method(self: ShownLedger, *arguments: Any, **named: Any) -> Any:
        return getattr(self.ledger, name)(*arguments, **named)

    return method


def _refused(name: str) -> Callable[..., Any]:
    def method(self: ShownLedger, *_: Any, **__: Any) -> Any:
        raise PermissionError(f"{name}: the ledger is shown, not changed")

    return method


class ShownLedger(BaseStorage):
    """A storage of Optuna to look at. It is the artifact store of its grids, too (`open_reader`).

    Args:
        ledger: What is shown; it is never written to.
        storage: Of the study whose runs the trials have; other studies of the ledger are shown as they are.
    """

    def __init__(self, ledger: BaseStorage, storage: Storage) -> None:
        self.ledger = ledger
        self._runs_at = storage
        self._files: dict[str, Path] = {}  # by artifact
        self._grids_of: dict[str, list[_Grid]] = {}  # of runs that have ended
        self._guard = threading.Lock()

    get_study_id_from_name = _handed_on("get_study_id_from_name")
    get_study_name_from_id = _handed_on("get_study_name_from_id")
    get_study_directions = _handed_on("get_study_directions")
    get_study_user_attrs = _handed_on("get_study_user_attrs")

    create_new_study = _refused("create_new_study")
    delete_study = _refused("delete_study")
    set_study_user_attr = _refused("set_study_user_attr")
    set_study_system_attr = _refused("set_study_system_attr")
    create_new_trial = _refused("create_new_trial")
    set_trial_param = _refused("set_trial_param")
    set_trial_state_values = _refused("set_trial_state_values")
    set_trial_intermediate_value = _refused("set_trial_intermediate_value")
    set_trial_user_attr = _refused("set_trial_user_attr")
    set_trial_system_attr = _refused("set_trial_system_attr")

    def get_all_studies(self) -> list[Any]:
        """Returns the studies, with the notes of their trials."""
        found = []
        for study in self.ledger.get_all_studies():
            shown = copy.copy(study)
            shown.system_attrs = self.get_study_system_attrs(study._study_id)
            found.append(shown)
        return found

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Returns a study's attributes, among them a note for each trial that somebody has not written one for."""
        attributes = dict(self.ledger.get_study_system_attrs(study_id))
        for trial in self.ledger.get_all_trials(study_id, deepcopy=False):
            version = f"dashboard:{trial._trial_id}:note_ver"
            note = self._note(_runs(trial))
            if note and version not in attributes:
                attributes |= {version: 1, f"dashboard:{trial._trial_id}:note_str:0": note}
        return attributes

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Returns a trial with the grids of its runs."""
        return self._with_grids(self.ledger.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Iterable[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Returns the trials of a study with the grids of their runs."""
        found = self.ledger.get_all_trials(study_id, deepcopy, tuple(states) if states is not None else None)
        return [self._with_grids(trial) for trial in found]

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Opens a grid; raises ArtifactNotFound for another."""
        path = self._files.get(artifact_id)
        if path is None or not path.exists():
            raise ArtifactNotFound(artifact_id)
        return path.open("rb")

    write = _refused("write")
    remove = _refused("remove")

    def _with_grids(self, trial: FrozenTrial) -> FrozenTrial:
        shown = copy.copy(trial)
        added = {}
        for name, run in _runs(trial).items():
            for grid in self._grids(name, ended=run.get("state", "RUNNING") != "RUNNING"):
                about = {
                    "artifact_id": grid.artifact_id,
                    "filename": grid.name,
                    "mimetype": "image/png",
                    "encoding": None,
                }
                added[f"artifacts:{grid.artifact_id}"] = json.dumps(about)
        if added:
            shown.system_attrs = {**trial.system_attrs, **added}
        return shown

    def _grids(self, name: str, *, ended: bool) -> Sequence[_Grid]:
        """The grids of a run, the earliest evaluation first."""
        with self._guard:
            if name in self._grids_of:
                return self._grids_of[name]
        try:
            key = RunKey.parse(name)
        except ValueError:
            return []
        folder, found = self._runs_at.run_folder(key), []
        for event in read_events(folder):
            path = inside(folder, str(event.data.get("path"))) if event.kind == "image" else None
            if path is None or event.data.get("key") != GRID_KEY:
                continue
            identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{event.number}"))
            found.append(_Grid(identity, f"{key.subject} s{key.seed} step {event.step or 0:06d}.png", path))
        with self._guard:
            self._files |= {grid.artifact_id: grid.path for grid in found}
            if ended and found:
                self._grids_of[name] = found
        return found

    def _note(self, runs: Mapping[str, Mapping[str, Any]]) -> str:
        """Markdown on the runs of a trial; empty where it has none."""
        parts = []
        for name, run in runs.items():
            state = str(run.get("state", "RUNNING"))
            commands = [self._runs_at.lasting_command("logs", name)]
            if state == "COMPLETE":
                commands.insert(0, self._runs_at.lasting_command("reproduce", name))
            parts.append("\n".join([f"**{name}** {state}", "", "```", *commands, "```"]))
        return "\n\n".join(parts)


def _runs(trial: FrozenTrial) -> dict[str, dict[str, Any]]:
    """What a trial says of its runs; empty for a trial that is not of this program."""
    runs = trial.user_attrs.get("runs")
    return runs if isinstance(runs, dict) and all(isinstance(run, dict) for run in runs.values()) else {}
