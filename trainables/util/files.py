"""A file's hash, and files that take their place in one step."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_NAME_SHOWN = (
    40  # characters of a file's name that the one beside it bears: names may be as long as names can be
)

_PARTIAL = ".partial"


def sha256_of(path: Path) -> str:
    """Returns the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_partials(folder: Path) -> None:
    """Removes what `replacing` left in a folder when the process was killed; for its only writer."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Gives a path beside `path` to write a file to, which takes the place of `path` at the end.

    Whoever reads `path` sees the old content or the new one, whole; several may write at once. If the body raises,
    `path` stays as it is and nothing is left beside it; a process that is killed may leave a file (`remove_partials`).

    Args:
        durable: The content is on the disk before it takes the place, so that this holds after the machine crashes too.

    Raises:
        OSError: It cannot be written; its folder has to exist.
    """
    partial = path.with_name(f".{path.name[:_NAME_SHOWN]}.{secrets.token_hex(8)}{_PARTIAL}")
    try:
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
