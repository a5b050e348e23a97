"""A cluster of several nodes on this machine, which go and come."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEALTH_PATIENCE_SECONDS = 12  # for a silent node, where Ray is told to have little patience
IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": str(HEALTH_PATIENCE_SECONDS // 2),
}


@dataclass
class Nodes:
    """A cluster of nodes on this machine: a head without CPUs, and two with one each."""

    cluster: Any

    @property
    def address(self) -> str:
        """What a driver joins."""
        return str(self.cluster.address)

    @property
    def prefix(self) -> list[str]:
        """The words before a driver's command: none, it runs on this machine as all nodes do."""
        return []

    def add(self) -> None:
        """A node comes."""
        from tests.helpers.ray_nodes import OBJECT_STORE_BYTES

        self.cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES)

    def remove(self, node: Any) -> None:
        """A node goes without grace."""
        self.cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, seconds: int) -> None:
        """Tells Ray that a node will be taken away."""
        _run_ray(
            "drain-node", f"--address={self.address}", f"--node-id={node.node_id}",
            "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", f"--deadline-remaining-seconds={seconds}",
        )  # fmt: skip

    def is_alive(self, node: Any) -> bool:
        """Whether the head believes that a node lives."""
        table = self.cluster.global_state.node_table()
        return any(known["Alive"] for known in table if known["NodeID"] == str(node.node_id))

    def worker_nodes(self) -> list[Any]:
        """Nodes that may go."""
        return sorted(self.cluster.worker_nodes, key=lambda node: str(node.node_id))


@contextlib.contextmanager
def nodes(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """Starts a cluster whose workers obey the control files of the study in `folder`.

    Args:
        settings: Environment of its processes, such as `IMPATIENT`.
    """
    from study.cluster.ray_cluster import SETTINGS as RAY_SETTINGS
    from study.cluster.ray_cluster import environment
    from tests.faults.harness.runner import FOLDER
    from tests.helpers.ray_nodes import cluster_of_nodes

    here = {**RAY_SETTINGS, **(settings or {}), FOLDER: str(folder / "control")}
    with environment(here), cluster_of_nodes() as cluster:
        made = Nodes(cluster)
        made.add()
        made.add()
        yield made


def _run_ray(*words: str) -> None:
    """Runs a command of Ray's own command line."""
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *words], capture_output=True, text=True, timeout=120
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
