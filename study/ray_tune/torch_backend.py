"""How the workers of a run find each other: by a store that listens on the node's own address, and nowhere else.

Ray Train's own set-up lets torch's store, which asks nobody for a password, listen on all addresses of the node.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import ray
from ray.train.torch import TorchConfig

from study.cluster.ray_private import torch_backend_class, torch_variables_setter
from study.ray_tune.placement import remove_placement_group

_listening: list[socket.socket] = []


class OwnAddressConfig(TorchConfig):
    """Ray Train's configuration of torch's process group, with `OwnAddressBackend`."""

    @property
    def backend_cls(self) -> Any:
        """See Ray Train."""
        return OwnAddressBackend


class OwnAddressBackend(torch_backend_class()):  # type: ignore[misc]
    """Connects workers through a store of the first one: NCCL between GPUs, Gloo between CPUs."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Called by Ray Train when the workers' processes are there."""
        try:
            self._connect(worker_group, backend_config)
        except Exception:
            # Ray Train does not end what it has started when its set-up fails.
            remove_placement_group(worker_group.execute_single(0, _placement_group))
            raise

    def _connect(self, worker_group: Any, backend_config: TorchConfig) -> None:
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        address, port = worker_group.execute_single(0, _listen)
        worker_group.execute(torch_variables_setter())
        store = {"address": address, "port": port, "size": len(worker_group)}
        backend = backend_config.backend or ("nccl" if on_gpus else "gloo")
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _connect, rank, backend, backend_config.timeout_s, **store
                )
                for rank in range(len(worker_group))
            ]
        )


def _placement_group() -> str:
    """Names the placement group of the workers, in one of their processes."""
    group = ray.util.get_current_placement_group()
    return str(group.id.hex()) if group is not None else ""


def _listen() -> tuple[str, int]:
    """Opens the store's socket, in the process of the first worker."""
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 0), family=family, backlog=1024)
    _listening.append(server)
    return address, server.getsockname()[1]


def _connect(rank: int, backend: str, seconds: int, address: str, port: int, size: int) -> None:
    """Makes torch's process group, in the process of each worker."""
    import torch.distributed as dist

    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    patience = timedelta(seconds=seconds)
    server = _listening.pop().detach() if rank == 0 else None
    store = dist.TCPStore(
        address, port, size, rank == 0, patience, wait_for_workers=False, master_listen_fd=server
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
