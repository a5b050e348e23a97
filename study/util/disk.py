"""Folders on disk that need not exist yet, how much is free there, and whether that is enough."""

from __future__ import annotations

import shutil
from pathlib import Path

from study.util.units import size

SPARE_BYTES = 256 * 2**20  # databases, logs, images: what is needed besides anything that is estimated


def existing(folder: Path) -> Path:
    """Returns `folder`, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def free_bytes(folder: Path) -> int:
    """Returns how much is free where `folder` is or would be made; raises OSError if that cannot be told."""
    return shutil.disk_usage(existing(folder)).free


def room_problem(folder: Path, what: str, remedy: str, needed: int = 0) -> str | None:
    """Returns why `what` has no room where `folder` is or would be made; None if there is room, with some to spare.

    Args:
        folder: Where it will lie.
        what: That needs room, as the subject of the sentence.
        remedy: What else can be done than to make room.
        needed: Bytes, estimated; `SPARE_BYTES` more have to be free.

    Raises:
        OSError: It cannot be told what is free.
    """
    free = free_bytes(folder)
    if free >= needed + SPARE_BYTES:
        return None
    total = size(needed + SPARE_BYTES)
    return f"{what} needs about {total} in {folder}, but {size(free)} are free; make room, {remedy}"
