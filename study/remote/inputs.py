"""The worker's side of shipped inputs: which folders a run names, and a node's own copies of those at a URL."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import FileRef, fetch_file, safe_path
from study.storage.layout import INPUTS_INDEX_FILE
from trainables.classifier_run_config import AnyRunConfig, ClassifierRunConfig
from trainables.util.file_lock import FOREVER, lock_file
from trainables.util.text import is_utf8, name_bytes


def named_folders(config: AnyRunConfig) -> list[str]:
    """Returns the folders (and a model in one file) that a run's configuration names by an absolute path."""
    if isinstance(config, ClassifierRunConfig):
        return _absolute([config.data, config.training.weights])
    subject, evaluation = config.subject, config.evaluation
    model = config.model
    classes = config.generation.classes if config.generation is not None else None
    names = [
        *subject.folders.values(),
        model.path,
        model.config,
        evaluation.image_encoder,
        evaluation.clip,
        classes,
    ]
    return _absolute(names)


def _absolute(names: Iterable[str | None]) -> list[str]:
    return [name for name in names if name and name.startswith(("/", "~"))]


def object_of(relative: str) -> str:
    """Returns where a file of a shipped folder lies below it: keys are UTF-8, file names need not be."""
    return f"f/{relative}" if is_utf8(relative) else f"b/{quote(name_bytes(relative))}"


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
        lock_file(lock, wait_seconds=FOREVER)
        if target.exists():
            return target
        content = store.get(f"{key}/{INPUTS_INDEX_FILE}")
        if content is None:
            raise StoreError(f"storage {store.url}: {key} is not there")
        partial = cache / f".{target.name}.partial"
        for relative, (count, sha256) in json.loads(content).items():
            ref = FileRef(object_of(safe_path(relative)), count, sha256)
            if not fetch_file(store, key, ref, partial / relative):
                raise StoreError(f"storage {store.url}: {key}/{ref.key} is damaged or gone")
        os.replace(partial, target)
    return target


def files_of(folder: Path) -> list[Path]:
    """The files of an input folder in a stable order, without hidden ones; links are followed."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / name for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())
