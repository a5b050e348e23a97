"""Rules of a cluster file on who gets in, and with what: start commands, open ports, the token, images, the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from study.lint.findings import LOOPBACK, Fault, image_faults, texts
from study.lint.ray_up_file import (
    HEAD_START,
    SET_UP,
    WORKER_START,
    commands,
    gpus_of,
    items,
    mapping,
    node_types,
    option,
    provider,
    run_options,
    starts,
    uses_docker,
    workers,
)

_SSH = 22


def _start_commands(data: dict[str, Any]) -> Iterator[Fault]:
    for key, role in ((HEAD_START, "head"), (WORKER_START, "worker")):
        lines = starts(data, key)
        if not lines:
            yield Fault(
                "start",
                (key,),
                f"{key} has no `ray start`; the default of some providers opens the dashboard to every "
                f"network interface: write the command that starts Ray on the {role} yourself, as in cluster.yaml",
            )
        for loc, line in lines:
            if role == "head" and "--head" not in line:
                yield Fault("start", loc, f"the head's command {line!r} lacks --head; add it")
            if role == "worker" and "RAY_HEAD_IP" not in (option(line, "address") or ""):
                yield Fault("start", loc, "a worker must join the head: write --address=$RAY_HEAD_IP:6379")
            if role == "head" and not option(line, "autoscaling-config") and workers(data):
                yield Fault(
                    "start",
                    loc,
                    "without --autoscaling-config no worker is ever started; "
                    "write --autoscaling-config=~/ray_bootstrap_config.yaml",
                )


def _exposure(data: dict[str, Any]) -> Iterator[Fault]:
    tunnel = "reach it by `ray dashboard cluster.yaml`, which makes an SSH tunnel"
    for loc, line in commands(data, HEAD_START, WORKER_START, *SET_UP):
        host = option(line, "dashboard-host")
        if host is not None and host not in LOOPBACK:
            yield Fault(
                "exposure",
                loc,
                f"--dashboard-host={host} opens dashboard and job API, which run any code, to the "
                f"network; write 127.0.0.1 and {tunnel}",
            )
        port = option(line, "ray-client-server-port")
        if port is not None:
            yield Fault(
                "exposure",
                loc,
                f"--ray-client-server-port={port} names the port of Ray Client, which runs any code "
                "and which no study uses; take it out and keep 10001 closed",
                fatal=False,
            )
    for loc, words in texts(mapping(data.get("docker"))):
        if re.search(r"(?:^|\s)(?:-p|--publish)(?:\s|=)", words):
            yield Fault(
                "exposure",
                ("docker", *loc),
                f"{words!r} publishes a port; take it out and use an SSH tunnel",
            )


def _firewall(data: dict[str, Any]) -> Iterator[Fault]:
    if provider(data) != "aws":
        return
    group = mapping(mapping(data.get("provider")).get("security_group"))
    own = all("SecurityGroupIds" in mapping(kind.get("node_config")) for kind in node_types(data).values())
    for index, rule in enumerate(items(group.get("IpPermissions"))):
        rule = mapping(rule)
        ranges = [*items(rule.get("IpRanges")), *items(rule.get("Ipv6Ranges"))]
        cidrs = [mapping(item).get("CidrIp") or mapping(item).get("CidrIpv6") for item in ranges]
        ports = (rule.get("FromPort"), rule.get("ToPort"))
        for cidr in cidrs:
            if cidr in ("0.0.0.0/0", "::/0"):
                what = "SSH" if ports == (_SSH, _SSH) else f"ports {ports[0]} to {ports[1]}"
                yield Fault(
                    "firewall",
                    ("provider", "security_group", "IpPermissions", index),
                    f"{what} is open to the whole internet ({cidr}); write the network that you come "
                    "from, such as 203.0.113.0/24",
                )
    if not own:
        yield Fault(
            "firewall",
            ("provider",),
            "Ray makes a security group that opens SSH to 0.0.0.0/0 and everything among the nodes; "
            "make a group of your own (SSH from your network, all traffic within the group) and give it as "
            "SecurityGroupIds in the node_config of every node type",
            fatal=False,
        )


def _token(data: dict[str, Any]) -> Iterator[Fault]:
    for key, role in ((HEAD_START, "head"), (WORKER_START, "worker")):
        for loc, line in starts(data, key):
            before = line[: re.search(r"\bray\s+start\b", line).start()]  # type: ignore[union-attr]
            if "RAY_AUTH_MODE=token" not in before and "RAY_AUTH_MODE=token" not in run_options(data, role):
                yield Fault(
                    "token",
                    loc,
                    "Ray would start without authentication; write `export RAY_AUTH_MODE=token; ` "
                    "before `ray start` (each line is a shell of its own)",
                )
    mounts = mapping(data.get("file_mounts"))
    target = next((str(path) for path in mounts if str(path).endswith(".ray/auth_token")), None)
    everything = " ".join(text for _, text in texts(data))
    if target is None and "RAY_AUTH_TOKEN_PATH" not in everything:
        yield Fault(
            "token",
            ("file_mounts",),
            'the token reaches no node, so none can join; write "~/.ray/auth_token": '
            '"~/.ray/auth_token" under file_mounts',
        )
    elif target is not None and not any(
        re.search(r"chmod\s+(?:0?[46]00|go=|go-rwx)\b", line) and "auth_token" in line
        for _, line in commands(data, *SET_UP, HEAD_START)
    ):
        yield Fault(
            "token",
            ("file_mounts", target),
            "others on a node may read the token; write `chmod 600 ~/.ray/auth_token` under setup_commands",
        )


def _images(data: dict[str, Any]) -> Iterator[Fault]:
    gpus = any(gpus_of(kind) for kind in workers(data).values())
    docker = mapping(data.get("docker"))
    if not uses_docker(data):
        if provider(data) not in ("local", "kuberay", "fake_multinode"):
            yield Fault(
                "image",
                ("docker",),
                "no docker image is given, so Ray and Python are those of the machine image and "
                "may differ from the driver's; give docker.image",
                fatal=False,
            )
        return
    head, worker = docker.get("head_image"), docker.get("worker_image")
    if docker.get("image") or not (head and worker):
        yield from image_faults(docker.get("image"), ("docker", "image"), gpus=gpus and not worker)
    if head:
        yield from image_faults(head, ("docker", "head_image"), gpus=False)
    if worker:
        yield from image_faults(worker, ("docker", "worker_image"), gpus=gpus)
    for name, kind in node_types(data).items():
        own = mapping(kind.get("docker")).get("worker_image")
        if own:
            loc = ("available_node_types", name, "docker", "worker_image")
            yield from image_faults(own, loc, gpus=bool(gpus_of(kind)))
    if not docker.get("container_name"):
        yield Fault(
            "container",
            ("docker",),
            "docker.container_name is missing, without which Ray refuses the file; write "
            "container_name: diffusion_study",
        )


def _code(data: dict[str, Any]) -> Iterator[Fault]:
    """A plain Ray image knows nothing of the project."""
    plain = not uses_docker(data) or any(
        "rayproject/ray" in text for _, text in texts(mapping(data.get("docker")))
    )
    everywhere = [key for key in SET_UP if key != "head_setup_commands"]
    installed = any(
        re.search(r"\bpip3?\s+install\b|make setup", line) for _, line in commands(data, *everywhere)
    )
    if plain and not installed:
        yield Fault(
            "code",
            ("setup_commands",),
            "no worker has the project: install it under setup_commands "
            "(pip install --constraint constraints.txt ...), or give an image of deploy/Dockerfile",
        )


ACCESS_RULES = (_start_commands, _exposure, _firewall, _token, _images, _code)
