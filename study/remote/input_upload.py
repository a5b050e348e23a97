"""Inputs that lie on the driver's disk alone (images, model folders) are copied once into the storage.

They lie under ``inputs/<digest>`` of the storage's folder or URL, named by their content, so that all studies share
them and none is copied twice. Workers find them through `RunConfig.path_map`; names and identities stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from study.remote.inputs import files_of, object_of
from study.remote.object_store import ObjectStore, StoreError
from study.storage.layout import INPUTS, INPUTS_INDEX_FILE, Storage
from study.util.units import size
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.util.files import sha256_of

PATIENCE_SECONDS = 300.0


def ship(names: list[str], storage: Storage, limit_gb: float, say: Callable[[str], None]) -> dict[str, str]:
    """Copies folders into the storage, unless they are there; returns where each lies.

    Raises:
        UserError: They are larger than the limit, all together, or the storage does not take them.
    """
    sizes = {name: sum(path.stat().st_size for path in files_of(folder_of(name))) for name in names}
    if sum(sizes.values()) > limit_gb * 1e9:
        listed = "\n".join(f"  {name}: {size(count)}" for name, count in sizes.items())
        raise UserError(
            f"these folders are not on every node and are larger than storage.ship_limit_gb = {limit_gb:g} allows to "
            f"copy:\n{listed}\nput them on a file system that every node mounts at the same path, name a model by "
            "its hub id, or raise the limit"
        )
    path_map = {}
    for name in names:
        folder = folder_of(name)
        index = {str(path.relative_to(folder)): path for path in files_of(folder)}
        digests = {relative: sha256_of(path) for relative, path in index.items()}
        digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:32]
        say(f"copying {name} ({size(sizes[name])}) to {storage.uri}/{INPUTS}/{digest}, unless it is there")
        try:
            path_map[name] = (
                _to_url(storage, digest, index, digests)
                if storage.url
                else _to_folder(storage.root / INPUTS / digest, index)
            )
        except (StoreError, OSError) as error:
            raise UserError(f"{name} could not be copied to the storage: {error}") from None
    return path_map


def _to_folder(target: Path, files: Mapping[str, Path]) -> str:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for relative, path in files.items():
                (partial / relative).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, partial / relative)
            os.replace(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return str(target)


def _to_url(storage: Storage, digest: str, files: Mapping[str, Path], digests: Mapping[str, str]) -> str:
    """Copies file by file, what is there already left out; the index comes last."""
    assert storage.url is not None
    store, key = ObjectStore(storage.url, patience=PATIENCE_SECONDS), f"{INPUTS}/{digest}"
    there = store.list(key)
    if f"{key}/{INPUTS_INDEX_FILE}" in there:
        return key
    index = {}
    for relative, path in files.items():
        place = f"{key}/{object_of(relative)}"
        known = there.get(place)
        if known is None or known.size != path.stat().st_size:
            store.put_file(place, path)
        index[relative] = [path.stat().st_size, digests[relative]]
    store.put(f"{key}/{INPUTS_INDEX_FILE}", json.dumps(index).encode())
    return key
