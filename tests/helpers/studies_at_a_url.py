"""What lies at a storage URL, and rules for the proxy before it."""

from __future__ import annotations

import json

from study.remote.object_store import ObjectStore
from study.storage.layout import RUNS
from study.worker.workspace import scratch_root


def set_rules(url: str, rules: dict[str, object]) -> None:
    cache = scratch_root(url) / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "fake.json").write_text(json.dumps(rules))


def ended_there(store: ObjectStore, study: str) -> set[str]:
    """Names of the runs with a result at the URL."""
    keys = store.list(f"{study}/{RUNS}")
    return {"/".join(key.split("/")[2:5]) for key in keys if key.endswith("/result.json")}
