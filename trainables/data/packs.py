"""Many small entries of the cache in few files: each is found by its own key, and computed once.

A file for each of ten thousand latents would be as many look-ups on a shared file system, and as many objects at a
storage URL; a file for all of them would be computed anew whenever one is added. So a folder holds packs, files of some
entries each, that never change. Who misses entries computes those alone and adds packs of them; which entries a pack
has stands in its header. An entry may be in two packs (of two nodes, at a storage URL): the file that is older on this
disk counts.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trainables.data.cache import Cache, Tensors, locked, write_tensors
from trainables.data.cache_backend import CacheBackend, backend_of

PACK_ENTRIES = 64  # of a pack at most: what is lost when a process is killed while it computes
PACK_BYTES = 64 << 20  # beyond which a pack takes no more entries

_PACK = re.compile(r"[0-9a-f]{64}\.safetensors")


def packed(
    cache: Cache,
    kind: str,
    identity: Mapping[str, Any],
    keys: Sequence[str],
    compute: Callable[[int], Tensors],
) -> list[Tensors]:
    """Returns the entry of each key, in order, computing and storing those that are not there.

    Args:
        kind: Subfolder of the cache, such as "latents".
        identity: What determines the content of all entries, as JSON values; of one identity there is one folder.
        keys: Hex digests of what determines the content of each beside that. Those that are equal are one entry.
        compute: Gives the tensors of the key with this number, which must not depend on other keys; called in at most
            one process at a time for one identity.
    """
    folder = cache.path(kind, identity).with_suffix("")
    packs = _Packs(folder, keys)
    packs.read()
    if packs.missing:
        with locked(folder.with_suffix(".lock")):
            packs.read()  # another process may have written some while this one waited
            backend = backend_of(cache.folder)
            if backend is not None:
                _fetch(packs, backend, str(folder.relative_to(cache.folder)))
            for path in packs.compute(compute):
                if backend is not None:
                    backend.keep(str(path.relative_to(cache.folder)), path)
    return [packs.found[key] for key in keys]


class _Packs:
    """The packs of a folder, and what has been read of them.

    Args:
        keys: Of the entries that are wanted.
    """

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder = folder
        self.found: dict[str, Tensors] = {}
        self._numbers = {key: number for number, key in reversed(list(enumerate(keys)))}
        self._seen: set[str] = set()

    @property
    def missing(self) -> list[str]:
        """Keys of entries that have not been found, sorted."""
        return sorted(self._numbers.keys() - self.found.keys())

    def read(self) -> None:
        """Takes what is wanted from packs that have not been looked at before; passes over those that are damaged."""
        paths = [path for path in self.folder.glob("*.safetensors") if path.name not in self._seen]
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
            self._seen.add(path.name)
            try:
                self.found |= self._entries(path)
            except (OSError, SafetensorError):
                continue

    def _entries(self, path: Path) -> dict[str, Tensors]:
        found: dict[str, Tensors] = {}
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it has no other way to be asked
                key, _, tensor = name.partition(".")
                if key in self._numbers and key not in self.found:
                    found.setdefault(key, {})[tensor] = file.get_tensor(name)
        return found

    def compute(self, compute: Callable[[int], Tensors]) -> Iterable[Path]:
        """Computes the entries that are missing, and yields each pack of them that it has written."""
        waiting: dict[str, Tensors] = {}
        size = 0
        for key in self.missing:
            entry = {
                name: tensor.detach().cpu().contiguous()
                for name, tensor in compute(self._numbers[key]).items()
            }
            self.found[key] = waiting[key] = entry
            size += sum(tensor.nbytes for tensor in entry.values())
            if len(waiting) >= PACK_ENTRIES or size >= PACK_BYTES:
                yield self._write(waiting)
                waiting, size = {}, 0
        if waiting:
            yield self._write(waiting)

    def _write(self, entries: Mapping[str, Tensors]) -> Path:
        name = hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()
        path = self.folder / f"{name}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(
            path,
            {f"{key}.{name}": tensor for key, entry in entries.items() for name, tensor in entry.items()},
        )
        return path


def _fetch(packs: _Packs, backend: CacheBackend, folder: str) -> None:
    """Fetches packs from a farther place until nothing is missing.

    Which entries they hold is seen once they are here. One that is fetched in vain takes less than computing what it
    has, and is not fetched again.
    """
    if not packs.missing:
        return
    for name in sorted(backend.names(folder)):
        path = packs.folder / name.rpartition("/")[2]
        # Names come from a place that others write to: none may lead out of the folder.
        if _PACK.fullmatch(path.name) and not path.exists():
            packs.folder.mkdir(parents=True, exist_ok=True)
            backend.fetch(f"{folder}/{path.name}", path)
            packs.read()
        if not packs.missing:
            return
