"""Where the processes of a worker group meet in tests: a store at a port that the system chooses, told through a file.

A port that is looked up first and listened on later may be somebody else's by then.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

PATIENCE = timedelta(minutes=5)


def meet(place: Path, rank: int, size: int) -> dist.Store:
    """Returns the store of a worker group; rank 0 makes it and leaves its port in the new file `place`."""
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", 0, size, True, PATIENCE, wait_for_workers=False)
        beside = place.with_name(f"{place.name}.partial")
        beside.write_text(str(store.port))
        os.replace(beside, place)
        return store
    until = time.monotonic() + PATIENCE.total_seconds()
    while not place.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"rank 0 did not come to {place}")
        time.sleep(0.02)
    return dist.TCPStore("127.0.0.1", int(place.read_text()), size, False, PATIENCE)
