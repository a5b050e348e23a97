"""A look at a Ray cluster before it is joined: does it answer, does it take our token, are its versions ours.

Ray itself tries for twenty seconds and then says only that it failed; asked directly, the head answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from study.cluster.ray_private import address_of_auto, ask_head, node_ids_here
from study.util.network import TIMEOUT, connection_problem


def check_address(address: str | None) -> list[str]:
    """Tells whether anything listens at an address; None, ``local`` and ``auto`` are left to Ray itself."""
    if address in (None, "", "local", "auto"):
        return []
    assert address is not None
    parts = urlsplit(address if "://" in address else f"ray-gcs://{address}")
    remedy = "start it (`ray start --head`, `ray up cluster.yaml`), correct the address, or leave it out"
    if address == os.environ.get("RAY_ADDRESS"):
        remedy = (
            f"{remedy} (it comes from the variable RAY_ADDRESS: `unset RAY_ADDRESS` runs on this machine)"
        )
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme == "ray":
        return [f"Ray Client ({address}) is not supported; give the head's own port, e.g. {host}:6379"]
    if parts.scheme in ("http", "https"):
        return [
            f"{address} is the address of a dashboard, which takes jobs: write `study submit FILE --address "
            f"{address}`, or give the head's own port, e.g. {host}:6379"
        ]
    if host is None or port is None:
        return [f"the Ray address {address!r} is not of the form host:port; {remedy}"]
    problem = connection_problem(host, port)
    return [f"no Ray cluster answers at {address} ({problem}); {remedy}"] if problem else []


def look(address: str, mode: str) -> list[str]:
    """Returns every reason why this process cannot be a driver of the cluster at `address`.

    Ray's settings must be those in force (``RAY_AUTH_MODE`` is `mode`). Without grpc (the extra ``cluster``) there is
    nothing to ask with, and Ray's own attempt has to do.

    Args:
        address: ``host:port`` or ``auto``.
    """
    try:
        import grpc
    except ImportError:
        return []
    target = address if address != "auto" else address_of_auto()
    if target is None:
        return [
            "no Ray cluster runs on this machine (--address auto); start one (`ray start --head`), or give the address "
            "of one as host:port"
        ]
    from ray.exceptions import AuthenticationError

    try:
        answer = ask_head(target, TIMEOUT)
    except ImportError:
        return []
    except AuthenticationError:
        return [_no_token(target)]
    except grpc.RpcError as error:
        return [_refusal(target, mode, error.code(), str(error.details()))]
    return [*_versions(target, answer.metadata), *check_this_machine_is_a_node(target, answer.alive)]


def _no_token(target: str) -> str:
    return (
        f"the Ray cluster at {target} asks for a token, and there is none here: copy the cluster's into "
        "~/.ray/auth_token (chmod 600 ~/.ray/auth_token), or set RAY_AUTH_TOKEN_PATH"
    )


def _refusal(target: str, mode: str, code: Any, details: str) -> str:
    if code.name == "UNAUTHENTICATED":
        if mode != "token":
            return f"{_no_token(target)}; RAY_AUTH_MODE is {mode}, set it to token"
        return (
            f"the Ray cluster at {target} does not take our token: {_token_source()} is not that of the cluster; "
            "copy the one of the head (`ray get-auth-token` there)"
        )
    if "HTTP/2" in details or "http1" in details:
        return (
            f"what answers at {target} is not the head of a Ray cluster, perhaps its dashboard; give the port of "
            "`ray start --head`, 6379 by default (the dashboard takes jobs: study submit)"
        )
    return (
        f"the Ray cluster at {target} does not answer as one ({code.name}: {details[:120]}); is the head under way, "
        "and does it use TLS as set here (RAY_USE_TLS)?"
    )


def _token_source() -> str:
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "the token in RAY_AUTH_TOKEN"
    return f"the token in {os.environ.get('RAY_AUTH_TOKEN_PATH') or '~/.ray/auth_token'}"


def _versions(target: str, metadata: bytes) -> Iterator[str]:
    """Ray serialises functions: with another Ray or Python a worker could not read them, or would read them wrongly."""
    try:
        theirs = json.loads(metadata)
        ray_there, python_there = str(theirs["ray_version"]), str(theirs["python_version"])
    except (ValueError, KeyError, TypeError):
        return
    import ray

    python_here = ".".join(map(str, sys.version_info[:3]))
    minor_there, minor_here = _minor(python_there), _minor(python_here)
    there, here = (
        f"Ray {ray_there} on Python {python_there}",
        f"Ray {ray.__version__} on Python {python_here}",
    )
    if ray_there != ray.__version__ or minor_there != minor_here:
        image = f"rayproject/ray:{ray.__version__}-py{minor_here.replace('.', '')}"
        yield (
            f"the cluster at {target} runs {there}, here it is {here}; make them equal: on its nodes "
            f"`pip install 'ray[default]=={ray.__version__}'` in Python {minor_here} (or the image {image}), "
            f"or here Ray {ray_there} in Python {minor_there}"
        )
    elif python_there != python_here and os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL") != "minor":
        yield (
            f"the cluster at {target} runs {there}, here it is {here}; use the same release of Python, or accept one "
            "that differs in its last number: export RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL=minor"
        )


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])


def check_this_machine_is_a_node(target: str, alive: frozenset[str]) -> Iterator[str]:
    """A driver works through the Ray of its own machine; from elsewhere there is only the job API."""
    if alive and not alive & node_ids_here():
        yield (
            f"this machine is no node of the cluster at {target}, and a driver must run on one: launch on the head "
            "(`ray attach cluster.yaml`), hand the study over (`study submit FILE`, from anywhere), or join with this "
            f"machine, without runs on it: ray start --address={target} --num-cpus=0 --num-gpus=0"
        )
