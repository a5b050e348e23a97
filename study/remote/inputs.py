"""The worker's side of shipped inputs: which folders a run names, and a node's own copies of those at a URL."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_objects import FileRef, fetch_file, safe_path
from trainables.config import RunConfig

INPUTS = "inputs"
INDEX = "index.json"


def named_folders(config: RunConfig) -> list[str]:
    """Returns the folders that a run's configuration names by an absolute path."""
    subject, evaluation = config.subject, config.evaluation
    names = [subject.images, subject.references, config.model.path, evaluation.image_encoder, evaluation.clip]
    return [name for name in names if name and name.startswith(("/", "~"))]


def fetch_inputs(store: ObjectStore, key: str, cache: Path) -> Path:
    """Returns a node's copy of a shipped folder, fetched and checked once, whoever asks first.

    Args:
        key: As `ship` returned it for a URL.
        cache: The node's folder of such copies.

    Raises:
        StoreError: It is not there, or not whole.
    """
    target = cache / safe_path(key).rpartition("/")[2]
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{target.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        content = store.get(f"{key}/{INDEX}")
        if content is None:
            raise StoreError(f"storage {store.url}: {key} is not there")
        partial = cache / f".{target.name}.partial"
        for relative, (count, sha256) in json.loads(content).items():
            ref = FileRef(f"f/{safe_path(relative)}", count, sha256)
            if not fetch_file(store, key, ref, partial / relative):
                raise StoreError(f"storage {store.url}: {key}/f/{relative} is damaged or gone")
        os.replace(partial, target)
    return target
