"""Where the folders that a configuration names lie on this machine, if they are not where it says.

A study names images and models as they lie where it was written. On another machine they may lie elsewhere, as copies
of the same content; their names, and with them the run's identity, stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trainables.util.process import expanded

_places: dict[str, str] = {}


def place_folders(places: Mapping[str, str]) -> None:
    """Says for the rest of the process, or until it is said anew, where named folders lie."""
    _places.clear()
    _places.update(places)


def folder_of(name: str) -> Path:
    """Returns where the folder lies that a configuration calls `name`."""
    return expanded(_places.get(name, name))
