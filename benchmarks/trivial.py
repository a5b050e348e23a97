"""A run that trains nothing and leaves what a real one leaves: events, an image, weights and a result.

Its time is its own: from the first line to the last it notes how long it took, so that a benchmark can tell
what the study adds. Imported by the workers, so it loads no torch.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from study.util.json_files import write_json
from trainables.events import RESULT_FILE, RUN_FILE, Event, EventLog
from trainables.run_config import RunConfig

PROGRESS_EVENTS = 5
_PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001"
    "f61738550000000049454e44ae426082"
)


def execute(config: RunConfig, _resident: object = None) -> Iterator[Event]:
    """As `trainables.run.execute.execute`; the quality is a function of the configuration alone."""
    begin = time.perf_counter()
    folder = Path(config.output_dir)
    if (folder / RESULT_FILE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN_FILE, config.model_dump(mode="json"))
    log = EventLog(folder)
    steps = config.training.max_train_steps
    yield log.append(
        "started", attempt=1, resumed_step=0, pid=os.getpid(), host=socket.gethostname(), device="cpu"
    )
    for number in range(1, PROGRESS_EVENTS + 1):
        yield log.append(
            "progress", round(number * steps / PROGRESS_EVENTS), loss=1 / number, learning_rate=1e-4
        )
    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / "grid.png").write_bytes(_PIXEL)
    yield log.append("image", steps, key="grid", path="samples/grid.png")
    quality = (hash_of(config) % 1000) / 1000
    scores = {"quality": quality, "subject_fidelity": quality, "prompt_fidelity": 1 - quality}
    yield log.append("evaluation", steps, final=True, **scores)
    (folder / "weights").mkdir(exist_ok=True)
    (folder / "weights" / "weights.bin").write_bytes(bytes(1000))
    state = {"state": "COMPLETE", "reason": None, "message": None, "traceback": None}
    cost = {"train_seconds": time.perf_counter() - begin}
    yield log.append("cost", **cost)
    finished = log.append("finished", steps, **state)
    write_json(
        folder / RESULT_FILE,
        {**state, "evaluation": scores, "cost": cost, "weights": "weights", "attempts": 1}
        | {"config_digest": config.digest()},
    )
    yield finished


def hash_of(config: RunConfig) -> int:
    """A number that follows from what the run trains, the same on every machine."""
    text = json.dumps([config.training.model_dump(mode="json"), config.seed], sort_keys=True)
    return sum(position * ord(letter) for position, letter in enumerate(text))
