"""What a study needs of its surroundings: disk, CPUs and GPUs, a reachable MLflow and Ray.

Each check returns messages (the rule, the value, the remedy), never raises, and waits a few seconds at most.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from study.cluster.capacity import Node, demand_of, fitting_runs
from study.cluster.ray_cluster import usable_cpus
from study.spec.sections import Resources
from study.util.disk import existing, room_problem


def check_disk(folder: Path, needed: int) -> list[str]:
    """Tells whether `needed` bytes are free (and some to spare) where `folder` is or would be made."""
    place = existing(folder)
    try:
        no_room = room_problem(
            folder, "the study", "choose another place with --storage, or plan fewer runs", needed
        )
    except OSError as error:
        return [
            f"the storage folder {folder} cannot be used ({error.strerror or error}); "
            "choose another with --storage"
        ]
    if not place.is_dir():
        return [
            f"the storage folder {folder} cannot be made: {place} is a file; choose another with --storage"
        ]
    if not os.access(place, os.W_OK):
        return [
            f"the storage folder {folder} cannot be written; "
            "change its permissions or choose another with --storage"
        ]
    return [no_room] if no_room else []


def this_machine() -> Node:
    """Returns what this machine offers to runs."""
    return Node(float(usable_cpus()), float(count_gpus()))


def check_resources(resources: Resources) -> list[str]:
    """Tells whether a run can ever be placed on this machine; Ray would otherwise wait for ever."""
    here = this_machine()
    cpus, gpus = here.cpus, here.gpus
    problems = []
    if resources.num_workers * resources.worker_cpus > cpus:
        asked, remedy = _asked(resources, "CPUs", resources.worker_cpus, "cpus")
        problems.append(f"each run asks for {asked}, but this machine has {cpus:g}; {remedy}")
    if resources.num_workers * resources.worker_gpus > gpus:
        asked, remedy = _asked(resources, "GPUs" if gpus else "GPU", resources.worker_gpus, "gpus")
        if gpus == 0:
            field = _field(resources, "gpus")
            remedy = f"set resources.{field} to 0, or join a cluster that has GPUs with --address"
        has = f"{gpus:g}" if gpus else "none"
        problems.append(f"each run asks for {asked}, but this machine has {has}; {remedy}")
    return problems


def _asked(resources: Resources, unit: str, each: float, kind: str) -> tuple[str, str]:
    """What a run asks for, in words, and how to ask for less."""
    field = _field(resources, kind)
    if resources.num_workers == 1:
        return f"{each:g} {unit}", f"lower resources.{field}"
    total = resources.num_workers * each
    words = f"{total:g} {unit} ({resources.num_workers} workers with {each:g} each)"
    return words, f"lower resources.num_workers or resources.{field}"


def _field(resources: Resources, kind: str) -> str:
    """The field that decides how many CPUs or GPUs a worker gets."""
    given = getattr(resources, f"{kind}_per_worker") is not None
    return f"{kind}_per_worker" if given or resources.num_workers > 1 else f"{kind}_per_run"


def concurrency(resources: Resources) -> int:
    """Returns how many runs there can be at once on this machine, each with all its workers; at least 1."""
    most = fitting_runs([this_machine()], demand_of(resources))
    return max(1, min(most, resources.max_concurrent_runs or most))


def count_gpus() -> int:
    """Returns the number of NVIDIA GPUs that CUDA_VISIBLE_DEVICES lets this process see; loads no torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = (
        None if visible is None else [part for part in visible.split(",") if part.strip() not in ("", "-1")]
    )
    if chosen == []:
        return 0
    there = len(list(Path("/dev").glob("nvidia[0-9]*"))) or _count_by_driver()
    return there if chosen is None else min(there, len(chosen))


def _count_by_driver() -> int:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
