"""Does one thing to many items, several at a time, where most of the time goes by with waiting for a server."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")


def side_by_side(action: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    """Calls `action` once for each item, in up to `threads` threads; with one, in the calling thread.

    After the first exception no further item is begun; those under way are waited for. The threads are daemons: one
    that a server never answers does not keep the process from ending, as a pool of `concurrent.futures` would.

    Raises:
        BaseException: The first that `action` raised.
    """
    if threads == 1 or len(items) < 2:
        for item in items:
            action(item)
        return
    waiting: queue.SimpleQueue[Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    failures: list[BaseException] = []

    def work() -> None:
        with suppress(queue.Empty):
            while not failures:
                item = waiting.get_nowait()
                try:
                    action(item)
                except BaseException as error:
                    failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(items)))]
    for thread in workers:
        thread.start()
    for thread in workers:
        thread.join()
    if failures:
        raise failures[0]
