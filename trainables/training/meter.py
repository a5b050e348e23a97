"""What a run costs: seconds by phase, counted operations, energy, peak memory.

Phases are ``start`` (models are loaded, once a process), ``prepare``, ``class_images``, ``train``, ``evaluate``,
``select`` (the evaluations by which a run chooses its best step), ``generate`` (images for classifiers) and ``save``.
Only ``train`` counts as training time;
the others are reported apart, so that two methods can be compared by what their optimisation takes. Class images are
charged by what making them took, whoever made them, so that the phase ``class_images``, which is what this run waited
for them, is reported by no name of its own; likewise images for classifiers.
"""

from __future__ import annotations

import math
import platform
import resource
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from trainables.distributed.worker_group import WorkerGroup
from trainables.training.energy import EnergyCounter

Phase = Literal["start", "prepare", "class_images", "train", "evaluate", "select", "generate", "save"]

_RESET_PEAK = "5"  # written to /proc/self/clear_refs, it sets VmHWM to the present resident set (Linux)


class Meter:
    """Adds up the cost of a run over all its attempts.

    Args:
        device: Where the run computes.
        devices: Devices held while training: GPUs of all workers, or CPU threads.
        energy: Counts what this process takes while it trains; None where nothing does.

    Attributes:
        class_image_seconds: What making the class images that the run trains on has taken; likewise
            `class_image_flops`.
        energy_joules: Of training, of all members of a worker group; None as soon as a part of it was not counted.
        flops_per_step: Counted operations of an optimizer step, the mean over a run.
        flops_by_bucket: Of one batch of each bucket, where images have several sizes; `batches_by_bucket`: how many
            have been trained on.
    """

    def __init__(self, device: torch.device, devices: int, energy: EnergyCounter | None = None) -> None:
        self._device = device
        self._devices = devices
        self._energy = energy
        self._inner = 0.0  # seconds of phases inside the present one
        self._new_energy: float | None = 0.0  # of this process, not yet shared with the worker group
        self.energy_joules: float | None = 0.0
        self.class_image_seconds = 0.0
        self.class_image_flops = 0
        self.seconds: dict[str, float] = dict.fromkeys(get_args(Phase), 0.0)
        self.lost_seconds = 0.0
        self._kept = 0.0  # seconds of earlier attempts that the checkpoint accounts for
        self.flops_per_step = 0
        self.flops_by_bucket: tuple[int, ...] = ()
        self.batches_by_bucket: list[int] = []
        self.peak_memory = 0

    @contextmanager
    def measure(self, phase: Phase) -> Iterator[None]:
        """Adds the wall time of a block to a phase, after the device has finished its work.

        The time of a phase inside another one counts for the inner one alone.
        """
        energy = None
        if phase == "train":
            self._reset_peak()
            energy = self._energy.read() if self._energy is not None else None
        begin, outer, self._inner = time.perf_counter(), self._inner, 0.0
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            span = time.perf_counter() - begin
            self.seconds[phase] += span - self._inner
            self._inner = outer + span
            if phase == "train":
                self.peak_memory = max(self.peak_memory, self._peak())
                self._new_energy = _sum(self._new_energy, self._energy_since(energy))

    def _energy_since(self, before: Sequence[float] | None) -> float | None:
        after = self._energy.read() if self._energy is not None else None
        if self._energy is None or before is None or after is None:
            return None
        return self._energy.between(before, after)

    def share_with(self, worker_group: WorkerGroup) -> None:
        """Takes in what the members of a worker group have measured since the last call; all of them call it."""
        self.peak_memory = worker_group.all_reduce_max(self.peak_memory)
        new = math.nan if self._new_energy is None else self._new_energy
        total = float(worker_group.all_reduce_sum(torch.tensor(new, dtype=torch.float64)))
        self.energy_joules = _sum(self.energy_joules, None if math.isnan(total) else total)
        self._new_energy = 0.0

    def account_for_attempts(self, spans: list[float]) -> None:
        """States how long earlier attempts ran; what no checkpoint has kept of that is lost."""
        self.lost_seconds = max(0.0, sum(spans) - self._kept)

    def state_dict(self) -> dict[str, Any]:
        """Returns the cost so far, as JSON values."""
        state: dict[str, Any] = {
            "seconds": dict(self.seconds),
            "flops_per_step": self.flops_per_step,
            "peak_memory": self.peak_memory,
            "energy_joules": self.energy_joules,
        }
        if len(self.flops_by_bucket) > 1:
            state |= {
                "flops_by_bucket": list(self.flops_by_bucket),
                "batches_by_bucket": list(self.batches_by_bucket),
            }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Adds the cost that a checkpoint has recorded to that of this attempt."""
        for phase, seconds in state["seconds"].items():
            self.seconds[phase] += seconds
            self._kept += seconds
        self.flops_per_step = state["flops_per_step"]
        self.flops_by_bucket = tuple(state.get("flops_by_bucket", ()))
        self.batches_by_bucket = list(state.get("batches_by_bucket", ()))
        self.peak_memory = max(self.peak_memory, state["peak_memory"])
        self.energy_joules = _sum(self.energy_joules, state.get("energy_joules"))

    def cost(self, steps: int) -> dict[str, Any]:
        """Returns the cost after so many steps under the names of ``runs.csv``.

        Peak memory and energy are None if nothing was trained.
        """
        trained = self.seconds["train"] > 0
        return {
            "train_seconds": self.seconds["train"],
            "device_seconds": self.seconds["train"] * self._devices,
            "startup_seconds": self.seconds["start"],
            "preparation_seconds": self.seconds["prepare"],
            "evaluation_seconds": self.seconds["evaluate"],
            **({"selection_seconds": self.seconds["select"]} if self.seconds["select"] else {}),
            "saving_seconds": self.seconds["save"],
            "lost_seconds": self.lost_seconds,
            "class_image_seconds": self.class_image_seconds,
            "class_image_flops": self.class_image_flops,
            "energy_joules": self.energy_joules if trained else None,
            "train_steps": steps,
            "train_flops": self._train_flops(steps),
            "peak_memory_bytes": self.peak_memory or None,
            "peak_memory_kind": "cuda_allocated" if self._device.type == "cuda" else "resident_set",
        }

    def _train_flops(self, steps: int) -> int:
        """Of several buckets what was really trained on is added up."""
        if len(self.flops_by_bucket) < 2:
            return self.flops_per_step * steps
        return sum(
            flops * batches
            for flops, batches in zip(self.flops_by_bucket, self.batches_by_bucket, strict=False)
        )

    def _reset_peak(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        # Not Linux, or not allowed: the peak then is that of the process's life.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text(_RESET_PEAK)

    def _peak(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return _peak_resident_set()


def _sum(first: float | None, second: float | None) -> float | None:
    """Returns the sum of two figures; None if one of them is not known."""
    return None if first is None or second is None else first + second


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU's model, or the machine's architecture for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def folder_bytes(folder: Path, without: Collection[str] = ()) -> int:
    """Returns the size of all files under a folder, but those of the names `without`."""
    return sum(
        path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name not in without
    )


def _peak_resident_set() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
