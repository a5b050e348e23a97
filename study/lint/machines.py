"""Rules of a cluster file on its machines: the head, resources, spot and its fallback, cost, storage, limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from study.lint.findings import Fault, texts
from study.lint.ray_up_file import (
    HEAD_START,
    SET_UP,
    WORKER_START,
    commands,
    gpus_of,
    is_spot,
    mapping,
    node_types,
    option,
    provider,
    run_options,
    starts,
    uses_docker,
    workers,
)

_MOUNTS = re.compile(
    r"\bmount\s+(?:-\S+\s+)*-t\s*(?:nfs4?|efs|lustre|fsx|cifs|ceph|glusterfs|beegfs|gcsfuse)\b|\bmount\.(?:nfs|efs)"
    r"|\b(?:gcsfuse|s3fs|goofys|mount-s3|blobfuse2?|juicefs mount)\s"
)
_URLS = re.compile(r"\b(?:s3|gs|gcs|abfss?|az)://")
_LONG_IDLE_MINUTES = 60


def _head(data: dict[str, Any]) -> Iterator[Fault]:
    name = data.get("head_node_type")
    kind = node_types(data).get(str(name))
    started = starts(data, HEAD_START)
    cpus = next((value for _, line in started if (value := option(line, "num-cpus")) is not None), None)
    if kind is None:
        if started and cpus != "0" and not node_types(data):
            yield Fault(
                "head",
                started[0][0],
                "runs would train on the head, which then starves the driver; add --num-cpus=0 "
                "--num-gpus=0 to its `ray start`",
                fatal=False,
            )
        return
    loc = ("available_node_types", str(name), "resources")
    resources = mapping(kind.get("resources"))
    if resources.get("CPU") != 0 and cpus != "0":
        value = f"has {resources['CPU']} CPUs" if "CPU" in resources else "has as many CPUs as Ray finds"
        yield Fault(
            "head",
            loc,
            f"the head {value}, so runs train on it and a run that takes its memory takes the "
            f"study with it; write resources: {{CPU: 0}}",
        )
    if gpus_of(kind):
        yield Fault(
            "head",
            loc,
            f"the head offers {gpus_of(kind):g} GPUs to runs; write resources: {{CPU: 0}} and take "
            "a machine without GPU",
        )
    if cpus not in (None, "0"):
        yield Fault(
            "head",
            started[0][0],
            f"--num-cpus={cpus} lets runs train on the head; write --num-cpus=0",
        )
    if is_spot(kind):
        yield Fault(
            "head",
            ("available_node_types", str(name), "node_config"),
            "the head is a spot machine: when it is taken, the whole cluster ends; take an on-demand machine",
        )


def _resources(data: dict[str, Any]) -> Iterator[Fault]:
    for name, kind in node_types(data).items():
        for resource, amount in mapping(kind.get("resources")).items():
            if isinstance(amount, float) and not amount.is_integer():
                yield Fault(
                    "resources",
                    ("available_node_types", name, "resources", resource),
                    f"a node has whole {resource}s, got {amount}; write the number that the machine "
                    "has, and the share of a run as resources.gpus_per_run in the study file",
                )


def _spot(data: dict[str, Any]) -> Iterator[Fault]:
    kinds = workers(data)
    firm = {name: kind for name, kind in kinds.items() if not is_spot(kind)}
    for name, kind in kinds.items():
        if not is_spot(kind):
            continue
        loc = ("available_node_types", name)
        equal = [other for other in firm.values() if gpus_of(other) >= gpus_of(kind)]
        if not equal:
            yield Fault(
                "spot",
                loc,
                f"{name} is a spot type without an on-demand type of its size: when no spot machine "
                "is to be had, the study waits; add one with a small max_workers",
            )
        elif any(other.get("priority", 0) >= kind.get("priority", 0) for other in equal):
            yield Fault(
                "spot",
                loc,
                f"{name} has no higher priority than its on-demand fallback, so either may be "
                "started first; give it priority: 10",
                fatal=False,
            )


def _size(data: dict[str, Any]) -> Iterator[Fault]:
    if not isinstance(data.get("max_workers"), int):
        yield Fault(
            "cap",
            ("max_workers",),
            "max_workers is missing: it caps what the cluster can cost; write the number of "
            "workers that you can pay for",
        )
    minutes = data.get("idle_timeout_minutes")
    if not isinstance(minutes, (int, float)):
        yield Fault(
            "idle",
            ("idle_timeout_minutes",),
            "idle_timeout_minutes is missing: it ends workers that have nothing to do; write 10",
        )
    elif minutes > _LONG_IDLE_MINUTES:
        yield Fault(
            "idle",
            ("idle_timeout_minutes",),
            f"idle workers are paid for {minutes:g} minutes before they end; write 10",
            fatal=False,
        )
    for name, kind in workers(data).items():
        if "max_workers" not in kind:
            yield Fault(
                "cap",
                ("available_node_types", name),
                f"{name} has no max_workers of its own, so there may be as many as the whole "
                "cluster's; write one",
                fatal=False,
            )
        least = kind.get("min_workers", 0)
        if isinstance(least, int) and least > 0:
            yield Fault(
                "idle",
                ("available_node_types", name, "min_workers"),
                f"{least} machines of {name} run, and cost, for as long as the cluster is up; write "
                "min_workers: 0",
                fatal=False,
            )
    if provider(data) == "aws" and mapping(data.get("provider")).get("cache_stopped_nodes") is not False:
        yield Fault(
            "idle",
            ("provider",),
            "stopped machines are kept, and their disks cost; write cache_stopped_nodes: false",
            fatal=False,
        )


def _storage(data: dict[str, Any]) -> Iterator[Fault]:
    inside = [(loc, line) for loc, line in commands(data, *SET_UP[1:]) if _MOUNTS.search(line)]
    outside = [(loc, line) for loc, line in commands(data, SET_UP[0]) if _MOUNTS.search(line)]
    options = run_options(data) + " " + run_options(data, "worker")
    if uses_docker(data) and "--privileged" not in options and "SYS_ADMIN" not in options:
        for loc, _line in inside:
            yield Fault(
                "storage",
                loc,
                "setup_commands run inside the container, which may not mount; mount under "
                "initialization_commands, which run on the machine, and bind the folder by "
                "docker.run_options: --volume /mnt/study:/mnt/study",
            )
        if outside and not re.search(r"(?:-v|--volume|--mount)[\s=]", options):
            yield Fault(
                "storage",
                outside[0][0],
                "the mounted folder is not seen inside the container; bind it by "
                "docker.run_options: --volume /mnt/study:/mnt/study",
            )
    by_url = any(_URLS.search(text) for _, text in texts(data))
    if not inside and not outside and not by_url and not re.search(r"(?:-v|--volume|--mount)[\s=]", options):
        yield Fault(
            "storage",
            (),
            "nothing that all nodes see: mount a network file system (NFS, EFS, Filestore) under "
            "initialization_commands, or name a bucket, such as --env "
            "STUDY_STORAGE=s3://bucket/study in docker.run_options; what lies on a node's own "
            "disk is lost with it",
        )


def _files(data: dict[str, Any]) -> Iterator[Fault]:
    """Ray opens many sockets and files; at 1,024 it dies in the middle of a study."""
    for key, role in ((HEAD_START, "head"), (WORKER_START, "worker")):
        for loc, line in starts(data, key):
            if not re.search(r"\bulimit\s+-\w*n", line) and "nofile" not in run_options(data, role):
                yield Fault(
                    "ulimit",
                    loc,
                    "Ray runs out of open files at the usual limit of 1,024; write `ulimit -n 65536; "
                    "` before `ray start`",
                    fatal=False,
                )


MACHINE_RULES = (_head, _resources, _spot, _size, _storage, _files)
