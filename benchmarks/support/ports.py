"""Ports for the servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that Linux gives to outgoing connections (from 32768 on), one of which may be on any other a moment later;
# above those that Ray keeps for its workers (to 19999).
_RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Returns ports of loopback that are free now, and that neither the system nor another test is likely to take."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(_RANGE, len(_RANGE)):
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"{count} ports are not free on loopback")


def free_port() -> int:
    """Returns one of them."""
    return free_ports(1)[0]
