"""Whether an error is the fault of the storage (full, read-only, failing, removed), and what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path

from trainables.events import EVENTS_FILE, RUN_FILE, TakenOver

_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room, or have the quota raised",
    errno.EROFS: "make it writable",
    errno.EIO: "check the disk and how it is mounted",
    errno.ESTALE: "mount it again",
    errno.ENOTCONN: "mount it again",
    errno.EREMOTEIO: "check the disk and how it is mounted",
}


def storage_failure(error: BaseException, folder: Path | None = None) -> str | None:
    """Returns what is wrong with the storage, and the remedy, if an error says that; None for any other error.

    A full, read-only or failing disk is nothing that a run's configuration could be blamed for, and neither is a
    folder that was removed while a run worked in it.

    Args:
        folder: The run's own folder.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TakenOver):
            return str(seen)
        number = seen.errno if isinstance(seen, OSError) else _number_in(str(seen))
        if number in _REMEDIES:
            return f"the storage failed: {str(seen).strip()}; {_REMEDIES[number]}"
        if folder is not None and _was_removed(seen, folder):
            return f"the storage failed: {str(seen).strip()}; leave the folder {folder} to the run that works in it"
        seen = seen.__cause__
    return None


def _was_removed(error: BaseException, folder: Path) -> bool:
    """Whether an error comes of the folder's removal, which may be in the middle: its records go in any order."""
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str | Path):
        return False
    inside = Path(error.filename).is_relative_to(folder)
    return inside and not all((folder / name).exists() for name in (RUN_FILE, EVENTS_FILE))


def _number_in(text: str) -> int | None:
    """What safetensors, and torch's writers in C++, say of the same."""
    return next((number for number in _REMEDIES if f"(os error {number})" in text), None)
