"""One attempt at a run that several workers train: drives Ray Train, and reports as `Attempt` does.

Ray Train places the workers, connects them (torch's process group) and ends them all when one of them dies.
It keeps nothing and tries nothing twice: the first worker works on the run's folder through
`study.worker.attempt.Attempt`, as a worker alone does, and a run that has died is handed out again by the queue.

Beside `study.ray_tune.torch_backend` the only module that may import ``ray.train``: what bears the same name
there and in ``ray.tune`` differs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
from dataclasses import asdict
from typing import Any

import ray

from study.cluster.ray_private import draining_nodes, torch_trainer_class
from study.ray_tune.placement import nodes_of
from study.worker.attempt import SCORE, Attempt
from study.worker.order import REPORT_SECONDS, Order, load_object
from study.worker.workspace import worker_config

_EXCHANGE_MINUTES = 30  # before workers that exchange gradients give each other up
_FAREWELL_SECONDS = 20.0  # for Ray Train to end its workers when the run has ended
_ROUNDS = 3  # of waiting for a last report, which comes between two calls of `advance`
_LOOPBACK = {"Linux": "lo", "Darwin": "lo0"}


class WorkersPreempted(RuntimeError):
    """The workers of a run are gone, and a node of theirs had been announced to be taken away."""


class DistributedAttempt:
    """Runs one order by several workers; the interface of `study.worker.attempt.Attempt`.

    Args:
        owner: Handle of the actor that holds this object; its ``take`` must call `take`.
    """

    def __init__(self, order: Order, owner: Any) -> None:
        self.order = order
        self._owner = owner
        self._reports: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._final: dict[str, Any] | None = None
        self._budget = 0.0
        self._group = ""
        self._nodes: frozenset[str] = frozenset()
        self._announced = False
        self._rounds = _ROUNDS
        self._given_up = False

    def take(self, attempt: str, report: dict[str, Any]) -> bool:
        """Takes a report of the first worker; returns whether the attempt goes on."""
        if self._given_up or attempt != self.order.attempt:
            return False
        self._reports.put(report)
        return True

    def advance(self, seconds: float = REPORT_SECONDS) -> dict[str, Any]:
        """Waits for about so many seconds and reports what the workers do; see `study.worker.attempt.Attempt`.

        ``waiting`` is true if they have said nothing meanwhile, as before Ray has found room for them;
        ``placement_group`` names their placement group, for `remove_placement_group`.

        Raises:
            WorkersPreempted: The workers are gone with a node that was drained.
            RuntimeError: They are gone for another reason, and the run has not ended.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._fit, daemon=True)
            self._thread.start()
        heard = not self._reports.empty()
        self._look_for_drains()
        report = self._next_report()
        if report is not None:
            return report
        self._thread.join(_FAREWELL_SECONDS if self._final is not None else seconds)
        if self._final is not None:
            return self._final
        if not self._thread.is_alive():
            self._rounds -= 1
            if self._rounds <= 0:
                kind = WorkersPreempted if self._announced else RuntimeError
                raise kind(f"the workers of the run are gone: {_told(self._failure)}")
            time.sleep(seconds / _ROUNDS)
        return {"budget": self._budget, "done": False, "waiting": not heard, "placement_group": self._group}

    def interrupt(self) -> None:
        """Ends the attempt so that the run can go on later: its workers learn it, or go with this process."""
        self._given_up = True

    def _look_for_drains(self) -> None:
        """Remembers whether a node of the workers will be taken away.

        What they die of then is found out too late and in part: often the first that is heard is that the other
        workers have lost their connection to one.
        """
        if not self._announced and self._group:
            self._nodes = self._nodes or nodes_of(self._group)
            self._announced = not self._nodes.isdisjoint(draining_nodes())

    def _next_report(self) -> dict[str, Any] | None:
        """Returns the next report that says more than how far the run is, if there is one."""
        with contextlib.suppress(queue.Empty):
            while True:
                report = self._reports.get_nowait()
                self._budget, self._group = report["budget"], report.get("placement_group", self._group)
                if report["done"]:
                    self._final = report
                elif SCORE in report:
                    return report
        return None

    def _fit(self) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="study-train-") as folder:
                self._trainer(folder).fit()
        except BaseException as error:  # reported by `advance`
            self._failure = error

    def _trainer(self, folder: str) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from study.ray_tune.torch_backend import OwnAddressConfig

        order = self.order
        resources = {"CPU": order.cpus} | ({"GPU": order.gpus} if order.gpus else {})
        return torch_trainer_class()(
            train_member,
            train_loop_config={"order": asdict(order), "owner": self._owner},
            torch_config=OwnAddressConfig(timeout_s=_EXCHANGE_MINUTES * 60),
            scaling_config=ScalingConfig(
                num_workers=order.workers, use_gpu=order.gpus > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=order.key.replace("/", "-"),
                storage_path=folder,
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
                worker_runtime_env={"env_vars": _environment(order)},
            ),
        )


def train_member(job: dict[str, Any]) -> None:
    """Does one worker's part of an order, in a process of Ray Train.

    Args:
        job: ``order`` as a dictionary, and the ``owner`` that takes the reports of the first worker.
    """
    from trainables.distributed.worker_group import surrounding_group

    # Ray Train numbers the GPUs of a machine's workers in its own order, accelerate in that of the workers.
    os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    order = Order(**job["order"])
    resident = load_object(order.resident)() if order.resident else None
    worker_group = surrounding_group(sharded=order.sharded)
    if worker_group.is_main_process:
        try:
            _lead(order, resident, worker_group, job["owner"])
        finally:
            worker_group.end()
        return
    runner = load_object(order.runner)
    for _ in runner(worker_config(order), resident, worker_group=worker_group):
        pass


def _lead(order: Order, resident: Any, worker_group: Any, owner: Any) -> None:
    from study.ray_tune.placement import node_name

    attempt = Attempt(order, resident, capture=True, node=node_name(), worker_group=worker_group)
    group = ray.util.get_current_placement_group()
    answer = owner.take.remote(
        order.attempt,
        {"budget": 0.0, "done": False, "placement_group": group.id.hex() if group is not None else ""},
    )
    try:
        while True:
            report = attempt.advance()
            if _declined(answer):
                return
            answer = owner.take.remote(order.attempt, report)
            if report["done"]:
                ray.get(answer)
                return
    finally:
        attempt.interrupt()  # nothing, if the run has ended


def _declined(answer: Any) -> bool:
    """Whether the owner has answered, and wants no more."""
    ready, _ = ray.wait([answer], timeout=0)
    return bool(ready) and not ray.get(answer)


def _environment(order: Order) -> dict[str, str]:
    """What must be set when a worker's process begins."""
    from study.worker.process import process_settings

    settings = process_settings(order)
    if ray.util.get_node_ip_address() == "127.0.0.1":  # a cluster of this machine alone
        interface = _LOOPBACK.get(os.uname().sysname)
        settings |= (
            {} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
        )
    return settings


def _told(failure: BaseException | None) -> str:
    """What Ray Train says of the failed workers, whose own words come last."""
    return f"{type(failure).__name__}: {failure}" if failure is not None else "they ended without a word"
