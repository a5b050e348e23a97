"""Ends a driver that hangs itself: in a call of Ray or of a database that never returns, where nothing else is asked.

Silence of the runs is noticed by the loop that places them (`study.driver.launch`). This watches the loop.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Self


class Watchdog:
    """Ends the process if nobody says for too long that the driver goes on; use it as a context manager.

    Args:
        seconds: So long it may be silent.
        say: Takes the line that says why the process ends.
        describe: What it was waiting for.
        exit_process: Ends the process at once, with an exit code.
    """

    def __init__(
        self,
        seconds: float,
        say: Callable[[str], None],
        describe: Callable[[], str],
        *,
        exit_process: Callable[[int], object] = os._exit,
    ) -> None:
        self._seconds, self._say, self._describe, self._exit_process = seconds, say, describe, exit_process
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def reset(self) -> None:
        """The driver goes on."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 10)):
            if time.monotonic() - self._last > self._seconds:
                self._say(
                    f"the driver itself hangs: nothing for {self._seconds / 60:g} minutes, waiting for "
                    f"{self._describe()}. It ends now. Interrupted runs keep their checkpoints: to go on, run the "
                    "same command again"
                )
                self._exit_process(1)
                return
