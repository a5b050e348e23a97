"""A file for `ray up` as the lint reads it: whatever is missing or of another type is empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trainables.config.yaml_reader import Loc

SET_UP = ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")
HEAD_START, WORKER_START = "head_start_ray_commands", "worker_start_ray_commands"


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list) else []


def node_types(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All node types by name, the head's too."""
    return {str(name): mapping(kind) for name, kind in mapping(data.get("available_node_types")).items()}


def workers(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The node types of workers; one with ``max_workers: 0`` never starts."""
    head = data.get("head_node_type")
    return {
        name: kind for name, kind in node_types(data).items() if name != head and kind.get("max_workers") != 0
    }


def provider(data: dict[str, Any]) -> str:
    """``aws``, ``gcp``, ``local``, ..."""
    return str(mapping(data.get("provider")).get("type", ""))


def gpus_of(kind: dict[str, Any]) -> float:
    """How many GPUs a machine of the type offers to runs."""
    amount = mapping(kind.get("resources")).get("GPU", 0)
    return amount if isinstance(amount, (int, float)) else 0


def run_options(data: dict[str, Any], role: str = "") -> str:
    """The words with which containers are started; `role` is ``head`` or ``worker``."""
    docker = mapping(data.get("docker"))
    keys = ("run_options", f"{role}_run_options") if role else ("run_options",)
    return " ".join(str(option) for key in keys for option in items(docker.get(key)))


def uses_docker(data: dict[str, Any]) -> bool:
    """Whether Ray runs in a container."""
    docker = mapping(data.get("docker"))
    return any(docker.get(key) for key in ("image", "head_image", "worker_image"))


def commands(data: dict[str, Any], *keys: str) -> Iterator[tuple[Loc, str]]:
    """Shell commands under the keys, those of single node types included."""
    for key in keys:
        for index, line in enumerate(items(data.get(key))):
            yield (key, index), str(line)
        for name, kind in node_types(data).items():
            for index, line in enumerate(items(kind.get(key))):
                yield ("available_node_types", name, key, index), str(line)


def starts(data: dict[str, Any], key: str) -> list[tuple[Loc, str]]:
    """The commands under `key` that start Ray."""
    return [(loc, line) for loc, line in commands(data, key) if re.search(r"\bray\s+start\b", line)]


def option(line: str, name: str) -> str | None:
    """Returns the value of ``--name=value`` or ``--name value`` in a command."""
    found = re.search(rf"--{name}(?:=|\s+)(\"[^\"]*\"|'[^']*'|[^\s;&|]+)", line)
    return found[1].strip("\"'") if found else None


def is_spot(kind: dict[str, Any]) -> bool:
    """Whether machines of the type may be taken away: AWS, GCP and Azure each say it in their own way."""
    node = mapping(kind.get("node_config"))
    market = mapping(node.get("InstanceMarketOptions")).get("MarketType")
    scheduling = mapping(node.get("scheduling"))
    azure = mapping(node.get("azure_arm_parameters")).get("priority")
    return (
        market == "spot"
        or scheduling.get("preemptible") is True
        or scheduling.get("provisioningModel") == "SPOT"
        or mapping(node.get("schedulingConfig")).get("preemptible") is True
        or str(azure).lower() == "spot"
    )
