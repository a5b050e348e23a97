"""Ray clusters of several nodes on this machine, for tests: nodes that are added by hand, and an autoscaler's."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.support.ports import free_port
from tests.helpers.waiting import wait_gone

OBJECT_STORE_BYTES = 80_000_000


def fake_autoscaling(head: dict[str, Any], worker: dict[str, Any], most: int, address: str) -> dict[str, Any]:
    """The configuration of an autoscaler whose nodes are processes on this machine (Ray's fake provider)."""
    return {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "gcs_address": address,
        },
        "available_node_types": {
            "ray.head.default": {"resources": head, "node_config": {}, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
    }


@contextlib.contextmanager
def autoscaling_cluster(worker: dict[str, Any], most: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Starts a head without CPUs whose autoscaler adds up to `most` workers; ends all that it started.

    Yields:
        The head's address, and the environment in which a driver may join.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    address = f"127.0.0.1:{free_port()}"
    head = {"CPU": 0, "object_store_memory": OBJECT_STORE_BYTES}
    worker = {"object_store_memory": OBJECT_STORE_BYTES, **worker}
    config = folder / "autoscaling.json"
    config.write_text(json.dumps(fake_autoscaling(head, worker, most, address)))
    joining = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    environment = {
        **os.environ,
        **joining,
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.getcwd(),
    }
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *(f"--autoscaling-config={config}", f"--port={address.rpartition(':')[2]}"),
        *("--node-ip-address=127.0.0.1", "--num-cpus=0", "--include-dashboard=false"),
        *(f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder}"),
    ]
    log = (folder / "start.log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(int(address.rpartition(":")[2]), process)
        yield address, joining
    finally:
        end_family(process.pid)
        process.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 240.0) -> None:
    """Waits until the process listens."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        assert process.poll() is None, "the head has ended"
        assert time.monotonic() < end, "the head does not listen"
        time.sleep(0.2)


def end_family(pid: int) -> None:
    """Ends a process and everything that it started."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        family = [*top.children(recursive=True), top]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_gone(family, 30)


@contextlib.contextmanager
def cluster_of_nodes() -> Iterator[Any]:
    """Starts a head without CPUs as `ray.cluster_utils.Cluster`, to which a test adds nodes; ends it afterwards.

    The drivers that join it must have the environment that holds inside the block.
    """
    from ray.cluster_utils import Cluster

    from study.cluster.ray_cluster import environment

    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.getcwd(),
    }
    with environment(settings):
        from study.cluster.ray_private import reread_settings

        reread_settings()
        arguments = {"num_cpus": 0, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=arguments)
        try:
            yield nodes
        finally:
            nodes.shutdown()
    reread_settings()
    shutil.rmtree(folder, ignore_errors=True)
