"""JSON on disk that survives a crash: files that are written in one step, some twice, and lines that are appended."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from trainables.util.files import replacing


def copy_of(path: Path) -> Path:
    """Returns where `write_json_twice` keeps its second copy."""
    return path.with_name(f"{path.stem}.copy{path.suffix}")


def write_json_twice(path: Path, content: Any) -> None:
    """Writes JSON, and a copy of it beside it that `read_json_or_copy` takes if the file is damaged."""
    write_json(path, content)
    write_json(copy_of(path), content)


def is_sound(path: Path) -> bool:
    """Whether a file is there and holds a JSON object."""
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        return False


def read_json_or_copy(path: Path) -> dict[str, Any]:
    """Returns what `write_json_twice` wrote.

    Raises:
        FileNotFoundError: There is neither the file nor a copy.
        ValueError: There is something, but nothing sound.
    """
    there = [place for place in (path, copy_of(path)) if place.exists()]
    if not there:
        raise FileNotFoundError(path)
    for place in there:
        try:
            content = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, dict) and content:
            return content
    raise ValueError(f"{path} is damaged, and so is its copy")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that after a crash at any moment `path` has either its old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, sort_keys=True, allow_nan=False)
            file.write("\n")
        partial.chmod(0o644)


def append_json_line(path: Path, content: dict[str, Any]) -> None:
    """Adds a line durably; raises OSError."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a file that `append_json_line` wrote; damaged lines are left out, no file is empty."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):
            content = json.loads(line)
            if isinstance(content, dict):
                found.append(content)
    return found
