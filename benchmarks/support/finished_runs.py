"""Runs that a long measurement has finished, one JSON document a line, so that it goes on where it was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


class FinishedRuns:
    """A file of lines, each of which is read again by its key.

    A line that was cut off in the middle, by a process that was killed, counts as not written; it is removed before
    the next one is added, so that a file that another process writes can be read at any time.

    Args:
        path: The file; it and its folder are made if they are missing.
        key: The values of these fields tell lines apart; of two with the same ones the later counts.
    """

    def __init__(self, path: Path, key: Sequence[str]) -> None:
        self._path, self._key = path, tuple(key)
        self._rows: dict[Hashable, dict[str, Any]] = {}
        sound = 0
        for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
            if not line.endswith(b"\n"):
                break
            row = json.loads(line)
            self._rows[self._of(row)] = row
            sound += len(line)
        self._sound: int | None = sound  # bytes of whole lines, until this process adds one

    def _of(self, row: Mapping[str, Any]) -> Hashable:
        return tuple(row.get(name) for name in self._key)

    def get(self, **key: Any) -> dict[str, Any] | None:
        """Returns the line with these values of the key's fields, None where it has no such line."""
        return self._rows.get(self._of(key))

    def add(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a line to the disk before it counts; returns it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            if self._sound is not None:
                file.truncate(self._sound)
                self._sound = None
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._rows[self._of(row)] = dict(row)
        return self._rows[self._of(row)]

    def complete(
        self,
        wanted: Sequence[Mapping[str, Any]],
        measured: Callable[[Iterable[Mapping[str, Any]]], Iterable[Mapping[str, Any]]],
    ) -> list[dict[str, Any]]:
        """Returns a line for each of some keys, in their order, and measures those that are missing.

        Args:
            wanted: Keys.
            measured: Given the missing keys, what was measured of each, in their order; each is written as it comes.
        """
        missing = [key for key in wanted if self.get(**key) is None]
        for key, found in zip(missing, measured(missing), strict=True):
            self.add({**key, **found})
        rows = [self.get(**key) for key in wanted]
        return [row for row in rows if row is not None]
