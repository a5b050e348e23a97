"""Cache entries at a storage URL, so that what one node has computed (class images, base values) no other computes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from study.remote.object_store import ObjectStore
from study.storage.layout import CACHE
from trainables.data.cache_backend import backend_of, register_backend

REST_SECONDS = 300.0  # after a failure: a store that is away must not be waited for at every entry


class RemoteCacheBackend:
    """Fetches and keeps entries under ``cache/`` of a storage URL.

    Args:
        url: Of the storage.
    """

    def __init__(self, url: str) -> None:
        self._store = ObjectStore(url, patience=0)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cache-backend")
        self._rest_until = 0.0
        self._lock = threading.Lock()

    def fetch(self, name: str, path: Path) -> bool:
        """See `trainables.data.cache_backend.CacheBackend`."""
        if time.monotonic() < self._rest_until:
            return False
        try:
            return self._store.get_file(f"{CACHE}/{name}", path)
        except OSError:
            self._rest()
            return False

    def keep(self, name: str, path: Path) -> None:
        """Copies in the background."""
        if time.monotonic() >= self._rest_until:
            self._pool.submit(self._keep, name, path)

    def names(self, folder: str) -> list[str]:
        """See `trainables.data.cache_backend.CacheBackend`."""
        if time.monotonic() < self._rest_until:
            return []
        try:
            return [key.removeprefix(f"{CACHE}/") for key in self._store.list(f"{CACHE}/{folder}")]
        except OSError:
            self._rest()
            return []

    def _keep(self, name: str, path: Path) -> None:
        try:
            self._store.put_file(f"{CACHE}/{name}", path)
        except OSError:
            self._rest()

    def _rest(self) -> None:
        with self._lock:
            self._rest_until = time.monotonic() + REST_SECONDS


def use_backend(url: str, cache: Path) -> None:
    """Puts the storage behind a node's cache folder, once a process."""
    if backend_of(cache) is None:
        register_backend(cache, RemoteCacheBackend(url))
