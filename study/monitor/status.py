"""`study status`: everything that a user wants to know of a study now, from its folder alone.

Needs no Ray, no MLflow and no ledger server, so that it works while the driver runs, from any machine that sees the
storage, and after the driver died: then nothing is running, whatever the records say.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from study.monitor.eta import Eta, Rate, eta, recent_rate
from study.monitor.run_status import UNDER_WAY, WALL, RunPhase, RunStatus
from study.spec.downstream_plan import downstream_plan
from study.storage.driver_record import Driver, lock_is_held, read_driver
from study.storage.layout import Storage
from study.storage.run_key import END_WORDS, RunKey
from study.storage.run_names import begun_runs
from study.tracking.mlflow_store import tracking_command
from study.tracking.progress import read_state
from trainables.events import RESULT_FILE

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

ARMS_COLUMNS = (
    "arm", "phase", "planned", "complete", "running", "pruned", "failed", "best_quality", "interrupted", "pending",
    "mean_quality",
)  # fmt: skip
NODES_COLUMNS = ("node", "alive", "running", "ended", "lost", "last_sign", "cpus", "gpus")
RUNNING_COLUMNS = (
    "run", "state", "node", "attempt", "doing", "step", "steps", "percent", "steps_per_second", "last_sign",
)  # fmt: skip
RUNS_COLUMNS = ("run", "state", "node", "attempts", "best_step", "reason", "last_sign")
FAILED_COLUMNS = ("run", "node", "attempt", "reason", "message")
SILENT_TRACKER_SECONDS = 90.0


@dataclass(frozen=True)
class StudyStatus:
    """A study at one moment; plain values throughout, ready for JSON. Ages and durations are seconds.

    Attributes:
        at: When it was looked at, seconds since the epoch.
        driver: state (alive, ended, dead, none), host, pid, since, silent (age of the last heartbeat), how, limit.
        queue: Runs: planned, complete, pruned, failed, running, pending (in Ray), interrupted, waiting.
        cost: Device-seconds of ended runs: train, evaluation, preparation, lost; and of those under_way.
        mlflow: state (up_to_date, behind, silent, none), behind, problem, remedy.
        arms: A row per arm and phase: of a search the best run's quality (`best_quality`: too good, being the best of
            many), of confirm runs the mean of those that are complete, over subjects (`mean_quality`).
        nodes, running, failed: A row each (the COLUMNS of this module).
    """

    study: str
    at: float
    driver: dict[str, Any]
    queue: dict[str, int]
    rate: Rate
    left: Eta
    cost: dict[str, float]
    mlflow: dict[str, Any]
    arms: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    running: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)


class StatusReader:
    """Looks at a study as often as it is asked; remembers the runs that have ended."""

    def __init__(self, storage: Storage, spec: StudySpec) -> None:
        self._storage, self._spec = storage, spec
        self._runs: dict[RunKey, RunStatus] = {}

    @property
    def known(self) -> Mapping[RunKey, RunStatus]:
        """The runs that had begun at the last look."""
        return self._runs

    def ended(self) -> set[RunKey]:
        """Returns the runs that have ended by now; their folders are not looked into."""
        storage = self._storage
        return {key for key in begun_runs(storage) if (storage.run_folder(key) / RESULT_FILE).exists()}

    def look(self) -> StudyStatus:
        """Returns the study as it is now."""
        now = time.time()
        driver = read_driver(self._storage)
        life = driver.life(self._storage) if driver is not None else "none"
        if life in ("none", "dead") and lock_is_held(self._storage):
            life = "alive"
        alive = life == "alive"
        runs = self._refreshed()
        states = states_of(runs, driver if alive else None)
        counts = Counter(states.values())
        planned = self._planned()
        over = life == "ended" and driver is not None and driver.how == "finished"
        begun: Counter[tuple[str, str]] = Counter((key.arm, key.phase) for key in states)
        waiting = {} if over else {place: max(0, count - begun[place]) for place, count in planned.items()}
        names = _node_names([*runs.values()], driver if alive else None)
        since = driver.since if driver is not None else None
        rate = recent_rate([run for run in runs.values() if run.result is not None], now, since, alive=alive)
        return StudyStatus(
            study=self._storage.study,
            at=now,
            driver=_driver(driver, life, now),
            queue={
                "planned": sum(planned.values()),
                **{state: counts[state] for state in (*END_WORDS.values(), *UNDER_WAY)},
                "waiting": sum(waiting.values()),
            },
            rate=rate,
            left=eta(states, runs, waiting, alive=alive),
            cost=self._cost(runs),
            mlflow=self._mlflow(runs, now, alive=alive),
            arms=_arms(planned, states, runs),
            nodes=_nodes(runs, states, names, driver if alive else None, now),
            running=_running(states, runs, names, now),
            failed=_failed(runs, names),
        )

    def runs(self) -> list[dict[str, Any]]:
        """Returns a row per run that has begun (`RUNS_COLUMNS`): failed ones first, then those that are not over."""
        driver = read_driver(self._storage)
        alive = driver is not None and driver.life(self._storage) == "alive"
        runs, now = self._refreshed(), time.time()
        names = _node_names([*runs.values()], driver if alive else None)
        order = ("failed", "interrupted", "running", "pending", "pruned", "complete")
        found = sorted(
            (order.index(state), key)
            for key, state in states_of(runs, driver if alive else None).items()
            if key in runs
        )
        return [
            {
                "run": key.name,
                "state": order[position],
                "node": _named(runs[key].latest, names) if runs[key].begun else None,
                "attempts": len(runs[key].begun),
                "best_step": runs[key].best_step,
                "reason": result.reason if (result := runs[key].result) is not None else None,
                "last_sign": now - sign if (sign := runs[key].last_sign) is not None else None,
            }
            for position, key in found
        ]

    def _refreshed(self) -> dict[RunKey, RunStatus]:
        for key in begun_runs(self._storage):
            self._runs.setdefault(key, RunStatus(key, self._storage.run_folder(key)))
        for run in self._runs.values():
            run.refresh()
        return self._runs

    def _planned(self) -> dict[tuple[str, str], int]:
        counts = {}
        for arm in self._spec.arms:
            counts[arm, "search"] = self._spec.search_runs_of(arm)
            counts[arm, "confirm"] = len(self._spec.confirm_keys(arm, 0))
        downstream = downstream_plan(self._spec)
        known: dict[tuple[str, str], int] = {place: count for place, count in counts.items() if count}
        return known if downstream is None else {**known, **downstream.planned()}

    def _cost(self, runs: Mapping[RunKey, RunStatus]) -> dict[str, float]:
        resources = self._spec.resources
        held = float((resources.worker_gpus or resources.worker_cpus) * resources.num_workers)
        cost = dict.fromkeys(("train", "evaluation", "preparation", "lost", "under_way"), 0.0)
        for run in runs.values():
            if run.result is None:
                cost["under_way"] += held * run.active_seconds
                continue
            spent = {
                name: run.result.value(name) or 0.0 for name in (*WALL, "lost_seconds", "device_seconds")
            }
            both = spent["train_seconds"] and spent["device_seconds"]
            devices = spent["device_seconds"] / spent["train_seconds"] if both else held
            cost["train"] += devices * spent["train_seconds"]
            cost["evaluation"] += devices * (spent["evaluation_seconds"] + spent["selection_seconds"])
            other = ("preparation_seconds", "startup_seconds", "saving_seconds")
            cost["preparation"] += devices * sum(spent[name] for name in other)
            # A run whose worker died for good has no cost of its own: all the time that it held was lost.
            bare = run.result.state == "FAIL" and not any(spent[name] for name in WALL)
            cost["lost"] += devices * (run.active_seconds if bare else spent["lost_seconds"])
        return cost

    def _mlflow(self, runs: Mapping[RunKey, RunStatus], now: float, *, alive: bool) -> dict[str, Any]:
        state = read_state(self._storage)
        remedy = None if alive else self._storage.command("sync")
        if state is None:
            later = len(runs)
            return {"state": "none", "behind": later, "problem": None, "remedy": remedy if later else None}
        if remedy is not None:
            remedy = tracking_command(
                "sync", self._storage, state.uri
            )  # to the store that the launch wrote to
        newer = sum(1 for run in runs.values() if (run.last_sign or 0.0) > state.time + 1.0)
        behind = max(state.behind, newer) if state.problem or not alive else 0
        if state.problem is not None or behind:
            return {"state": "behind", "behind": behind, "problem": state.problem, "remedy": remedy}
        silent = alive and now - state.time > SILENT_TRACKER_SECONDS
        return {"state": "silent" if silent else "up_to_date", "behind": 0, "problem": None, "remedy": None}


def states_of(runs: Mapping[RunKey, RunStatus], driver: Driver | None) -> dict[RunKey, RunPhase]:
    """Says of each run that has begun or was given out where it stands; `driver` is one that is alive, or None."""
    given = set(driver.live) if driver is not None else set()
    found: dict[RunKey, RunPhase] = {}
    for key, run in runs.items():
        mine = (
            driver is not None
            and driver.driver_id is not None
            and run.latest.get("driver_id") == driver.driver_id
        )
        if run.result is not None:
            found[key] = END_WORDS[run.result.state]
        elif mine and key.name not in (driver.pending if driver is not None else ()):
            found[key] = "running"
        elif key.name in given:
            found[key] = "pending"
        else:
            found[key] = "interrupted"
    for name in given:
        try:
            found.setdefault(RunKey.parse(name), "pending")
        except ValueError:
            continue
    return found


def _driver(driver: Driver | None, life: str, now: float) -> dict[str, Any]:
    facts = ("host", "pid", "since", "ended", "how", "limit")
    told = {name: getattr(driver, name) for name in facts} if driver is not None else dict.fromkeys(facts)
    silent = max(0.0, now - driver.beat) if driver is not None else None
    return {"state": life, **told, "silent": silent}


def _arms(
    planned: Mapping[tuple[str, str], int],
    states: Mapping[RunKey, RunPhase],
    runs: Mapping[RunKey, RunStatus],
) -> list[dict[str, Any]]:
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    best: dict[str, float] = {}
    confirmed: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for key, state in states.items():
        counts[key.arm, key.phase][state] += 1
        quality = runs[key].quality if key in runs else None
        if quality is not None and key.phase == "search":
            best[key.arm] = max(quality, best.get(key.arm, quality))
        elif quality is not None and key.phase == "confirm" and state == "complete":
            confirmed[key.arm][key.subject].append(quality)
    order = list(planned) + sorted(set(counts) - set(planned))
    table = []
    for arm, phase in order:
        mine = counts[arm, phase]
        row: dict[str, Any] = {"arm": arm, "phase": phase, "planned": planned.get((arm, phase), 0)}
        row |= {state: mine[state] for state in (*END_WORDS.values(), *UNDER_WAY)}
        row["best_quality"] = best.get(arm) if phase == "search" else None
        row["mean_quality"] = _mean_over_subjects(confirmed[arm]) if phase == "confirm" else None
        table.append(row)
    return [{column: row[column] for column in ARMS_COLUMNS} for row in table]


def _mean_over_subjects(values: Mapping[str, Sequence[float]]) -> float | None:
    """Mean of the means of each subject, as in the report; None without any value."""
    return fmean(map(fmean, values.values())) if values else None


def _node_names(runs: Iterable[RunStatus], driver: Driver | None) -> dict[tuple[str, str], str]:
    """Names nodes by their host, and by Ray's id as well where one host had several at a time.

    Ray gives a host a new id whenever it joins: for launches on one machine that says nothing.
    """
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    machines = set()
    for run in runs:
        for attempt in run.begun:
            host, node = str(attempt.get("host") or ""), str(attempt.get("node") or "")
            seen[host][str(attempt.get("driver_id"))].add(node)
            machines.add((host, node))
    # Two Ray nodes at one address, of which one may not have worked yet.
    alive = driver.nodes if driver is not None else ()
    addresses = Counter(str(node.get("name")).partition("/")[0] for node in alive)
    names = {}
    for host, node in machines:
        address, _, short = node.partition("/")
        several = any(len(nodes) > 1 for nodes in seen[host].values()) or addresses[address] > 1
        names[host, node] = f"{host}/{short}" if several and short else host or address or "unknown"
    return names


def _named(attempt: Mapping[str, Any], names: Mapping[tuple[str, str], str]) -> str | None:
    return names.get((str(attempt.get("host") or ""), str(attempt.get("node") or "")))


def _nodes(
    runs: Mapping[RunKey, RunStatus],
    states: Mapping[RunKey, RunPhase],
    names: Mapping[tuple[str, str], str],
    driver: Driver | None,
    now: float,
) -> list[dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}

    def row(name: str) -> dict[str, Any]:
        empty = dict.fromkeys(NODES_COLUMNS) | {"node": name, "running": 0, "ended": 0, "lost": 0}
        return table.setdefault(name, empty)

    for key, run in runs.items():
        for attempt in run.begun:
            mine, last = row(str(_named(attempt, names))), attempt is run.latest
            moment = (
                run.last_sign if last and run.last_sign is not None else float(attempt.get("time") or 0.0)
            )
            age = max(0.0, now - moment)
            mine["last_sign"] = age if mine["last_sign"] is None else min(age, mine["last_sign"])
            mine["running"] += last and states[key] == "running"
            mine["ended"] += last and run.result is not None
            mine["lost"] += not last
    by_ray = {node: name for (_, node), name in names.items() if node}
    for node in driver.nodes if driver is not None else ():
        mine = row(by_ray.get(str(node.get("name"))) or _host_of(str(node.get("name")), names, driver))
        mine |= {"alive": True, "cpus": node.get("cpus"), "gpus": node.get("gpus")}
    for mine in table.values():
        mine["alive"] = bool(mine["alive"]) if driver is not None and driver.nodes else None
    return sorted(table.values(), key=lambda row: (not row["alive"], -row["running"], row["node"]))


def _host_of(node: str, names: Mapping[tuple[str, str], str], driver: Driver | None) -> str:
    """The host of a Ray node on which nothing has run yet: one known by its address, or the driver's own."""
    address = node.partition("/")[0]
    there = [str(other.get("name")).partition("/")[0] for other in driver.nodes] if driver is not None else []
    if there.count(address) > 1:
        return node
    hosts = {host for host, worked in names if host and worked.partition("/")[0] == address}
    if address.startswith("127.") and driver is not None:
        return driver.host
    return hosts.pop() if len(hosts) == 1 else node


def _running(
    states: Mapping[RunKey, RunPhase],
    runs: Mapping[RunKey, RunStatus],
    names: Mapping[tuple[str, str], str],
    now: float,
) -> list[dict[str, Any]]:
    table = []
    mine = [(UNDER_WAY.index(state), key) for key, state in states.items() if state in UNDER_WAY]
    for position, key in sorted(mine):
        state = UNDER_WAY[position]
        run = runs.get(key) or RunStatus(key, Path())
        moving = state == "running"
        table.append(
            {
                "run": key.name,
                "state": state,
                "node": _named(run.latest, names) if run.begun else None,
                "attempt": len(run.begun) or None,
                "doing": run.doing if moving else None,
                "step": run.step if run.begun else None,
                "steps": run.steps,
                "percent": None if run.share is None else round(100 * run.share, 1),
                "steps_per_second": run.steps_per_second if moving else None,
                "last_sign": None if run.last_sign is None else max(0.0, now - run.last_sign),
            }
        )
    return table


def _failed(runs: Mapping[RunKey, RunStatus], names: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
    return [
        {
            "run": key.name,
            "node": _named(run.latest, names) if run.begun else None,
            "attempt": max(len(run.begun), 1),
            "reason": run.result.reason,
            "message": run.result.message,
        }
        for key, run in sorted(runs.items())
        if run.result is not None and run.result.state == "FAIL"
    ]
