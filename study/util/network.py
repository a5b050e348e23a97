"""Whether something answers at an address, and why not."""

from __future__ import annotations

import socket

TIMEOUT = 3.0  # seconds, for each question


def connection_problem(host: str, port: int) -> str | None:
    """Returns why nothing can be connected to at an address, or None."""
    try:
        with socket.create_connection((host, port), timeout=TIMEOUT):
            return None
    except (OSError, OverflowError) as error:
        return reason_of(error)


def reason_of(error: BaseException) -> str:
    """Returns what an error of the network means, in a few words."""
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:g} seconds"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, socket.gaierror):
        return "the host name is unknown"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
