"""Folders on disk that need not exist yet."""

from __future__ import annotations

from pathlib import Path


def existing(folder: Path) -> Path:
    """Returns `folder`, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
