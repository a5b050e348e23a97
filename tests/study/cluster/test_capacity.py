"""Places are counted node by node, and follow the cluster."""

from __future__ import annotations

from typing import Any

import pytest

from study.cluster import capacity
from study.cluster.capacity import ClusterCapacity, Demand, Node, described, first_limit, fitting_runs
from study.spec.sections import Resources
from trainables.errors import UserError


@pytest.mark.parametrize(
    ("nodes", "demand", "runs"),
    [
        ([Node(8, 0)], Demand(1, 0), 8),
        ([Node(8, 0)], Demand(3, 0), 2),
        ([Node(3, 0), Node(3, 0)], Demand(2, 0), 2),  # six CPUs, but none of two nodes holds two runs
        ([Node(0, 0), Node(2, 0)], Demand(1, 0), 2),  # a head without room for runs
        ([Node(8, 1)] * 4, Demand(1, 4), 0),  # four GPUs, each on a node of its own
        ([Node(8, 4), Node(8, 3)], Demand(1, 2), 3),
        ([Node(16, 2)], Demand(1, 0.5), 4),
        ([Node(16, 2)], Demand(1, 0.4), 4),  # 0.8 + 0.8, not five times 0.4
        ([Node(16, 1)], Demand(1, 0.1), 10),
        ([Node(4, 1)], Demand(4, 0.1), 1),
        ([Node(8, 1)] * 4, Demand(1, 1, workers=4), 1),  # workers of one run may lie on several nodes
        ([Node(8, 1)] * 7, Demand(1, 1, workers=4), 1),
        ([Node(8, 8), Node(8, 8)], Demand(1, 1, workers=4), 4),
        ([Node(1, 8), Node(8, 1)], Demand(1, 1, workers=4), 0),
        ([], Demand(1, 0), 0),
    ],
)
def test_places_are_counted_node_by_node(nodes: list[Node], demand: Demand, runs: int) -> None:
    assert fitting_runs(nodes, demand) == runs


def resources(**fields: Any) -> Resources:
    return Resources(**fields)


def test_how_many_runs_at_once_at_the_beginning() -> None:
    eight, two = [Node(8, 0)], [Node(2, 0)]
    assert first_limit(resources(), eight, local=True) == 8
    assert first_limit(resources(max_concurrent_runs=3), eight, local=True) == 3
    assert first_limit(resources(max_concurrent_runs=3), two, local=True) == 2  # this machine does not grow
    assert first_limit(resources(max_concurrent_runs=3), two, local=False) == 3  # a cluster may
    assert first_limit(resources(max_concurrent_runs=3), [], local=False) == 3


def test_what_fits_nowhere_is_refused_with_the_remedy() -> None:
    with pytest.raises(UserError) as refusal:
        first_limit(resources(gpus_per_run=4), [Node(0, 0), *[Node(8, 1)] * 4], local=False)
    message = str(refusal.value)
    assert "a run needs 1 CPU and 4 GPUs on one node" in message
    assert "the cluster has 4 nodes with 8 CPUs and 1 GPU, 1 node with 0 CPUs and no GPU" in message
    assert "max_concurrent_runs" in message
    worker_group = resources(num_workers=4, gpus_per_worker=1)
    with pytest.raises(
        UserError, match=r"a run needs 4 workers with 1 CPU and 1 GPU each \(resources.num_workers, "
    ):
        first_limit(worker_group, [Node(8, 3)], local=True)
    assert first_limit(worker_group, [Node(8, 3), Node(8, 5)], local=False) == 2
    with pytest.raises(UserError, match="this machine has 1 node with 2 CPUs and no GPU"):
        first_limit(resources(cpus_per_run=3), [Node(2, 0)], local=True)


def always_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(capacity, "LOOK_SHARE", 1e9)


def test_the_limit_follows_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    always_looking(monkeypatch)
    nodes, changes = [Node(2, 0)], []
    held = ClusterCapacity(resources(), nodes, lambda: nodes, on_change=lambda: changes.append(len(nodes)))
    assert held.limit == 2
    held.update()
    assert (held.limit, changes) == (2, [])
    nodes.append(Node(4, 0))
    held.update()
    assert (held.limit, changes) == (6, [2])
    nodes.clear()
    held.update()
    assert held.limit == 1  # one run waits, so that an autoscaler sees that something is wanted
    assert (
        "1 run waits for 1 CPU on one node; the cluster has no node: a run fits on none of them"
        in held.shortage(1)
    )


def test_a_growing_cluster_is_always_asked_for_what_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    always_looking(monkeypatch)
    nodes: list[Node] = []
    held = ClusterCapacity(resources(max_concurrent_runs=5), nodes, lambda: nodes)
    nodes.append(Node(2, 0))
    held.update()
    assert held.limit == 5
    assert (
        "5 runs wait for 1 CPU on one node; the cluster has 1 node with 2 CPUs and no GPU: other work"
        in held.shortage(5)
    )


def test_looking_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(capacity.time, "monotonic", lambda: clock[0])
    looks = []

    def look() -> list[Node]:
        looks.append(clock[0])
        clock[0] += 0.2  # hundreds of nodes
        return [Node(1, 0)]

    held = ClusterCapacity(resources(), [Node(1, 0)], look)
    for _ in range(1000):
        clock[0] += 0.1
        held.update()
    assert 8 <= len(looks) <= 12


def test_nodes_are_described_together() -> None:
    assert (
        described([Node(8, 1), Node(0, 0), Node(8, 1)])
        == "2 nodes with 8 CPUs and 1 GPU, 1 node with 0 CPUs and no GPU"
    )


def test_a_head_that_does_not_answer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    always_looking(monkeypatch)

    def look() -> list[Node]:
        raise ConnectionError("no answer")

    held = ClusterCapacity(resources(), [Node(3, 0)], look)
    held.update()
    assert held.limit == 3


@pytest.mark.parametrize(("runs", "seconds"), [(1, 1.0), (50, 1.0), (100, 2.0), (500, 4.0)])
def test_many_runs_report_less_often(runs: int, seconds: float) -> None:
    from study.dispatch.dispatcher import report_seconds

    assert report_seconds(runs) == seconds
