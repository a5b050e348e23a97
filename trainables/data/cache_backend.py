"""A second, farther place for cache entries, behind the folder of a `trainables.data.cache.Cache`.

What it fetches saves a computation; that it cannot is never an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class CacheBackend(Protocol):
    """Keeps files by name; no method raises for what is not there, or not to be had now."""

    def fetch(self, name: str, path: Path) -> bool:
        """Writes the entry to `path` in one step; returns whether there is one."""
        ...

    def keep(self, name: str, path: Path) -> None:
        """Keeps a copy of a file that does not change any more; may return before it is made."""
        ...

    def names(self, folder: str) -> list[str]:
        """Returns the names of the files that are kept under a folder; none where they are not to be had."""
        ...


_backends: dict[str, CacheBackend] = {}


def register_backend(folder: Path, backend: CacheBackend) -> None:
    """Puts a backend behind all caches of this process in that folder."""
    _backends[str(folder)] = backend


def backend_of(folder: Path) -> CacheBackend | None:
    """Returns the backend of a cache's folder, if it has one."""
    return _backends.get(str(folder))
