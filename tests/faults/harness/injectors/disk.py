"""A disk that refuses, is slow, or is full."""

from __future__ import annotations

import contextlib
import errno
import json
import time

from tests.faults.harness.driving import Driven
from tests.faults.harness.injectors.common import Recovered, must_say


def disk_error(driven: Driven) -> Recovered:
    """Writes of the workers fail (EIO) for a while."""
    return _disk(driven, errno.EIO)


def disk_read_only(driven: Driven) -> Recovered:
    """The storage is read-only (EROFS) for the workers for a while."""
    return _disk(driven, errno.EROFS)


def disk_full_for_a_moment(driven: Driven) -> Recovered:
    """The storage has no room (ENOSPC) for the workers for a while."""
    return _disk(driven, errno.ENOSPC)


def _disk(driven: Driven, number: int) -> Recovered:
    driven.tell("disk", json.dumps({"errno": number, "under": str(driven.storage.folder.resolve())}))
    time.sleep(driven.rng.uniform(0.3, 4.0))
    driven.untell("disk")
    return driven.goes_on()


def disk_slow(driven: Driven) -> Recovered:
    """Every flush to the disk takes up to two seconds longer for a while."""
    on = driven.goes_on()
    driven.tell("slow", str(driven.rng.uniform(0.5, 2.0)))
    time.sleep(driven.rng.uniform(3.0, 6.0))
    driven.untell("slow")
    return on


def disk_full(driven: Driven) -> Recovered:
    """The file system of the storage is really full: for driver, ledger, workers and MLflow; until there is room."""
    again = driven.is_tried_again(*driven.halfway())
    filler = driven.storage.root / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 2**20)
    try:
        if driven.wait_for_driver() != 0:
            must_say(driven, 1, "run the same command again", "make room")
    finally:
        filler.unlink(missing_ok=True)
    return again
