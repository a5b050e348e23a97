"""The driver of a study under test: ``study ...`` with the harness's runner, as ``python -m``."""

from __future__ import annotations

import functools
import os
import sys

from benchmarks.fault_harness.runner import install_clock

WATCHDOG = "STUDY_FAULTS_WATCHDOG"  # minutes


def main() -> None:
    """Runs the command line; workers train through `benchmarks.fault_harness.runner`."""
    install_clock()
    from study import execute

    workers = execute.Workers(
        runner="benchmarks.fault_harness.runner:execute",
        watchdog_minutes=float(os.environ.get(WATCHDOG, execute.WATCHDOG_MINUTES)),
    )
    execute.launch = functools.partial(execute.launch, workers=workers)  # type: ignore[assignment]
    from study.cli import main as command_line

    command_line(sys.argv[1:])


if __name__ == "__main__":
    main()
