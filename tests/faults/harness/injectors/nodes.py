"""Nodes that go; the driver has joined a cluster of several."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from study.storage.attempts import worker_failures
from tests.faults.harness.driving import Driven, Hung
from tests.faults.harness.injectors.common import Recovered, runs_on
from tests.faults.harness.studies import run_folders


def node_lost(driven: Driven) -> Recovered:
    """A node goes without grace; another comes some seconds later."""
    again = driven.is_tried_again(*driven.halfway())
    node = driven.rng.choice(driven.cluster.worker_nodes())
    driven.cluster.remove(node)
    time.sleep(driven.rng.uniform(0.0, 5.0))
    driven.cluster.add()
    return _or_goes_on(driven, again)


def node_drained(driven: Driven) -> Recovered:
    """A node is announced to go (spot preemption) and goes at its deadline; another comes."""
    node = driven.rng.choice(driven.cluster.worker_nodes())
    return drain(driven, node, lambda: list(runs_on(driven, node)))


def drain(driven: Driven, node: Any, hit_by: Callable[[], list[str]]) -> Recovered:
    """Announces that a node will go and takes it away in the end; the runs that this hits are asked for then."""
    seconds = driven.rng.randint(2, 6)
    driven.cluster.drain(node, seconds)
    time.sleep(seconds)
    hit = {name: driven.begun(name) for name in hit_by()}
    driven.cluster.remove(node)
    driven.cluster.add()
    on = driven.goes_on()
    return lambda: all(_was_excused(driven, name, number) for name, number in hit.items()) and on()


def _was_excused(driven: Driven, name: str, number: int) -> bool:
    """Whether an attempt that a drained node took away is noted as that, or had been the run's last."""
    folder = run_folders(driven.storage)[name]
    said = [death["reason"] for death in worker_failures(folder) if death["attempt"] == number]
    if said and said != ["preempted"]:
        raise Hung(f"attempt {number} at {name} died with a drained node and was noted as {said}")
    return bool(said) or ((folder / "result.json").exists() and driven.begun(name) == number)


def _or_goes_on(driven: Driven, again: Recovered) -> Recovered:
    """Only the runs of the lost node are tried again."""
    before = sum(driven.attempts(name) for name in run_folders(driven.storage))
    on = driven.goes_on()
    end = time.monotonic() + 20.0
    return lambda: (
        again()
        or (
            on()
            and (sum(map(driven.attempts, run_folders(driven.storage))) > before or time.monotonic() > end)
        )
    )
