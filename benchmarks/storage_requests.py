"""Counts what one run at a storage URL asks of the store: ``python -m benchmarks.storage_requests --seconds 60 600``.

A run of steps without training, with a checkpoint at every tenth step and two evaluations of five images, is driven
by a worker and followed by a driver as in a study; a proxy before a real S3 server (moto's) counts. Without Ray.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.support.s3_server import CREDENTIALS, Proxy, proxy, s3_server
from study.driver.remote_sync import FIRST_SECONDS, LONGEST_SECONDS
from study.remote.object_store import ObjectStore
from study.remote.run_manifest import attempt_name
from study.remote.working_copy import RunCopies
from study.spec.study_spec import StudySpec
from study.storage.layout import storage_at
from study.storage.run_key import RunKey
from study.worker.attempt import Attempt
from study.worker.order import Order
from trainables.events import RESULT_FILE, RUN_FILE, Event, EventLog
from trainables.run_config import RunConfig

RUN = RunKey("confirm", "lora", 0, "dog-1", 100)
STEPS = 200
IMAGES = 5


def _study() -> StudySpec:
    """One run of eight steps that looks once on its way."""
    return StudySpec.model_validate(
        {
            "name": "small",
            "subjects": ["cat-1", "dog-1"],
            "arms": {"base": {"method": "base"}, "lora": {"method": "lora"}},
            "search": {"trials": 3, "subjects": ["cat-1"], "seeds": [0]},
            "confirm": {"subjects": ["dog-1"], "seeds": [100, 101]},
            "budget": {"max_train_steps": 8},
            "evaluation": {"at": [0.5]},
        }
    )


def steps(config: RunConfig) -> Iterator[Event]:
    """As `trainables.run.execute.execute`, without training: events, checkpoints, images and weights of 1 MB."""
    folder, pause = Path(config.output_dir), float(os.environ["STEP_SECONDS"])
    (folder / RUN_FILE).write_text(config.model_dump_json())
    log = EventLog(folder)
    yield log.append("started", attempt=1, resumed_step=0)
    for step in range(1, STEPS + 1):
        time.sleep(pause)
        yield log.append("progress", step, loss=1.0)
        if step % 10 == 0:
            place = folder / "checkpoint" / f"step-{step:08d}"
            partial = place.with_suffix(".partial")
            partial.mkdir(parents=True)
            (partial / "tensors.safetensors").write_bytes(os.urandom(2**20))
            (partial / "state.json").write_text("{}")
            partial.rename(place)
            yield log.append("checkpoint", step, path=f"checkpoint/{place.name}")
        if step in (STEPS // 2, STEPS):
            (folder / "samples").mkdir(exist_ok=True)
            for number in range(IMAGES):
                path = folder / "samples" / f"step-{step}-{number}.png"
                path.write_bytes(os.urandom(20_000))
                yield log.append("image", step, key=str(number), path=f"samples/{path.name}")
    (folder / "weights").mkdir()
    (folder / "weights" / "weights.safetensors").write_bytes(os.urandom(2**20))
    end = {"state": "COMPLETE", "reason": None, "message": None, "traceback": None}
    event = log.append("finished", STEPS, **end)
    (folder / RESULT_FILE).write_text(
        json.dumps({**end, "weights": "weights", "config_digest": config.digest()})
    )
    yield event


def measure(server: int, seconds: float) -> dict[str, Any]:
    """Returns requests by method, of the worker and of the driver that follows it."""
    os.environ["STEP_SECONDS"] = str(seconds / STEPS)
    with proxy(server) as workers, proxy(server) as drivers:
        spec, driver_id = _study(), f"s{time.monotonic_ns()}"[-8:]
        url, seen_by_driver = _url(workers, driver_id), _url(drivers, driver_id)
        config = spec.run_config(RUN, {}, storage_at(url, spec.name))
        order = Order(
            key=RUN.name, phase="confirm", group="", config=config.model_dump_json(), driver_id=driver_id,
            runner="benchmarks.storage_requests:steps", resident="", cpus=1, gpus=0, study=spec.name,
            attempt=attempt_name(1, driver_id), url=url,
        )  # fmt: skip
        attempt = Attempt(order)
        copies = RunCopies(ObjectStore(seen_by_driver), storage_at(seen_by_driver, spec.name))
        begun = time.monotonic()
        due = begun + FIRST_SECONDS
        while not attempt.advance(0.5)["done"]:
            if (now := time.monotonic()) >= due:
                copies.fetch_new(RUN.name, order.attempt)
                due = now + min(LONGEST_SECONDS, FIRST_SECONDS + (now - begun) / 20)
        assert copies.fetch(RUN.name)
        return {"seconds": time.monotonic() - begun, "worker": workers.requests, "driver": drivers.requests}


def _url(seen: Proxy, prefix: str) -> str:
    return seen.url(f"requests-{prefix}")


def dollars(requests: Counter[str]) -> float:
    """At S3's list price: 5 dollars a million for writing and listing, 0.4 for reading; deleting is free."""
    writes = requests["PUT"] + requests["POST"]
    return (writes * 5 + (requests["GET"] + requests["HEAD"]) * 0.4) / 1e6


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[5, 60], help="length of a run")
    options = parser.parse_args()
    os.environ |= CREDENTIALS
    with tempfile.TemporaryDirectory() as folder, s3_server() as server:
        os.environ["STUDY_WORKING_COPIES"] = os.environ["STUDY_SCRATCH"] = folder
        print(
            "| run | who | PUT, POST | GET | HEAD | DELETE | dollars a 1000 runs |\n|---|---|---|---|---|---|---|"
        )
        for seconds in options.seconds:
            found = measure(server, seconds)
            for who in ("worker", "driver"):
                r = found[who]
                print(
                    f"| {found['seconds']:.0f} s | {who} | {r['PUT'] + r['POST']} | {r['GET']} | {r['HEAD']} | "
                    f"{r['DELETE']} | {1000 * dollars(r):.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
