"""Folders on disk that need not exist yet, and how much is free there."""

from __future__ import annotations

import shutil
from pathlib import Path

SPARE_BYTES = 256 * 2**20  # databases, logs, images: what a study needs besides anything that is estimated


def existing(folder: Path) -> Path:
    """Returns `folder`, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def free_bytes(folder: Path) -> int:
    """Returns how much is free where `folder` is or would be made; raises OSError if that cannot be told."""
    return shutil.disk_usage(existing(folder)).free
