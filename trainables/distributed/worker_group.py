"""The processes that train one run together. If one fails, all are aborted with the first failure's reason.

Rank 0 is the main process (the leader), which alone has the run's folder. A group of one costs nothing: its methods
return what they are given. A larger one is made of the torch process group that surrounds the process (Ray Train,
torchrun, or a test that spawns processes). Gradients travel through that group; everything else through a second one
of the CPU, which may wait for hours, because the other ranks wait while the leader evaluates.

If one process fails, all are aborted with the first failure's reason. The first to fail writes the reason into the
group's key-value store and closes its connections, which ends the calls of processes that wait for it. A thread of
each process polls the store, for processes that wait for no connection, and writes its heartbeat there. A process
without a heartbeat counts as dead, and the attempt as interrupted.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
from torch.distributed.distributed_c10d import _abort_process_group, _get_default_store

Tensors = dict[str, torch.Tensor]
Take = Callable[[str, torch.Tensor], torch.Tensor]

_LONGEST_WAIT = timedelta(days=1)  # of the other ranks, for the leader to evaluate, or to make class images
_LOOK_SECONDS = 0.5  # between two looks into the store
_HEARTBEAT_SECONDS = 15.0
WATCHER = "worker-group-watch"  # the thread's name
_JOIN_SECONDS = 5.0  # for the thread that watches, whose store may not answer any more
_LONGEST_END_SECONDS = 120.0  # in which the leader writes the end of a run that another rank has failed
_CAUSE, _ALIVE, _ENDED = "worker_group/cause", "worker_group/alive", "worker_group/ended"
_END = "end"


class RunEnded(Exception):
    """Tells a rank above 0 that the leader has ended the run."""


class WorkerGroupLost(BaseException):
    """A member of the worker group is gone: nothing is known of the run, which can go on from its checkpoint.

    No Exception, so that nothing takes it for a failure of the run.
    """


class WorkerGroup:
    """A worker group of one; `ProcessWorkerGroup` says what the methods mean for more.

    Attributes:
        rank: Of this process; the leader's is 0.
        size: Number of processes.
        local_rank: Number of this process among those of its machine, and of its GPU among theirs.
        sharded: Whether the model's weights, gradients and optimizer state are sharded over the processes (FSDP)
            instead of being held by each (DDP).
    """

    rank = 0
    size = 1
    local_rank = 0
    sharded = False

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the leader."""
        return self.rank == 0

    def broadcast(self, message: Any = None) -> Any:
        """Sends a message of the leader, JSON values, to all; each returns it.

        Raises:
            RunEnded: In a rank above 0, if the leader has ended the run instead.
        """
        return message

    def broadcast_tensors(
        self, tensors: Tensors | None = None, message: Any = None, take: Take | None = None
    ) -> tuple[Tensors, Any]:
        """Sends named tensors of the leader, with a message, to all; they arrive on the CPU.

        Args:
            take: Called with each name and tensor, when it is there, says what a process keeps of it.
        """
        return tensors or {}, message

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the sum of the members' tensors, on their device."""
        return tensor

    def all_reduce_max(self, value: int) -> int:
        """Returns the largest of the members' numbers."""
        return value

    def barrier(self) -> None:
        """Waits for all members."""

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Marks what all members do at the same time, so that one that fails here leaves the others waiting."""
        yield

    def failure_reason(self, own: dict[str, Any]) -> dict[str, Any]:
        """Returns, in the leader, what the run has failed of, given what this process has failed of.

        Raises:
            WorkerGroupLost: A member died, and this failure is but the consequence.
        """
        return own

    def report_failure(self, outcome: dict[str, Any]) -> bool:
        """Tells the others, in a rank above 0, what this process has failed of.

        Returns:
            Whether the leader has written that as the end of the run.
        """
        return False

    def end(self) -> None:
        """Ends the worker group, whatever has happened: the leader tells the other ranks that the run is over."""


class ProcessWorkerGroup(WorkerGroup):
    """The processes of torch's default process group.

    Its methods `mesh`, `all_gather`, `reduce_scatter` and `all_reduce` are for a shared model alone, and so not in
    `WorkerGroup`.
    """

    def __init__(self, *, sharded: bool = False) -> None:
        import torch.distributed as dist

        self.sharded = sharded
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self._dist = dist
        self._gradients: Any = dist.new_group()
        self._waiting: Any = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
        self._store = _get_default_store()
        self._broken = False
        self._over = threading.Event()
        self._watcher = threading.Thread(
            target=self._watch, args=(_another_client(self._store),), name=WATCHER, daemon=True
        )
        self._watcher.start()

    def broadcast(self, message: Any = None) -> Any:
        """See `WorkerGroup`."""
        content = [message]
        with self.collective():
            self._dist.broadcast_object_list(content, src=0, group=self._waiting)
        if content[0] == _END and not self.is_main_process:
            raise RunEnded
        return content[0]

    def broadcast_tensors(
        self, tensors: Tensors | None = None, message: Any = None, take: Take | None = None
    ) -> tuple[Tensors, Any]:
        """See `WorkerGroup`."""
        mine = {name: value.detach().cpu().contiguous() for name, value in (tensors or {}).items()}
        shapes = {name: (str(value.dtype), list(value.shape)) for name, value in mine.items()}
        shapes, message = self.broadcast((shapes, message))
        with self.collective():
            for name, (kind, shape) in shapes.items():
                if not self.is_main_process:
                    mine[name] = torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch.")))
                if mine[name].numel():
                    self._dist.broadcast(mine[name], src=0, group=self._waiting)
                if take is not None:
                    mine[name] = take(name, mine[name])
        return mine, message

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `WorkerGroup`."""
        total = tensor.detach().to("cpu", copy=True)
        with self.collective():
            self._dist.all_reduce(total, group=self._waiting)
        return total.to(tensor.device)

    def all_reduce_max(self, value: int) -> int:
        """See `WorkerGroup`."""
        most = torch.tensor(value, dtype=torch.int64)
        with self.collective():
            self._dist.all_reduce(most, op=self._dist.ReduceOp.MAX, group=self._waiting)
        return int(most)

    def barrier(self) -> None:
        """See `WorkerGroup`."""
        self.all_reduce_max(0)

    def all_reduce_bucket(self, bucket: Any) -> Any:
        """Adds up a bucket of DDP's gradients over the members: a hook of its communication."""
        work = self._dist.all_reduce(bucket.buffer(), group=self._gradients, async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    def mesh(self, device_type: str) -> Any:
        """Returns the processes as torch's FSDP wants them; what they exchange does not go that way."""
        from torch.distributed.device_mesh import DeviceMesh

        everybody: Any = self._dist.group.WORLD
        return DeviceMesh.from_group(everybody, device_type)

    def all_gather(self, whole: torch.Tensor, part: torch.Tensor) -> None:
        """Fills a tensor with the members' parts, on their devices, in the order of the members."""
        gather = getattr(self._dist, "all_gather_single", None) or self._dist.all_gather_into_tensor
        gather(whole, part, group=self._gradients)

    def reduce_scatter(self, part: torch.Tensor, whole: torch.Tensor) -> None:
        """Fills a tensor with this member's part of the sum of the members' tensors, on their devices."""
        add_up = getattr(self._dist, "reduce_scatter_single", None) or self._dist.reduce_scatter_tensor
        add_up(part, whole, group=self._gradients)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Replaces a tensor by the sum of the members' tensors, on their devices."""
        self._dist.all_reduce(tensor, group=self._gradients)

    @contextmanager
    def collective(self) -> Iterator[None]:
        """See `WorkerGroup`."""
        try:
            yield
        except BaseException:
            self._broken = True
            raise

    def failure_reason(self, own: dict[str, Any]) -> dict[str, Any]:
        """See `WorkerGroup`."""
        if not self._broken:
            return own  # the others wait for the next message, and will hear that it is over
        self._fail(own)
        until = time.monotonic() + _HEARTBEAT_SECONDS
        while not self._store.check([f"{_ALIVE}/{rank}" for rank in range(self.size)]):
            if time.monotonic() > until:
                raise WorkerGroupLost("a worker of the run is gone")
            time.sleep(_LOOK_SECONDS / 5)
        cause: dict[str, Any] = json.loads(self._store.get(_CAUSE))
        return cause

    def report_failure(self, outcome: dict[str, Any]) -> bool:
        """See `WorkerGroup`."""
        with suppress(Exception):  # the store goes with the leader
            self._fail(outcome)
            until = time.monotonic() + _LONGEST_END_SECONDS
            while time.monotonic() < until:
                if self._store.check([_ENDED]):
                    return True
                time.sleep(_LOOK_SECONDS / 5)
        return False

    def end(self) -> None:
        """See `WorkerGroup`."""
        over = self._over.is_set()
        self._over.set()
        if not over and self.is_main_process:
            with suppress(Exception):  # no other process may be left
                if not self._broken:
                    self.broadcast(_END)
                self._store.set(_ENDED, "")
        # An interpreter that ends while a thread of it is inside the store aborts (SIGABRT).
        self._watcher.join(_JOIN_SECONDS)

    def _fail(self, outcome: dict[str, Any]) -> None:
        """Records what this process has failed of, if it is the first, and ends the calls of all that wait."""
        self._broken = True
        self._store.compare_set(_CAUSE, "", json.dumps(outcome))
        self._abort(self._store)

    def _watch(self, store: Any) -> None:
        """Polls the store for a recorded failure, for as long as the worker group lasts."""
        with suppress(Exception):  # the store went with the leader
            while not self._over.wait(_LOOK_SECONDS):
                if store.check([_CAUSE]):
                    return self._abort(store)
        return None

    def _abort(self, store: Any) -> None:
        """Shows that this process is alive, and breaks its connections."""
        store.set(f"{_ALIVE}/{self.rank}", "")
        with suppress(Exception):
            _abort_process_group()
        # Gloo's connections close when nobody refers to their group any more.
        self._gradients = self._waiting = None


def _another_client(store: Any) -> Any:
    """A store's connection can wait for one thing at a time, so that the watch has its own."""
    return store.clone()


def surrounding_group(*, sharded: bool = False) -> WorkerGroup:
    """Returns the worker group that this process belongs to: that of torch's process group, or itself alone.

    Args:
        sharded: Of several processes; see `WorkerGroup`.
    """
    import torch.distributed as dist

    grouped = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return ProcessWorkerGroup(sharded=sharded) if grouped else WorkerGroup()
