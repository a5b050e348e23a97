"""What must hold of a study when all its faults are over: nothing lost, nothing doubled, nothing different."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study.cluster.ray_cluster import environment
from study.ledger.ledger import Ledger
from study.spec.launched import stored_spec
from study.storage.attempts import attempts, worker_failures
from study.storage.layout import Storage
from study.storage.run_result import read_result
from tests.faults.harness.at_url import brought_down
from tests.faults.harness.driving import Driven
from tests.faults.harness.studies import EVERY, end_marks, fingerprint, run_folders
from trainables.events import Event, read_events


@dataclass
class Findings:
    """What is wrong; empty if nothing is.

    Attributes:
        lost: Runs or trials that are missing, in a wrong state, or other than without faults.
        doubled: Those that are there twice, or were trained again although they had ended.
    """

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def check(driven: Driven, reference: dict[str, Any], ended: dict[str, str]) -> Findings:
    """Compares a finished study with the uninterrupted one; of a study at a URL, what is there and nowhere else.

    Args:
        reference: Fingerprint of every run of the study without faults.
        ended: `end_marks` that were seen while it ran: those runs must be untouched.
    """
    found, storage = Findings(), driven.storage
    if driven.url is not None:
        storage, found.lost, found.doubled = brought_down(driven)
    _check_folders(storage, reference, found)
    _check_ledger(driven, storage, reference, found)
    _check_mlflow(driven, storage, reference, found)
    now = end_marks(storage)
    for name, mark in ended.items():
        if now.get(name) != mark and "records" not in driven.allowed.get(name, ()):
            found.doubled.append(f"{name} had ended and was changed afterwards")
    for name, folder in run_folders(storage).items():
        _check_attempts(driven, name, folder, found)
        _check_devices(driven, name, folder, found)
        if driven.cluster is not None or driven.kind == "worker_group":
            _check_deaths(name, folder, found)
    return found


def _check_folders(storage: Storage, reference: dict[str, Any], found: Findings) -> None:
    folders = run_folders(storage)
    found.lost += [f"{name} has no folder" for name in reference.keys() - folders.keys()]
    found.doubled += [f"{name} should not be there" for name in folders.keys() - reference.keys()]
    for name in reference.keys() & folders.keys():
        here = json.loads(json.dumps(fingerprint(folders[name])))
        for what, value in reference[name].items():
            if here[what] != value:
                found.lost.append(f"{name}: {what} is {here[what]}, without faults it is {value}")


def _check_ledger(driven: Driven, storage: Storage, reference: dict[str, Any], found: Findings) -> None:
    spec = stored_spec(storage)
    with environment(driven.database.environment if driven.database is not None else {}):
        ledger = Ledger(driven.ledger_url or storage.ledger_url, spec.name)
    runs: Counter[str] = Counter()
    for arm in spec.arms:
        search, confirm = ledger.trials(arm), ledger.trials(arm, "confirm")
        numbers = [record.number for record in search]
        planned = spec.search.repeats * spec.trials_of(arm)
        if numbers != list(range(planned)):
            (found.doubled if len(numbers) > planned else found.lost).append(
                f"arm {arm} has the trials {numbers}"
            )
        places = Counter((record.subject, record.seed) for record in confirm)
        found.doubled += [
            f"arm {arm} confirms {place} {count} times" for place, count in places.items() if count > 1
        ]
        for record in (*search, *confirm):
            if record.state != "COMPLETE":
                found.lost.append(
                    f"{record.phase}/{arm}/{record.number} is {record.state} in the ledger ({record.reason})"
                )
            for name, run in record.runs.items():
                runs[name] += 1
                if run["state"] != "COMPLETE":
                    found.lost.append(f"{name} is {run['state']} in its trial")
    found.doubled += [f"{name} is {count} times in the ledger" for name, count in runs.items() if count > 1]
    found.lost += [f"{name} is not in the ledger" for name in reference.keys() - runs.keys()]


def _check_mlflow(driven: Driven, storage: Storage, reference: dict[str, Any], found: Findings) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(driven.tracking.uri if driven.tracking is not None else storage.tracking_uri)
    experiment = client.get_experiment_by_name(driven.name)
    if experiment is None:
        found.lost.append("MLflow has no experiment of the study")
        return
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    found.lost += [
        f"{run.info.run_name} is {run.info.status} in MLflow" for run in runs if run.info.status != "FINISHED"
    ]
    mine = [run for run in runs if run.data.tags.get("kind") == "run"]
    times = Counter(run.data.tags.get("run_key") for run in mine)
    found.doubled += [f"{name} is {count} times in MLflow" for name, count in times.items() if count > 1]
    found.lost += [f"{name} is not in MLflow" for name in reference.keys() - times.keys()]
    for run in mine:
        name = run.data.tags["run_key"]
        result = read_result(storage.folder / "runs" / name)
        quality = result.evaluation.get("subject_fidelity") if result else None
        if quality is not None and quality not in run.data.metrics.values():
            found.lost.append(f"{name}: its fidelity {quality} is not in MLflow")


def _check_attempts(driven: Driven, name: str, folder: Path, found: Findings) -> None:
    """No attempt began further back than the newest checkpoint before it; what was lost is stated."""
    events = read_events(folder)
    allowed = driven.allowed.get(name, set())
    numbers = [event.number for event in events]
    whole = numbers == list(range(1, len(events) + 1))
    if not whole and not ("records" in allowed and numbers == sorted(set(numbers))):
        found.doubled.append(f"{name}: its events are numbered {numbers}")
    if sum(event.kind == "finished" for event in events) != 1:
        found.doubled.append(f"{name} has not exactly one end")
    kept = step = 0
    lost_steps = False
    for event in events:
        if event.kind == "checkpoint":
            kept = event.step or 0
        if event.kind == "progress":
            step = event.step or 0
        if event.kind == "started" and event.data["attempt"] > 1:
            resumed = event.data["resumed_step"]
            least = _floor(driven, name, event) if driven.url is not None else kept
            back = EVERY if "checkpoint" in allowed and driven.url is None else 0
            if resumed < least - back:
                found.lost.append(f"{name} went on at step {resumed}, although its checkpoint was at {least}")
            lost_steps |= step > resumed
            step = resumed
    result = read_result(folder)
    cost = (result.cost.get("lost_seconds") if result else None) or 0.0
    if cost < 0 or (lost_steps and cost <= 0 and not {"clock", "records"} & allowed):
        found.lost.append(f"{name} lost steps, but its cost states {cost} lost seconds")


def _floor(driven: Driven, name: str, started: Event) -> int:
    """The newest checkpoint that was seen whole at the URL before an attempt began."""
    return max((step for events, step in driven.floors.get(name, ()) if events < started.number), default=0)


def _check_devices(driven: Driven, name: str, folder: Path, found: Findings) -> None:
    """Every attempt had all workers of its run, and the time of all their devices is in the cost."""
    started = [event.data for event in read_events(folder) if event.kind == "started"]
    result = read_result(folder)
    if result is None or not result.cost.get("train_seconds"):
        return
    if any(attempt["num_workers"] != driven.num_workers for attempt in started):
        found.lost.append(f"{name} had an attempt without all of its {driven.num_workers} workers")
    threads = json.loads((folder / "run.json").read_text())["cpu_threads"]
    expected = result.cost["train_seconds"] * driven.num_workers * threads
    if not math.isclose(result.cost["device_seconds"], expected, rel_tol=1e-6):
        found.lost.append(f"{name} states {result.cost['device_seconds']} device seconds, not {expected}")


def _check_deaths(name: str, folder: Path, found: Findings) -> None:
    """Of an attempt that another of the same launch followed it is known what it died of."""
    begun = attempts(folder)
    noted = {death["attempt"] for death in worker_failures(folder)}
    for number, (one, next_one) in enumerate(itertools.pairwise(begun), start=1):
        if one["driver_id"] == next_one["driver_id"] and number not in noted:
            found.lost.append(f"{name}: nobody noted what attempt {number} died of")
