"""The Ray actor that trains runs, one after the other: a thin Tune Trainable over `study.worker.attempt.Attempt`.

It is reused from run to run, so that imports, base model and metric models are loaded once. Resetting it does
no more than store the next order: Tune cannot recover from a reset that fails or lasts.
"""

from __future__ import annotations

import gc
import sys
from typing import Any

import ray
from ray import tune

from study.ray_tune.distributed_attempt import DistributedAttempt
from study.ray_tune.placement import node_name
from study.worker.attempt import Attempt
from study.worker.order import Order, load_object
from study.worker.process import prepare_process

_MANAGER_BYTES = 2**20  # Ray wants a process to ask for something; workers ask for CPUs and GPUs themselves

_residents: dict[str, Any] = {}


class RunWorker(tune.Trainable):
    """Trains the run that its configuration (`study.worker.order.Order`) names."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """One bundle: the CPUs and GPUs of a run, or next to nothing if the run gets workers of its own."""
        if config["workers"] > 1:
            return tune.PlacementGroupFactory([{"CPU": 0, "memory": _MANAGER_BYTES}])
        bundle = {"CPU": config["cpus"]} | ({"GPU": config["gpus"]} if config["gpus"] else {})
        return tune.PlacementGroupFactory([bundle])

    def setup(self, config: dict[str, Any]) -> None:
        """Prepares the process, before anything loads torch; `config` is the first order."""
        self._order = _order(config)
        self._attempt: Attempt | DistributedAttempt | None = None
        prepare_process(self._order)

    def __repr__(self) -> str:
        """As Ray's dashboard and logs name the actor; it trains many runs one after the other."""
        order = getattr(self, "_order", None)
        return f"RunWorker({order.study or 'study'})" if order is not None else "RunWorker"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Takes the next order."""
        self._let_go()
        self._order = _order(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Goes on with the run for a second, or a few where there are many runs."""
        if self._attempt is None:
            self._attempt = self._begin()
        report = self._attempt.advance(self._order.report_seconds)
        if report["done"]:
            self._attempt = None
            _free_memory()
        return report

    def take(self, attempt: str, report: dict[str, Any]) -> bool:
        """Takes a report from the workers of a run that has several; returns whether the run goes on."""
        here = self._attempt
        return isinstance(here, DistributedAttempt) and here.take(attempt, report)

    def _begin(self) -> Attempt | DistributedAttempt:
        if self._order.workers > 1:
            return DistributedAttempt(self._order, ray.get_runtime_context().current_actor)
        return Attempt(self._order, _resident(self._order.resident), capture=True, node=node_name())

    def cleanup(self) -> None:
        """Tune ends the actor: a run that is under way stays resumable."""
        self._let_go()

    def _let_go(self) -> None:
        attempt, self._attempt = getattr(self, "_attempt", None), None
        if attempt is not None:
            attempt.interrupt()
            _free_memory()


def _free_memory() -> None:
    """A run's tensors lie in cycles; the next run shall not find them."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _order(config: dict[str, Any]) -> Order:
    return Order(**{name: config[name] for name in Order.__dataclass_fields__})


def _resident(name: str) -> Any:
    """Returns the process's one object of that class, made when it is first wanted."""
    if not name:
        return None
    if name not in _residents:
        _residents[name] = load_object(name)()
    return _residents[name]
