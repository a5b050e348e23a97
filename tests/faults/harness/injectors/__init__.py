"""The faults, by the setting in which they are injected.

Each does its damage to a study in the middle and returns how to see that it was overcome.
"""

from __future__ import annotations

from tests.faults.harness.injectors import (
    clocks,
    disk,
    files,
    frozen,
    network,
    nodes,
    processes,
    servers,
    store,
    worker_groups,
)
from tests.faults.harness.injectors.common import Injector


def _by_name(*functions: Injector) -> dict[str, Injector]:
    return {function.__name__: function for function in functions}


SETTINGS: dict[str, dict[str, Injector]] = {
    "local": _by_name(
        processes.worker_kill, processes.all_workers_kill, processes.raylet_kill, processes.gcs_kill,
        processes.driver_kill, processes.group_kill, processes.sigint, processes.sigterm, processes.second_signal,
        servers.ledger_locked, disk.disk_error, disk.disk_read_only, disk.disk_full_for_a_moment, disk.disk_slow,
        clocks.clock_jump, clocks.silence, files.torn_checkpoint, files.corrupt_checkpoint,
        files.corrupt_checkpoint_state, files.torn_events, files.corrupt_events, files.corrupt_attempts,
        files.corrupt_result, files.corrupt_records,
    ),
    "full": _by_name(disk.disk_full),
    "served": _by_name(
        servers.mlflow_kill, servers.mlflow_error, servers.mlflow_hang, servers.database_restart
    ),
    "nodes": _by_name(nodes.node_lost),
    "spot": _by_name(nodes.node_drained),
    "silent": _by_name(frozen.node_paused, frozen.node_frozen, frozen.node_lease_lost),
    "hosts": _by_name(network.network_flaps, network.host_cut_off, network.driver_cut_off),
    "worker_group_spot": _by_name(worker_groups.worker_group_node_drained),
    "worker_group": _by_name(
        worker_groups.other_rank_kill, worker_groups.leader_kill, worker_groups.worker_group_manager_kill,
        worker_groups.worker_group_driver_kill,
    ),
    "worker_group_url": _by_name(
        worker_groups.worker_group_machine_lost, worker_groups.worker_group_store_error,
        worker_groups.worker_group_lost_at_url,
    ),
    "url": _by_name(
        store.store_error, store.store_slow, store.store_hang, store.machine_lost, store.corrupt_ledger_copy,
        store.corrupt_stored_checkpoint,
    ),
}  # fmt: skip
KINDS: dict[str, Injector] = {
    name: injector for kinds in SETTINGS.values() for name, injector in kinds.items()
}
