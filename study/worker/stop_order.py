"""Tells the worker of a run to stop it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from study.remote.object_store import ObjectStore, StoreError
from study.remote.run_manifest import run_prefix
from study.storage.layout import STOP_FILE
from study.util.json_files import write_json


def order_stop(folder: Path, reason: str, *, url: str = "", study: str = "", run: str = "") -> None:
    """Asks the worker of a run to end it as PRUNED at its next event; a restarted worker obeys it too.

    Args:
        folder: The run's, as the caller sees it.
        url: Of the storage, if it is one: its worker looks for the order there.
    """
    write_json(folder / STOP_FILE, {"reason": reason})
    if url:
        with contextlib.suppress(StoreError):  # then the run just goes on to its end
            store = ObjectStore(url, patience=5.0)
            store.put(f"{run_prefix(study, run)}/{STOP_FILE}", json.dumps({"reason": reason}).encode())
