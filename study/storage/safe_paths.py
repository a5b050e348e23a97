"""Whether a path that was read from storage stays there: whoever can write to it must not reach other files.

Events and results name files relative to their run's folder. A name that leads outside, by ``..``, as an absolute path
or through a symbolic link, is treated as if the file were missing; folders of runs that are links are refused.
"""

from __future__ import annotations

import os
from pathlib import Path

from study.storage.layout import Storage
from trainables.errors import UserError


def inside(folder: Path, name: str | Path) -> Path | None:
    """Returns the path of `name` below `folder`; None if it leads outside, is no sound path or does not exist."""
    try:
        place = (folder / name).resolve(strict=True)
        base = folder.resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # missing; a NUL in it; a circle of links
        return None
    return folder / name if place != base and place.is_relative_to(base) else None


def check_no_links(storage: Storage) -> None:
    """Raises UserError if something that the runs write to is a link out of the study's folder.

    The storage folder itself, and the study's folder in it, may be links: they are the owner's own.
    """
    base = storage.runs
    if not base.exists():
        return
    home = str(storage.folder.resolve()) + os.sep
    found = [str(base)] if base.is_symlink() else []
    level = [str(base)]
    for _ in range(4):  # phase, arm, run, and what lies in a run's folder
        below: list[str] = []
        for place in level:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        found.append(entry.path)
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
        level = below
    outside = [path for path in found if not (os.path.realpath(path) + os.sep).startswith(home)]
    if outside:
        shown = ", ".join(os.path.relpath(path, storage.folder) for path in sorted(outside)[:3])
        raise UserError(
            f"in {storage.folder}, {shown} is a link that leads out of the study's folder, and a run would "
            "write there; remove it (to keep runs on another disk, let --storage lie on it)"
        )
