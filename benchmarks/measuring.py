"""What the benchmarks of scale measure with: time inside a class's methods, and the size of processes over time."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil


@dataclass
class Spent:
    """Time spent in methods, by name; calls inside other measured calls of the same kind count once.

    Attributes:
        seconds: By method, without what it spent in other measured methods.
        calls: By method.
        total: Seconds in all, over all threads.
    """

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    total: float = 0.0


@contextmanager
def spent_in(*classes: type) -> Iterator[Spent]:
    """Measures every public method of some classes while the block lasts."""
    spent, local, lock = Spent(), threading.local(), threading.Lock()

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            stack = local.__dict__.setdefault("stack", [])
            begin = time.perf_counter()
            stack.append(0.0)
            try:
                return original(*args, **kwargs)
            finally:
                taken, inner = time.perf_counter() - begin, stack.pop()
                with lock:
                    spent.seconds[name] += taken - inner
                    spent.calls[name] += 1
                    if stack:
                        stack[-1] += taken
                    else:
                        spent.total += taken

        return method

    originals = [
        (kind, name, value)
        for kind in classes
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("_") and not inspect.isgeneratorfunction(value)
    ]
    for kind, name, value in originals:
        setattr(kind, name, wrap(name, value))
    try:
        yield spent
    finally:
        for kind, name, value in originals:
            setattr(kind, name, value)


@dataclass(frozen=True)
class Sample:
    """The processes of a study at one moment.

    Attributes:
        runs: Runs that have ended by then.
        values: ``<process>/<quantity>``: memory in MiB, open files, threads.
    """

    seconds: float
    runs: int
    values: dict[str, float]


class Sampler:
    """Looks at the driver and its children every so often, in a thread of its own.

    Args:
        ended: Says how many runs have ended.
        more: Further quantities, such as the use of the object store.
    """

    def __init__(
        self,
        ended: Callable[[], int],
        *,
        every: float = 1.0,
        more: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self.samples: list[Sample] = []
        self._ended, self._every, self._more = ended, every, more
        self._stop = threading.Event()
        self._begin = time.monotonic()
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(self._every):
            runs = self._ended()
            values = sizes() | (self._more() if self._more else {})
            self.samples.append(Sample(time.monotonic() - self._begin, runs, values))

    def series(self, name: str) -> list[tuple[int, float]]:
        """Returns a quantity as (runs that had ended, value)."""
        return [(sample.runs, sample.values[name]) for sample in self.samples if name in sample.values]


def sizes() -> dict[str, float]:
    """Memory (MiB), open files and threads of this process, its Ray daemons and its Ray actors."""
    values: dict[str, float] = {}
    driver = psutil.Process()
    for process in [driver, *driver.children(recursive=True)]:
        with suppress(psutil.Error, OSError):
            title = " ".join(process.cmdline()[:1]) or process.name()
            if process == driver:
                name = "driver"
            elif title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
                name = f"actor {process.pid}"
            elif process.name() in ("gcs_server", "raylet"):
                name = process.name()
            else:
                continue
            values[f"{name}/MiB"] = process.memory_info().rss / 2**20
            values[f"{name}/files"] = float(process.num_fds())
            values[f"{name}/threads"] = float(process.num_threads())
    return values


def object_store() -> dict[str, float]:
    """Bytes and objects in Ray's object store, over all nodes, as a raylet tells; empty if none does."""
    import ray
    from ray._private.internal_api import get_memory_info_reply

    if not ray.is_initialized():
        return {}
    try:
        stats = get_memory_info_reply(ray._private.state.state, timeout_seconds=10.0).store_stats
    except Exception:  # a raylet that is busy, or ending
        return {}
    return {
        "object store/bytes": float(stats.object_store_bytes_used),
        "object store/objects": float(stats.num_local_objects),
    }


def slope(series: Sequence[tuple[int, float]], after: int = 0) -> float:
    """Growth a run, by least squares over the samples after so many runs; 0 for fewer than three."""
    points = [(float(runs), value) for runs, value in series if runs >= after]
    if len(points) < 3:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
