"""Nodes that go; the driver has joined a cluster of several."""

from __future__ import annotations

import time

from benchmarks.fault_harness.driving import Driven
from benchmarks.fault_harness.injectors.common import Recovered
from benchmarks.fault_harness.studies import run_folders


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
    seconds = driven.rng.randint(2, 6)
    driven.cluster.drain(node, seconds)
    time.sleep(seconds)
    driven.cluster.remove(node)
    driven.cluster.add()
    return driven.goes_on()


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
