"""Nodes that fall silent and come back: a paused machine, or one that the network has parted from all others.

All processes of a node are stopped (SIGSTOP) and go on later (SIGCONT). Nothing of what they hold is let go of
meanwhile, except where the locks are taken away, as the server of a shared file system does with a silent client.
"""

from __future__ import annotations

import contextlib
import time

import psutil

from tests.faults.harness.driving import Driven, Hung
from tests.faults.harness.injectors.common import Recovered, nothing_dies, processes_of, runs_on, until
from tests.faults.harness.nodes import HEALTH_PATIENCE_SECONDS

LONGEST_SILENCE = 20.0  # seconds beyond Ray's patience
ENDED_SECONDS = 60.0  # within which a node that was given up must end when it wakes up


def node_paused(driven: Driven) -> Recovered:
    """A node is silent for less than Ray waits, and goes on as if nothing had been."""
    node = driven.rng.choice(driven.cluster.worker_nodes())
    silent = processes_of(node)
    lives = nothing_dies(driven, node, "a pause")
    _stop(silent)
    time.sleep(driven.rng.uniform(1.0, HEALTH_PATIENCE_SECONDS / 3))
    _go_on(silent)
    on = driven.goes_on()
    return lambda: lives() and on()


def node_frozen(driven: Driven) -> Recovered:
    """A node is silent for so long that its run is given to another, and then wakes up."""
    return _frozen(driven, locks_expire=False)


def node_lease_lost(driven: Driven) -> Recovered:
    """Likewise; meanwhile the locks that it held are gone, and another node is at work in the same folder."""
    return _frozen(driven, locks_expire=True)


def _frozen(driven: Driven, *, locks_expire: bool) -> Recovered:
    node = driven.rng.choice(driven.cluster.worker_nodes())
    silent = processes_of(node)
    runs = runs_on(driven, node)
    again = driven.is_tried_again(*runs)
    _stop(silent)
    try:
        until(lambda: not driven.cluster.is_alive(node), "Ray gives the silent node up")
        driven.cluster.add()
        if locks_expire:
            for folder in runs.values():
                for lock in ("lock", "worker.lock"):
                    (folder / lock).unlink(missing_ok=True)
            until(lambda: driven.finished or again(), "another node works on the run")
            time.sleep(driven.rng.uniform(0.0, 5.0))
        else:
            time.sleep(driven.rng.uniform(0.0, LONGEST_SILENCE))
    finally:
        # Its workers first: to them it is as if the network had been away for longer.
        raylets = [process for process in silent if _name(process).startswith("raylet")]
        _go_on([process for process in silent if process not in raylets])
        time.sleep(driven.rng.uniform(0.0, 3.0))
        _go_on(raylets)
    _, stubborn = psutil.wait_procs(silent, timeout=ENDED_SECONDS)
    driven.cluster.remove(node)
    if alive := [process for process in stubborn if process.is_running()]:
        raise Hung(f"{len(alive)} processes of a node live on that Ray had given up: {alive}")
    on = driven.goes_on()
    return lambda: again() and on()


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _stop(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.suspend()


def _go_on(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.resume()
