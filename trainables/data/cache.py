"""Content-addressed tensors on disk, shared by all runs and processes: what was computed once is not computed
again.

An entry's name is the SHA-256 of everything that determines its content. It is written beside its place and
moved there in one step, under a lock, so that two processes that need the same entry compute it once and a
reader never sees half of one. A damaged entry is computed anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainables.data.cache_backend import backend_of
from trainables.util.file_lock import FOREVER, lock_file
from trainables.util.files import replacing

Tensors = dict[str, torch.Tensor]


class Cache:
    """A folder of content-addressed safetensors files.

    Args:
        folder: Made when the first entry is written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def tensors(self, kind: str, identity: Mapping[str, Any], compute: Callable[[], Tensors]) -> Tensors:
        """Returns the entry of `identity`, computing and storing it if it is not there.

        Args:
            kind: Subfolder, such as "latents".
            identity: Everything that determines the content, as JSON values.
            compute: Gives the tensors; called in at most one process at a time for one identity.
        """
        path = self.path(kind, identity)
        found = _read(path)
        if found is not None:
            return found
        with locked(path.with_suffix(".lock")):
            found = _read(path)  # another process may have written it while this one waited
            backend = backend_of(self.folder)
            name = str(path.relative_to(self.folder))
            if found is None and backend is not None and backend.fetch(name, path):
                found = _read(path)
            if found is None:
                found = {name: tensor.detach().cpu().contiguous() for name, tensor in compute().items()}
                write_tensors(path, found)
                if backend is not None:
                    backend.keep(name, path)
        return found

    def path(self, kind: str, identity: Mapping[str, Any]) -> Path:
        """Returns where the entry of `identity` lies or would lie."""
        content = json.dumps({"kind": kind, **identity}, sort_keys=True)
        return self.folder / kind / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"


def _read(path: Path) -> Tensors | None:
    if not path.exists():
        return None
    try:
        tensors: Tensors = load_file(path)
    except (OSError, SafetensorError):
        return None
    return tensors


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Writes a file beside its place and moves it there in one step."""
    with replacing(path, durable=False) as partial:  # a damaged entry is computed anew
        save_file(tensors, partial)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; the system releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        lock_file(file, wait_seconds=FOREVER)
        yield
