"""Opens the ledger of a study, once for each process."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from study.ledger.ledger import Ledger
from study.storage.layout import Storage, sqlite_path

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec


def open_ledger(spec: StudySpec, storage: Storage) -> Ledger:
    """Returns the ledger of a study: the process's one object, so that all its threads share one lock."""
    url = spec.storage.ledger_url or storage.ledger_url
    file = sqlite_path(url)
    with _ledgers_lock:
        # A file that was removed, or replaced by a copy from the storage's URL, is another database.
        known = _ledgers.get((url, spec.name))
        if known is None or (file is not None and _inode(file) != known[0]):
            ledger = Ledger(url, spec.name)
            known = _ledgers[url, spec.name] = (_inode(file) if file is not None else None, ledger)
        return known[1]


def _inode(file: Path) -> int | None:
    try:
        return os.stat(file).st_ino
    except OSError:
        return None


_ledgers: dict[tuple[str, str], tuple[int | None, Ledger]] = {}

_ledgers_lock = threading.Lock()
