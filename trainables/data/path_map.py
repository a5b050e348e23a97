"""Where the folders that a configuration names lie on this machine, if they are not where it says.

A study names images and models as they lie where it was written. On another machine they may lie elsewhere, as copies
of the same content; their names, and with them the run's identity, stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainables.util.process import expanded

_path_map: dict[str, str] = {}


def set_path_map(path_map: Mapping[str, str]) -> None:
    """Says for the rest of the process, or until it is said anew, where named folders lie."""
    _path_map.clear()
    _path_map.update(path_map)


def folder_of(name: str) -> Path:
    """Returns where the folder lies that a configuration calls `name`."""
    return expanded(_path_map.get(name, name))
