"""Runs that several workers train: one of them dies, or the driver in the middle of it."""

from __future__ import annotations

from typing import Any

import psutil

from tests.faults.harness.at_url import note_floors
from tests.faults.harness.driving import Driven, Hung
from tests.faults.harness.injectors.common import Recovered, kill, one_run, processes_of
from tests.faults.harness.injectors.nodes import drain
from tests.faults.harness.injectors.processes import worker_kill
from tests.faults.harness.injectors.store import machine_lost, store_error


def other_rank_kill(driven: Driven) -> Recovered:
    """SIGKILL of a worker that is not the first of its run."""
    name = one_run(driven)
    again = driven.is_tried_again(name)
    leader = driven.worker(name)
    others = [process.pid for process in _members(driven) if process.pid != leader]
    if not others and not again():
        raise Hung(f"{name} is trained by its first worker alone")
    for pid in others[:1]:
        kill(pid)
    return again


def leader_kill(driven: Driven) -> Recovered:
    """SIGKILL of the first worker of a run: it alone writes the run's folder."""
    return worker_kill(driven)


def worker_group_manager_kill(driven: Driven) -> Recovered:
    """SIGKILL of the actor that drives Ray Train for a run, and trains nothing itself."""
    again = driven.is_tried_again(*driven.halfway())
    for process in _named(driven, "ray::RunWorker"):
        kill(process.pid)
    return again


def worker_group_driver_kill(driven: Driven) -> Recovered:
    """SIGKILL of the driver; the same command again. None of the workers may stay."""
    again = driven.is_tried_again(*driven.halfway())
    members = _members(driven)
    driven.kill_driver()
    return lambda: again() and not any(_lives(member) for member in members)


def worker_group_node_drained(driven: Driven) -> Recovered:
    """A node with a worker of the run, not always the first, is announced to go (spot preemption), and goes."""
    name = one_run(driven)
    hosts = [node for node in driven.cluster.worker_nodes() if _hosts_a_member(node)]
    return drain(driven, driven.rng.choice(hosts), lambda: [name]) if hosts else driven.goes_on()


def worker_group_lost_at_url(driven: Driven) -> Recovered:
    """SIGKILL of all workers of a run whose records lie at a URL: what they had not copied there is gone."""
    again = driven.is_tried_again(*driven.halfway())
    note_floors(driven)
    for member in _members(driven):
        kill(member.pid)
    return again


def worker_group_machine_lost(driven: Driven) -> Recovered:
    """SIGKILL of everything in the middle of such a run, and the disk is gone: another machine goes on."""
    return machine_lost(driven)


def worker_group_store_error(driven: Driven) -> Recovered:
    """The store of such a run answers 500 or 503 for some seconds."""
    return store_error(driven)


def _members(driven: Driven) -> list[psutil.Process]:
    """The workers that train runs together."""
    return _named(driven, "RayTrainWorker")


def _hosts_a_member(node: Any) -> bool:
    return any("RayTrainWorker" in _command(process) for process in processes_of(node))


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _named(driven: Driven, name: str) -> list[psutil.Process]:
    driven.look()
    found = []
    for process in driven.family.values():
        if name in _command(process) and _lives(process):
            found.append(process)
    return found


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
