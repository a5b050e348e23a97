"""Where a worker works on a run: in the run's own folder, or, if the storage is a URL, in a scratch folder of its node.

A node that cannot see the storage must not train into a folder of its own that nobody will ever read: both places
say so with a `WorkspaceError`, upon which the run is handed out again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from study.remote.cache_backend import use_backend
from study.remote.inputs import fetch_inputs, named_folders
from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import RunView, announce, run_prefix
from study.remote.run_upload import RunPusher, Superseded, pull_run
from study.storage.layout import CACHE, INPUTS, RUNS, WORKER_LOCK_FILE
from study.storage.shared_marker import VISIBLE_SECONDS, is_visible
from trainables.classifier_run_config import AnyRunConfig, parse_run_config
from trainables.data.path_map import set_path_map
from trainables.downstream.contents import sealed_run
from trainables.errors import UserError
from trainables.run_config import RunConfig
from trainables.util.file_lock import is_locked
from trainables.util.process import expanded

if TYPE_CHECKING:
    from study.worker.order import Order

PULL_PATIENCE_SECONDS = 300.0
LEFTOVER_SECONDS = 3600.0


class WorkspaceError(RuntimeError):
    """This node cannot work on the run, or what it did could not be kept; the run itself is not to blame."""


class Workspace(Protocol):
    """A folder to work on one run in.

    Attributes:
        config: The run's configuration, with the folders of this node.
    """

    config: AnyRunConfig

    def open(self) -> None:
        """Makes the folder ready, before anything is written to it; raises WorkspaceError."""
        ...

    def begin(self) -> None:
        """Called when the folder is locked and the attempt noted in it."""
        ...

    def finish(self, seconds: float) -> bool:
        """Waits so long for what the run left to be kept; returns whether it is. Raises WorkspaceError."""
        ...

    def close(self) -> None:
        """Lets go, whether or not the run has ended."""
        ...


def workspace_of(order: Order) -> Workspace:
    """Returns where this process works on an order."""
    config = parse_run_config(order.config)
    return ScratchWorkspace(order, config) if order.url else SharedWorkspace(order, config)


class SharedWorkspace:
    """The run's own folder, which driver and workers see under the same path."""

    def __init__(self, order: Order, config: AnyRunConfig) -> None:
        self.config = config
        self._order = order

    def open(self) -> None:
        """Makes sure that this node sees the driver's storage and what the run is to be taught."""
        if self._order.home:
            check_visible(Path(self._order.home), self._order.driver_id)
            check_inputs(self.config)

    def begin(self) -> None:
        """Nothing more is needed."""

    def finish(self, seconds: float) -> bool:
        """What is written there is kept."""
        return True

    def close(self) -> None:
        """Nothing is held."""


class ScratchWorkspace:
    """A folder of this node for one attempt; a `RunPusher` copies it to the storage's URL."""

    def __init__(self, order: Order, config: AnyRunConfig) -> None:
        base = scratch_root(order.url)
        self._root = base / order.attempt / hashlib.sha256(order.key.encode()).hexdigest()[:16]
        self.folder = self._root / order.study / RUNS / order.key
        self.config = config.model_copy(
            update={"output_dir": str(self.folder), "cache_dir": str(base / CACHE)}
        )
        self._order = order
        self._store: ObjectStore | None = None
        self._pusher: RunPusher | None = None
        self._base: RunView | None = None
        self._ended = False

    def open(self) -> None:
        """Fetches what earlier attempts left."""
        order = self._order
        remove_leftovers(scratch_root(order.url))
        shutil.rmtree(self._root, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._store = ObjectStore(order.url, patience=PULL_PATIENCE_SECONDS)
            prefix = run_prefix(order.study, order.key)
            announce(self._store, prefix, order.attempt)
            self._base = pull_run(self._store, prefix, self.folder)
            self.config = _with_inputs(self.config, self._store)
        except (OSError, ValueError) as error:
            raise WorkspaceError(f"{error} (from node {socket.gethostname()})") from error
        check_inputs(self.config)
        use_backend(order.url, Path(self.config.cache_dir))
        self._ended = self._base is not None and self._base.ended

    def begin(self) -> None:
        """Begins to copy."""
        if self._ended:
            return
        assert self._store is not None
        order = self._order
        self._store.patience = 60.0
        self._pusher = RunPusher(
            self._store,
            run_prefix(order.study, order.key),
            order.attempt,
            self.folder,
            self._base,
            obeys=order.stoppable,
        )

    def finish(self, seconds: float) -> bool:
        """Waits for the copy; nothing is to be done for a run that had ended before."""
        if self._pusher is None:
            return True
        try:
            return self._pusher.finish(seconds)
        except (StoreError, Superseded, OSError) as error:
            raise WorkspaceError(f"{self._order.key} could not be kept: {error}") from error

    def close(self) -> None:
        """Ends the copying and removes the folder."""
        pusher, self._pusher = self._pusher, None
        if pusher is not None:
            pusher.abandon()
        shutil.rmtree(self._root, ignore_errors=True)


def check_inputs(config: AnyRunConfig) -> None:
    """Raises WorkspaceError if this node lacks a folder that the run's configuration names."""
    for name in named_folders(config):
        place = expanded(config.path_map.get(name, name))
        is_single_file = isinstance(config, RunConfig) and name == config.model.path and place.is_file()
        if not place.is_dir() and not is_single_file:
            raise WorkspaceError(
                f"node {socket.gethostname()} lacks the folder {place}; put it there, or run the same command again: "
                "what not every node has is copied into the storage when a study is launched (folders, no single files)"
            )


def worker_config(order: Order) -> AnyRunConfig:
    """Returns the configuration for a worker that helps to train a run, with its folders as they lie on its node."""
    config = parse_run_config(order.config)
    try:
        if order.url and config.path_map:
            config = _with_inputs(config, ObjectStore(order.url, patience=PULL_PATIENCE_SECONDS))
        set_path_map(config.path_map)
        return sealed_run(config)
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"{error} (from node {socket.gethostname()})") from error
    except UserError as error:
        raise WorkspaceError(f"{'; '.join(error.problems)} (on node {socket.gethostname()})") from error


def _with_inputs(config: AnyRunConfig, store: ObjectStore) -> AnyRunConfig:
    """Fetches shipped folders to this node, once for all runs."""
    cache = scratch_root(store.url) / INPUTS
    path_map = {name: str(fetch_inputs(store, key, cache)) for name, key in config.path_map.items()}
    return config.model_copy(update={"path_map": path_map})


def scratch_root(url: str) -> Path:
    """Returns this node's scratch folder for a storage URL: under ``STUDY_SCRATCH``, or the temporary folder."""
    base = os.environ.get("STUDY_SCRATCH") or f"{tempfile.gettempdir()}/diffusion-study-{os.getuid()}"
    return Path(base).absolute() / hashlib.sha256(url.encode()).hexdigest()[:16]


def remove_leftovers(root: Path) -> None:
    """Removes the folders of attempts that have no living worker, an hour after they began."""
    for folder in root.glob("[0-9]*-*/*"):
        with contextlib.suppress(OSError):
            locks = list(folder.rglob(WORKER_LOCK_FILE))
            old = time.time() - folder.stat().st_mtime > LEFTOVER_SECONDS
            if old and not any(is_locked(lock) for lock in locks):
                shutil.rmtree(folder, ignore_errors=True)


def check_visible(folder: Path, driver_id: str) -> None:
    """Raises WorkspaceError if this node does not see the driver's storage; writes nothing."""
    if not is_visible(folder, driver_id, VISIBLE_SECONDS):
        raise WorkspaceError(
            f"node {socket.gethostname()} does not see the storage folder {folder}: it must lie on a file system that "
            "every node mounts at the same path, or --storage must be a URL such as s3://bucket/prefix"
        )
