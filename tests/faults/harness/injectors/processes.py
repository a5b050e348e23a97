"""Processes that are killed, and signals that ask the driver to end."""

from __future__ import annotations

import signal
import time

from tests.faults.harness.driving import PATIENCE, Driven, Hung
from tests.faults.harness.injectors.common import Recovered, kill, must_say, one_run


def worker_kill(driven: Driven) -> Recovered:
    """SIGKILL of a run's worker."""
    name = one_run(driven)
    again = driven.is_tried_again(name)
    kill(driven.worker(name))
    return again


def all_workers_kill(driven: Driven) -> Recovered:
    """SIGKILL of all workers at once."""
    names = driven.halfway()
    again = driven.is_tried_again(*names)
    for name in names:
        kill(driven.worker(name))
    return again


def raylet_kill(driven: Driven) -> Recovered:
    """SIGKILL of the raylet."""
    again = driven.is_tried_again(*driven.halfway())
    for process in driven.children("raylet"):
        kill(process.pid)
    return again


def gcs_kill(driven: Driven) -> Recovered:
    """SIGKILL of Ray's control service."""
    again = driven.is_tried_again(*driven.halfway())
    for process in driven.children("gcs_server"):
        kill(process.pid)
    return again


def driver_kill(driven: Driven) -> Recovered:
    """SIGKILL of the driver; the same command again."""
    again = driven.is_tried_again(*driven.halfway())
    driven.kill_driver()
    return again


def group_kill(driven: Driven) -> Recovered:
    """SIGKILL of the driver and of everything that it started."""
    again = driven.is_tried_again(*driven.halfway())
    driven.kill_everything()
    return again


def sigint(driven: Driven) -> Recovered:
    """SIGINT: the launch ends in order and says how to go on."""
    return _graceful(driven, signal.SIGINT)


def sigterm(driven: Driven) -> Recovered:
    """SIGTERM: likewise."""
    return _graceful(driven, signal.SIGTERM)


def second_signal(driven: Driven) -> Recovered:
    """A second signal a moment after the first ends the launch at once."""
    assert driven.process is not None
    again = driven.is_tried_again(*driven.halfway())
    driven.process.send_signal(signal.SIGTERM)
    time.sleep(driven.rng.uniform(0.05, 1.0))
    driven.process.send_signal(signal.SIGTERM)
    code = driven.wait_for_driver(60.0)
    if code not in (0, 1, 130) or "Traceback" in driven.said():
        raise Hung(f"ended with {code} after a second signal: {driven.said()[-600:]}")
    return again


def _graceful(driven: Driven, number: signal.Signals) -> Recovered:
    assert driven.process is not None
    again = driven.is_tried_again(*driven.halfway())
    driven.process.send_signal(number)
    code = driven.wait_for_driver(PATIENCE)
    if code == 0:  # it came after the last run
        return again
    must_say(driven, 130, "run the same command again")
    return again
