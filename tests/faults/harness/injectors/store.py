"""A storage at a URL: a store that fails, a machine that is lost with all that was on it, and damaged objects."""

from __future__ import annotations

import json
import random
import threading
import time

from study.remote.object_store import ObjectStore
from study.remote.run_manifest import run_prefix
from tests.faults.harness.at_url import Kept, kept_runs, note_floors
from tests.faults.harness.driving import Driven
from tests.faults.harness.injectors.common import Recovered, one_run


def store_error(driven: Driven) -> Recovered:
    """The store answers 500 or 503 for some seconds."""
    dice = random.Random(driven.rng.random())
    driven.store.answer = lambda method, path: dice.choice((500, 503))
    return _until_it_works(driven, driven.rng.uniform(1.0, 8.0))


def store_slow(driven: Driven) -> Recovered:
    """Every request to the store takes up to two seconds longer for a while."""
    driven.store.delay = driven.rng.uniform(0.5, 2.0)
    return _until_it_works(driven, driven.rng.uniform(3.0, 8.0))


def store_hang(driven: Driven) -> Recovered:
    """The store accepts requests and answers none for a while; then it drops them."""
    over = threading.Event()

    def say_nothing(method: str, path: str) -> int:
        over.wait()
        return 0

    driven.store.answer = say_nothing
    try:
        return _until_it_works(driven, driven.rng.uniform(2.0, 15.0))
    finally:
        over.set()


def _until_it_works(driven: Driven, seconds: float) -> Recovered:
    try:
        time.sleep(seconds)
    finally:
        driven.store.delay, driven.store.answer = 0.0, lambda method, path: None
    return driven.goes_on()


def machine_lost(driven: Driven) -> Recovered:
    """SIGKILL of everything, and the disk is gone: the same command goes on from the URL, on another machine."""
    again = driven.is_tried_again(*driven.halfway())
    driven.lose_machine()
    note_floors(driven)
    return again


def corrupt_ledger_copy(driven: Driven) -> Recovered:
    """The machine is lost, and the newest copy of the ledger at the URL is damaged."""
    again = machine_lost(driven)
    assert driven.url is not None
    store = ObjectStore(driven.url)
    copies = {key: store.get(key) or b"" for key in store.list(f"{driven.name}/ledger")}
    newest = max(copies, key=lambda key: _age(copies[key]))
    store.put(newest, _damaged(driven, copies[newest]))
    return again


def corrupt_stored_checkpoint(driven: Driven) -> Recovered:
    """The machine is lost, and an object of a run's newest checkpoint at the URL is damaged."""
    name = one_run(driven)
    again = machine_lost(driven)
    kept = kept_runs(driven).get(name)
    if kept is not None and kept.checkpoints:
        _damage_checkpoint(driven, name, kept)
    return again


def _damage_checkpoint(driven: Driven, name: str, kept: Kept) -> None:
    assert driven.url is not None
    store = ObjectStore(driven.url)
    ref = driven.rng.choice([ref for _, ref in sorted(kept.checkpoints[kept.newest].items())])
    key = f"{run_prefix(driven.name, name)}/{ref.key}"
    store.put(key, _damaged(driven, store.get(key) or b""))
    before = max((step for step in kept.checkpoints if step < kept.newest), default=0)
    driven.floors[name] = [(events, min(step, before)) for events, step in driven.floors[name]]


def _age(copy: bytes) -> tuple[int, int]:
    """Generation and number of a copy of the ledger, which count up."""
    head = json.loads(copy.partition(b"\n")[0])
    return int(head["generation"]), int(head["number"])


def _damaged(driven: Driven, content: bytes) -> bytes:
    """The content cut short, or with some of its bytes altered."""
    if driven.rng.random() < 0.5:
        return content[: driven.rng.randrange(len(content))]
    altered = bytearray(content)
    for place in driven.rng.sample(range(len(altered)), min(8, len(altered))):
        altered[place] ^= 0x55
    return bytes(altered)
