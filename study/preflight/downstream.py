"""What the downstream phase of a study has to do, and what it will take: classifiers to train, images to draw."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.spec.downstream_data import images_needed
from study.spec.downstream_plan import DownstreamPlan, downstream_plan
from study.statistics.downstream.mcnemar import smallest_difference
from study.storage.layout import PROBES, Storage
from study.storage.run_key import RunKey
from study.util.json_files import write_json
from trainables.events import EVENTS_FILE, RESULT_FILE

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec

_TIMED_STEPS = 4
_VERSION = 1  # of the measurement
_EACH_SECONDS = 1.0  # of a run beside its steps: reading images, judging, writing results
#: Shares of test images that one of two classifiers alone has right, of which a plan speaks (docs/downstream.md).
_DISCORDANT = (0.25, 0.35)


@dataclass(frozen=True)
class ClassifierWork:
    """The classifiers of a study.

    Attributes:
        cells: Rows of the downstream table.
        search_runs, final_runs: Of all cells.
        steps: Of each run.
        finished, interrupted, to_do: Of all runs.
        images: Generated for each arm and generator seed, by class.
        seconds: Estimated of what is left, one run after another; None without a probe.
        words: Lines for people.
    """

    cells: int
    search_runs: int
    final_runs: int
    steps: int
    finished: int
    interrupted: int
    to_do: int
    images: Mapping[str, int]
    seconds: float | None
    words: tuple[str, ...]


def classifier_work(
    spec: StudySpec, storage: Storage, step_seconds: Mapping[str, float] | None = None
) -> ClassifierWork | None:
    """Returns the downstream part of a plan; None for a study without one.

    Args:
        step_seconds: Of each classifier by its label, see `classifier_step_seconds`.
    """
    plan = downstream_plan(spec)
    if plan is None:
        return None
    planned, downstream = plan.planned(), plan.downstream
    searches = sum(count for (_, phase), count in planned.items() if phase == "downstream-search")
    total = sum(planned.values())
    finished, interrupted = _begun(plan, storage)
    seconds = None
    if step_seconds is not None:
        seconds = 0.0
        for (cell, _), count in planned.items():
            each = step_seconds[plan.arms[cell].cell.classifier.label] * downstream.max_train_steps
            seconds += (each + _EACH_SECONDS) * count
        seconds *= (total - finished - interrupted / 2) / max(1, total)
    return ClassifierWork(
        cells=len(plan.arms),
        search_runs=searches,
        final_runs=total - searches,
        steps=downstream.max_train_steps,
        finished=finished,
        interrupted=interrupted,
        to_do=max(0, total - finished - interrupted),
        images={label: images_needed(downstream, plan.prepared, label) for label in plan.prepared.classes},
        seconds=seconds,
        words=tuple(_words(plan, searches, total - searches)),
    )


def classifier_step_seconds(spec: StudySpec, storage: Storage, *, measure: bool) -> dict[str, float] | None:
    """Returns the seconds of a step of each classifier on this machine, as measured before or now.

    Args:
        measure: Whether to measure what is not known; otherwise None is returned if anything is not.
    """
    plan = downstream_plan(spec)
    if plan is None:
        return {}
    found: dict[str, float] = {}
    for choice in plan.downstream.classifiers:
        request = {
            "version": _VERSION,
            "network": choice.network,
            "resolution": plan.downstream.resolution,
            "batch": plan.downstream.train_batch_size,
            "classes": len(plan.prepared.classes),
            "threads": spec.resources.worker_cpus,
            "cuda": spec.resources.worker_gpus > 0,
        }
        name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        file = storage.cache / PROBES / f"classifier-{name}.json"
        known = _read(file)
        if known is None and measure:
            known = _timed(request)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"seconds": known})
        if known is None:
            return None
        found[choice.label] = known
    return found


def _read(file: Path) -> float | None:
    try:
        return float(json.loads(file.read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _timed(request: Mapping[str, Any]) -> float:
    """Times steps on random images; the first, which sets things up, does not count."""
    import torch

    from trainables.classifiers.networks import build_classifier

    device = torch.device("cuda" if request["cuda"] and torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(int(request["threads"]))
    try:
        generator = torch.Generator().manual_seed(0)
        built = build_classifier(
            str(request["network"]), int(request["classes"]), int(request["resolution"]), None, generator=generator
        )  # fmt: skip
        network = built.classifier.to(device).train()
        side = int(request["resolution"])
        images = torch.rand(int(request["batch"]), 3, side, side, generator=generator).to(device)
        optimizer = torch.optim.Adam(network.parameters())
        begin = time.perf_counter()
        for number in range(_TIMED_STEPS + 1):
            if number == 1:
                begin = time.perf_counter()
            optimizer.zero_grad()
            network(images).sum().backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / _TIMED_STEPS
    finally:
        torch.set_num_threads(threads)


def _begun(plan: DownstreamPlan, storage: Storage) -> tuple[int, int]:
    """Runs of the plan that are over, and that have begun."""
    finished = interrupted = 0
    for cell, phase in plan.planned():
        for folder in (storage.runs / phase / cell).glob("*"):
            try:
                RunKey.parse(f"{phase}/{cell}/{folder.name}")
            except ValueError:
                continue
            over = (folder / RESULT_FILE).exists()
            finished += over
            interrupted += not over and (folder / EVENTS_FILE).exists()
    return finished, interrupted


def _words(plan: DownstreamPlan, searches: int, finals: int) -> list[str]:
    downstream, prepared = plan.downstream, plan.prepared
    counts = {
        part: ", ".join(f"{label} {count}" for label, count in prepared.counts[part].items())
        for part in ("train", "validation", "test")
    }
    seeds = f"{len(downstream.seeds)} classifier seeds x {len(downstream.generator_seeds)} generator seeds"
    of_searches = f"{searches} search runs ({downstream.trials} trials a cell), " if searches else ""
    lines = [
        f"downstream: {len(plan.arms)} cells of {downstream.max_train_steps} steps each: {of_searches}{finals} final "
        f"runs ({seeds})",
        f"downstream data, real images alone: train {counts['train']}; validation {counts['validation']}; test "
        f"{counts['test']}",
        "generated for each arm and generator seed: "
        + ", ".join(f"{label} {images_needed(downstream, prepared, label)}" for label in prepared.classes),
    ]
    test = sum(prepared.counts["test"].values())
    low, high = (100 * smallest_difference(test, discordant=share) for share in _DISCORDANT)
    how = f"80 % of cases, McNemar's test, {_DISCORDANT[0]:.0%} to {_DISCORDANT[1]:.0%} discordant"
    if math.isnan(high):
        found = "are so few that they resolve no difference in accuracy between two classifiers"
    elif math.isnan(low):
        found = (
            f"resolve a difference of {high:.1f} points of accuracy between two classifiers at best, if they disagree "
            "about the most images, and none otherwise"
        )
    else:
        found = f"resolve differences of {low:.1f} to {high:.1f} points of accuracy between two classifiers"
    return [*lines, f"{test} test images {found} ({how})"]
