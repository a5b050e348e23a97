"""Where runs are placed: nodes, nodes that go away, and placement groups that are given back."""

from __future__ import annotations

import contextlib

import ray


def node_name() -> str:
    """Returns the address of this process's Ray node and how its id begins, as ``ray list nodes`` has them."""
    return f"{ray.util.get_node_ip_address()}/{ray.get_runtime_context().get_node_id()[:8]}"


def nodes_of(group: str) -> frozenset[str]:
    """Returns the ids of the nodes on which the workers of a run lie; none while that is not known."""
    from ray.util.placement_group import PlacementGroup, placement_group_table

    with contextlib.suppress(Exception):  # Ray's control service is away, or the group is
        table = placement_group_table(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
        return frozenset(table["bundles_to_node_id"].values())
    return frozenset()


def remove_placement_group(group: str) -> None:
    """Gives the resources of a run's workers back, if they still hold them.

    Ray keeps a placement group as long as the driver lives if what made it dies suddenly. Ray Train has a process
    that looks after that, but it needs the dashboard, which a cluster of this machine alone does not have.
    """
    from ray.util.placement_group import PlacementGroup
    from ray.util.placement_group import remove_placement_group as remove

    with contextlib.suppress(Exception):  # no cluster any more, or it was released in order
        remove(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
