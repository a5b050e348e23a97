"""Hosts that the network parts: packets between them are lost without a word, for a moment or for long.

All hosts still see the study's folder: a worker that Ray has given up goes on training in it until it learns that.
"""

from __future__ import annotations

import time

from tests.faults.harness.driving import Driven, Hung
from tests.faults.harness.hosts import Host
from tests.faults.harness.injectors.common import Recovered, nothing_dies, runs_on, until
from tests.faults.harness.nodes import HEALTH_PATIENCE_SECONDS
from tests.faults.harness.studies import run_folders

LONGEST_PARTING = 20.0  # seconds beyond Ray's patience


def network_flaps(driven: Driven) -> Recovered:
    """A host is cut off several times, each time for less than Ray waits: nothing dies of that."""
    host = driven.rng.choice(driven.cluster.worker_nodes())
    lives = nothing_dies(driven, host, "a network that was away for a moment")
    for _ in range(driven.rng.randint(1, 4)):
        driven.cluster.unplug(host)
        time.sleep(driven.rng.uniform(0.2, HEALTH_PATIENCE_SECONDS / 4))
        driven.cluster.plug_in(host)
        time.sleep(driven.rng.uniform(0.5, 3.0))
    on = driven.goes_on()
    return lambda: lives() and on()


def host_cut_off(driven: Driven) -> Recovered:
    """A host is cut off until its run is another's, and comes back; its worker has trained on in the meantime."""
    host = driven.rng.choice(driven.cluster.worker_nodes())
    begun = {name: driven.begun(name) for name in runs_on(driven, host)}
    driven.cluster.unplug(host)
    until(lambda: not driven.cluster.is_alive(host), "Ray gives the host up")
    driven.cluster.add()
    time.sleep(driven.rng.uniform(0.0, LONGEST_PARTING))
    _come_back(driven, [host])
    folders = run_folders(driven.storage)
    on = driven.goes_on()
    return lambda: (
        all(
            driven.begun(name) > count or (folders[name] / "result.json").exists()
            for name, count in begun.items()
        )
        and on()
    )


def driver_cut_off(driven: Driven) -> Recovered:
    """The head's host, where the driver runs, is cut off until all others are given up, and comes back."""
    lost = driven.cluster.worker_nodes()
    driven.cluster.unplug(driven.cluster.head)
    time.sleep(HEALTH_PATIENCE_SECONDS + driven.rng.uniform(5.0, LONGEST_PARTING))
    driven.cluster.plug_in(driven.cluster.head)
    gone = [host for host in lost if not driven.cluster.is_alive(host)]
    _come_back(driven, gone)
    for _ in gone:
        driven.cluster.add()
    return driven.goes_on()


def _come_back(driven: Driven, given_up: list[Host]) -> None:
    """Connects hosts that were given up: their nodes hear of it and end, with all that they had started."""
    for host in given_up:
        driven.cluster.plug_in(host)
    try:
        until(
            lambda: not any(host.workers() for host in given_up),
            "a node that was given up ends",
        )
    except Hung as error:
        left = [process.name() for host in given_up for process in host.workers()]
        raise Hung(f"{error}: {left}") from None
    for host in given_up:
        driven.cluster.remove(host)
