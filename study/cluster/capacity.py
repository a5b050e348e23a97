"""How many runs a cluster holds at once, counted node by node, while nodes come and go. Knows nothing of Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainables.errors import UserError

if TYPE_CHECKING:
    from study.spec.sections import Resources

LOOK_SECONDS = 2.0
LOOK_SHARE = 0.02  # of the driver's time; a look at hundreds of nodes takes long, so it is taken less often
WAIT_SECONDS = 60.0  # before the user is told that nothing can start
_EPSILON = 1e-9


@dataclass(frozen=True)
class Node:
    """What one node of a cluster offers in all.

    Attributes:
        name: Address and the beginning of Ray's id of it; two nodes that offer the same are equal.
    """

    cpus: float
    gpus: float
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Demand:
    """What one run reserves: so many workers, each with so many CPUs and GPUs on one node.

    Attributes:
        gpus: Of a worker; a fraction never straddles two GPUs.
    """

    cpus: float
    gpus: float
    workers: int = 1

    def __str__(self) -> str:
        share = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        if self.gpus:
            share += f" and {self.gpus:g} GPU{'s' * (self.gpus > 1)}"

        return f"{share} on one node" if self.workers == 1 else f"{self.workers} workers with {share} each"

    def workers_on(self, node: Node) -> int:
        """How many of its workers fit on a node."""
        fits = int(node.cpus / self.cpus + _EPSILON) if self.cpus else None
        if self.gpus >= 1:
            by_gpu = int(node.gpus / self.gpus + _EPSILON)
        elif self.gpus > 0:
            by_gpu = int(node.gpus) * int(1 / self.gpus + _EPSILON)
        else:
            by_gpu = None
        return min(found for found in (fits, by_gpu, 1_000_000) if found is not None)


def fitting_runs(nodes: Iterable[Node], demand: Demand) -> int:
    """How many runs fit at once; workers of one run may lie on several nodes."""
    return sum(demand.workers_on(node) for node in nodes) // demand.workers


def demand_of(resources: Resources) -> Demand:
    """What a run reserves by the study file."""
    return Demand(float(resources.worker_cpus), float(resources.worker_gpus), resources.num_workers)


def described(nodes: Sequence[Node]) -> str:
    """Nodes for a message, equal ones together: ``3 nodes with 8 CPUs and 1 GPU``."""
    kinds: dict[Node, int] = {}
    for node in nodes:
        kinds[node] = kinds.get(node, 0) + 1
    parts = []
    for node, count in sorted(kinds.items(), key=lambda item: (-item[0].gpus, -item[0].cpus)):
        gpus = f" and {node.gpus:g} GPU{'s' * (node.gpus != 1)}" if node.gpus else " and no GPU"
        parts.append(f"{count} node{'s' * (count > 1)} with {node.cpus:g} CPU{'s' * (node.cpus != 1)}{gpus}")
    return ", ".join(parts) or "no node"


def first_limit(resources: Resources, nodes: Sequence[Node], *, local: bool) -> int:
    """How many runs may be under way when a launch begins.

    Raises:
        UserError: If a run fits nowhere and nothing says that the cluster will grow.
    """
    demand, wanted = demand_of(resources), resources.max_concurrent_runs
    if wanted is not None and not local:
        return wanted  # runs that wait for room are what makes a cluster grow
    fits = fitting_runs(nodes, demand)
    if fits < 1:
        where = "this machine" if local else "the cluster"
        several = "num_workers, cpus_per_worker, gpus_per_worker"
        fields = several if demand.workers > 1 else "cpus_per_run, gpus_per_run"
        raise UserError(
            f"a run needs {demand} (resources.{fields}), but {where} has {described(nodes)}; "
            "ask for less, or give the --address of a larger cluster (for one that grows on demand set "
            "resources.max_concurrent_runs as well)"
        )
    return min(fits, wanted or fits)


class ClusterCapacity:
    """Follows a cluster while a study runs on it.

    Args:
        look: Returns the nodes that are alive now.
        nodes: As they were at the beginning.
        on_change: Called when nodes have come or gone.

    Attributes:
        limit: How many runs may be under way now; never below 1, so that a cluster without nodes is asked for one.
        nodes: As they were last seen.

    Raises:
        UserError: See `first_limit`.
    """

    def __init__(
        self,
        resources: Resources,
        nodes: Sequence[Node],
        look: Callable[[], Sequence[Node]],
        *,
        local: bool = False,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.demand = demand_of(resources)
        self.nodes = list(nodes)
        self.limit = first_limit(resources, nodes, local=local)
        self._wanted = resources.max_concurrent_runs
        self._local = local
        self._look, self._on_change = look, on_change
        self._next_look = time.monotonic() + LOOK_SECONDS

    def update(self) -> None:
        """Looks at the nodes, every two seconds at most; cheap to call always."""
        begin = time.monotonic()
        if self._local or begin < self._next_look:
            return
        try:
            seen = list(self._look())
        except Exception:  # a head that does not answer is the business of those who need it
            seen = self.nodes
        now = time.monotonic()
        self._next_look = now + max(LOOK_SECONDS, (now - begin) / LOOK_SHARE)
        before, self.nodes = self.nodes, seen
        if sorted(seen, key=repr) == sorted(before, key=repr):
            return
        self.limit = self._wanted or max(1, fitting_runs(seen, self.demand))
        self._on_change()

    def shortage(self, waiting: int) -> str:
        """Says what runs wait for."""
        runs = f"{waiting} run{'s' * (waiting > 1)}"
        wait = "wait" if waiting > 1 else "waits"
        advice = (
            "other work holds the room, or its workers are slow to start"
            if fitting_runs(self.nodes, self.demand)
            else "a run fits on none of them: it starts when a larger node joins or the autoscaler adds one"
        )
        return f"{runs} {wait} for {self.demand}; the cluster has {described(self.nodes)}: {advice}"
