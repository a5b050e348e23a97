"""The driver of a study under test: ``study ...`` with the harness's runner, as ``python -m``."""

from __future__ import annotations

import functools
import os
import sys

from tests.faults.harness.runner import install_clock

WATCHDOG = "STUDY_FAULTS_WATCHDOG"  # minutes
MACHINE = "STUDY_FAULTS_MACHINE"  # whose driver this is, to other drivers of the same storage URL
LEASE_SECONDS, HEARTBEAT_SECONDS, LOOK_SECONDS = 12.0, 3.0, 0.5  # a tenth of what they are in a real study


def main() -> None:
    """Runs the command line; workers train through `tests.faults.harness.runner`."""
    install_clock()
    if os.environ.get(MACHINE):
        install_machine(os.environ[MACHINE])
    from study.driver import launch as execute

    workers = execute.Workers(
        runner="tests.faults.harness.runner:execute",
        watchdog_minutes=float(os.environ.get(WATCHDOG, execute.WATCHDOG_MINUTES)),
    )
    execute.launch = functools.partial(execute.launch, workers=workers)  # type: ignore[assignment]
    from study.cli.main import main as command_line

    command_line(sys.argv[1:])


def install_machine(name: str) -> None:
    """Makes this process a driver of another machine, which sees nothing of the processes of the one before."""
    from study.remote import lease

    lease._machine = lambda: name
    lease.EXPIRY_SECONDS, lease.HEARTBEAT_SECONDS, lease._LOOK_SECONDS = (
        LEASE_SECONDS, HEARTBEAT_SECONDS, LOOK_SECONDS
    )  # fmt: skip


if __name__ == "__main__":
    main()
