"""Time that jumps, and time that passes without a heartbeat."""

from __future__ import annotations

from tests.faults.harness.driving import Driven
from tests.faults.harness.injectors.common import Recovered, must_say
from tests.faults.harness.studies import run_folders


def clock_jump(driven: Driven) -> Recovered:
    """The wall clock of driver and workers jumps by an hour, there or back."""
    on = driven.goes_on()
    driven.tell("clock", str(driven.rng.choice([-3600.0, 3600.0, 0.0, -7200.0])))
    for name in run_folders(driven.storage):
        driven.allowed.setdefault(name, set()).add("clock")
    return on


def silence(driven: Driven) -> Recovered:
    """Workers fall silent: the watchdog ends the launch and says what it waited for."""
    before = driven.watchdog_minutes
    again = driven.is_tried_again(*driven.halfway())
    driven.kill_driver()
    driven.watchdog_minutes = 0.4
    try:
        if driven.wait_for(again, "going on before the silence"):
            driven.tell("silent", "")
            if driven.wait_for_driver() != 0:
                must_say(
                    driven,
                    1,
                    "no heartbeat for 0.4 minutes while waiting for",
                    "run the same command again",
                )
    finally:
        driven.untell("silent")
        driven.watchdog_minutes = before
    return driven.goes_on() if not driven.finished else lambda: True
