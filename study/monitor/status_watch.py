"""``study status --watch``: the status drawn in place, again and again."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from study.monitor.status import StudyStatus
from study.monitor.status_view import glance, section

_FIXED_LINES = 16  # of a glance: head, headings, gaps
_TABLES = 3


def watch_status(
    look: Callable[[], StudyStatus],
    part: str,
    every: float,
    *,
    console: Console | None = None,
    looks: int | None = None,
) -> None:
    """Looks every so many seconds until it is interrupted, or the study's driver has ended and nothing is left.

    Args:
        part: A section, or ``all``.
        console: Default: standard output. On what is no terminal each look is printed below the last.
        looks: End after so many.
    """
    console = console or Console(highlight=False)

    def draw() -> tuple[StudyStatus, object]:
        status = look()
        if part != "all":
            return status, section(status, part)
        room = max(3, (console.height - _FIXED_LINES - len(status.arms)) // _TABLES)
        return status, glance(status, rows=room)

    try:
        if not console.is_terminal:
            for count in _numbers(looks):
                status, drawn = draw()
                console.print(drawn, Text())
                if _over(status) or count == looks:
                    return
                time.sleep(every)
            return
        status, drawn = draw()
        with Live(drawn, console=console, auto_refresh=False, vertical_overflow="crop") as live:  # type: ignore[arg-type]
            for count in _numbers(looks):
                live.update(drawn, refresh=True)  # type: ignore[arg-type]
                if _over(status) or count == looks:
                    return
                time.sleep(every)
                status, drawn = draw()
    except KeyboardInterrupt:
        return


def _over(status: StudyStatus) -> bool:
    queue = status.queue
    left = sum(queue[name] for name in ("running", "pending", "interrupted", "waiting"))
    return status.driver["state"] != "alive" and not left


def _numbers(looks: int | None) -> range:
    return range(1, (looks or 2**31) + 1)
