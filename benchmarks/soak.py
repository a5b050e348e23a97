"""Many short real runs in warm actors: do memory, open files, threads and Ray's object store stay flat?

Every method of the catalogue trains a tiny model of random weights for two steps and is judged by a few images, on
the whole path with MLflow and terminal. Driver and actors are looked at twice a second; after the warm-up a line is
laid through each quantity over the number of runs, and a slope beyond its bound fails.

    python -m benchmarks.soak [--runs 300] [--slots 2] [--warm-up 0.4]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Worker and driver are told before torch is loaded: glibc then keeps few pools, and what is freed goes back.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")

from benchmarks.measuring import Sample, Sampler, object_store, slope
from benchmarks.scale import Listeners
from study.cluster.ray_cluster import cluster
from study.driver.launch import launch
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from trainables.events import EVENTS_FILE, RESULT_FILE, read_events
from trainables.methods.registry import method_names

# Growth a run that is called flat. Memory of a process is what malloc keeps, which creeps; a leaked base model of
# this size would be 3,000 KiB a run, leaked activations more.
BOUNDS = {
    "driver/MiB": 0.20,
    "actor/MiB": 0.25,
    "driver/files": 0.02,
    "actor/files": 0.02,
    "driver/threads": 0.02,
    "actor/threads": 0.02,
    "raylet/files": 0.05,
    "gcs_server/files": 0.05,
    "object store/bytes": 2000.0,
    "object store/objects": 0.05,
}


def make_models(folder: Path) -> None:
    """Makes photographs and tiny models of random weights; imports torch."""
    from benchmarks.support.tiny_models import make_photos, make_tiny_clip, make_tiny_model, make_tiny_vit

    for photo in make_photos(folder / "photos", count=4).glob("*.png"):
        photo.with_suffix(".txt").write_text("a sks cat")  # for methods that read captions
    make_tiny_model(folder / "model", resolution=16, width=16)
    make_tiny_vit(folder / "vit", resolution=16)
    make_tiny_clip(folder / "clip", resolution=16)


def study(runs: int, slots: int, folder: Path) -> StudySpec:
    """One arm a method, with so many confirm runs in all."""
    methods = method_names()
    per_arm = max(1, runs // len(methods))
    return StudySpec.model_validate(
        {
            "name": "soak",
            "model": str(folder / "model"),
            "subjects": [
                {
                    "name": "cat",
                    "images": str(folder / "photos"),
                    "instance_prompt": "a sks cat",
                    "class_prompt": "a cat",
                    "holdout": 1,
                }
            ],
            "arms": {
                name: {"method": name, **({} if name == "base" else {"search_space": "fixed"})}
                for name in methods
            },
            "search": {"trials": 1, "subjects": ["cat"]},
            "confirm": {"subjects": ["cat"], "seeds": list(range(100, 100 + per_arm))},
            "training": {"train_batch_size": 1, "checkpointing_steps": 1, "resolution": 16},
            "budget": {"max_train_steps": 2},
            "evaluation": {
                "at": [],
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 1,
                "anchor_images": 2,
                "num_class_images": 2,
                "image_encoder": str(folder / "vit"),
                "clip": str(folder / "clip"),
            },
            "resources": {"max_concurrent_runs": slots},
        }
    )


@dataclass(frozen=True)
class Line:
    """One quantity of one process: where it stood after the warm-up and at the end, and its growth a run."""

    name: str
    first: float
    last: float
    growth: float
    bound: float | None

    @property
    def flat(self) -> bool:
        """Whether it stays within its bound."""
        return self.bound is None or self.growth <= self.bound


def lines(samples: list[Sample], runs: int, warm_up: float) -> list[Line]:
    """Returns a line for every quantity that was seen after the warm-up, over that many runs."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for sample in samples:
        if sample.runs >= runs:
            break  # actors are ending
        for name, value in sample.values.items():
            series[name].append((sample.runs, value))
    begin = round(warm_up * runs)
    found = []
    for name, points in sorted(series.items()):
        late = [point for point in points if point[0] >= begin]
        if len(late) < 5 or late[-1][0] - late[0][0] < (runs - begin) / 2:
            continue  # a process that lived too short to say anything
        process, _, quantity = name.partition("/")
        bound = BOUNDS.get(f"{process.split()[0] if process.startswith('actor') else process}/{quantity}")
        found.append(Line(name, late[0][1], late[-1][1], slope(late), bound))
    return found


def soak(runs: int, slots: int, folder: Path, *, warm_up: float, every: float = 0.5) -> dict[str, Any]:
    """Runs the study and returns its lines, with how many processes trained how many runs."""
    # In a process of its own: the driver of a study never loads torch.
    maker = multiprocessing.get_context("spawn").Process(target=make_models, args=(folder,))
    maker.start()
    maker.join()
    spec = study(runs, slots, folder)
    storage = Storage(folder / "storage", spec.name)
    storage.root.mkdir()
    results = storage.folder / "runs"
    listeners = Listeners(spec, storage, storage.tracking_uri)

    def ended() -> int:
        return sum(1 for _ in results.glob(f"*/*/*/{RESULT_FILE}"))

    begin = time.perf_counter()
    with cluster(cpus=slots), Sampler(ended, every=every, more=object_store) as sampler:
        outcome = launch(spec, storage, listeners=(listeners,))
        seconds = time.perf_counter() - begin
        listeners.close()
    if outcome.failed or outcome.interrupted:
        raise SystemExit(f"the study did not end well: {outcome}")
    starts = [
        event.data["pid"]
        for path in results.glob(f"*/*/*/{EVENTS_FILE}")
        for event in read_events(path.parent)
        if event.kind == "started"
    ]
    return {
        "runs": outcome.complete,
        "seconds": seconds,
        "processes": len(set(starts)),
        "lines": lines(sampler.samples, outcome.complete, warm_up),
        "samples": sampler.samples,
    }


def main() -> None:
    """Prints the table; exit code 1 if something grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--slots", type=int, default=2, help="runs at once")
    parser.add_argument("--warm-up", type=float, default=0.4, help="share of the runs that is not judged")
    parser.add_argument("--json", type=Path, help="write all samples there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = soak(arguments.runs, arguments.slots, Path(name), warm_up=arguments.warm_up)
    if arguments.json:
        rows = [[sample.seconds, sample.runs, sample.values] for sample in found["samples"]]
        arguments.json.write_text(json.dumps(rows))
    print(f"{found['runs']} runs in {found['processes']} processes, {found['seconds']:.0f} s")
    print(f"{'':<28}{'after warm-up':>15}{'at the end':>15}{'a run':>12}{'bound':>10}")
    for line in found["lines"]:
        bound = "" if line.bound is None else f"{line.bound:g}"
        mark = "" if line.flat else "  GROWS"
        print(f"{line.name:<28}{line.first:>15.1f}{line.last:>15.1f}{line.growth:>12.4f}{bound:>10}{mark}")
    if not all(line.flat for line in found["lines"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
