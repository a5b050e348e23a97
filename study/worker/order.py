"""What a worker is told of a run, and the function that trains it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from trainables.events import Event

REPORT_SECONDS = 1.0

Runner = Callable[..., Iterator[Event]]


@dataclass(frozen=True)
class Order:
    """What a worker is told to do: a few plain values, which travel as Ray Tune's trial configuration.

    Attributes:
        key: The run's name.
        phase: ``search``, ``confirm``, ``downstream-search`` or ``downstream``.
        group: Runs with the same group compete under early stopping.
        config: The RunConfig as JSON.
        driver_id: Names the driver; attempts of another driver ended with their driver.
        runner: ``module:function`` that yields the run's events.
        resident: ``module:class`` of what stays loaded between runs, or empty.
        cpus: Of each worker; also the number of torch's threads.
        gpus: Of each worker.
        workers: Processes that train the run together.
        sharded: Whether they share one model (FSDP) instead of holding it each (DDP).
        study: The study's name.
        attempt: Names this attempt among all at the run, over all launches.
        url: Of the storage, if it is one; the run's folder is then one of the driver's working copy.
        home: The study's folder, if the worker must make sure that it sees the driver's; else empty.
        stoppable: Whether a stop order may come.
        objective: The metric by which early stopping judges the run; empty: nothing stops it early.
        report_seconds: How long a worker goes on between two reports to the driver.
    """

    key: str
    phase: str
    group: str
    config: str
    driver_id: str
    runner: str
    resident: str
    cpus: float
    gpus: float
    workers: int = 1
    sharded: bool = False
    study: str = ""
    attempt: str = ""
    url: str = ""
    home: str = ""
    stoppable: bool = False
    objective: str = ""
    report_seconds: float = REPORT_SECONDS

    def to_dict(self) -> dict[str, Any]:
        """As Tune takes it."""
        return asdict(self)


def load_object(name: str) -> Any:
    """Imports ``module:attribute``."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
