"""Energy that training takes, where the machine counts it: NVIDIA's NVML for GPUs, RAPL for processors.

NVML's counter is that of a whole GPU, so that it says something of a run only if the run holds all of it. RAPL counts
whole processor packages (Linux, where ``energy_uj`` may be read); a run is charged the share of the machine's cores
that it holds, whatever the others do. Where there is no counter there is no figure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")  # whole packages; intel-rapl:0:0 and the like are their parts
_PLATFORM = "psys"  # a domain that holds the packages again


class EnergyCounter(Protocol):
    """A counter that only grows."""

    def read(self) -> Sequence[float] | None:
        """Returns the state of every domain in joules; None where it cannot be read."""
        ...

    def between(self, before: Sequence[float], after: Sequence[float]) -> float:
        """Returns the joules from one state to a later one."""
        ...


class Rapl:
    """The packages of a machine, of which a share is charged.

    Args:
        share: Cores held of all the machine's cores, in (0, 1].
        folder: Of the powercap interface.
    """

    def __init__(self, share: float, folder: Path = POWERCAP) -> None:
        self._share = share
        self._domains = [path for path in sorted(folder.glob("intel-rapl:*")) if _is_package(path)]
        self._ranges = [_joules(path / "max_energy_range_uj") for path in self._domains]

    def read(self) -> Sequence[float] | None:
        """See `EnergyCounter`."""
        states = [_joules(path / "energy_uj") for path in self._domains]
        known = [state for state in states if state is not None]
        return known if known and len(known) == len(states) else None

    def between(self, before: Sequence[float], after: Sequence[float]) -> float:
        """See `EnergyCounter`; counters begin again at 0 when they are full."""
        total = 0.0
        for first, last, full in zip(before, after, self._ranges, strict=True):
            total += last - first if last >= first else last - first + (full or 0.0)
        return max(0.0, total) * self._share


class Nvml:
    """A whole GPU.

    Args:
        index: Of torch's device.
        nvml: The module ``pynvml``.

    Raises:
        Exception: Of NVML's own, where it does not know the device.
    """

    def __init__(self, index: int, nvml: Any) -> None:
        nvml.nvmlInit()
        self._nvml = nvml
        uuid = str(torch.cuda.get_device_properties(index).uuid)
        self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")

    def read(self) -> Sequence[float] | None:
        """See `EnergyCounter`; NVML counts millijoules since the driver was loaded."""
        try:
            return [self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3]
        except self._nvml.NVMLError:
            return None

    def between(self, before: Sequence[float], after: Sequence[float]) -> float:
        """See `EnergyCounter`."""
        return max(0.0, after[0] - before[0])


def energy_counter(device: torch.device, cpu_threads: int, gpu_share: float) -> EnergyCounter | None:
    """Returns the counter of what a process trains on, or None where there is none that says something of it.

    Args:
        cpu_threads: Cores that the process holds.
        gpu_share: Of its GPU that it holds, in (0, 1].
    """
    counter: EnergyCounter | None = None
    if device.type == "cpu":
        counter = Rapl(min(1.0, cpu_threads / (os.cpu_count() or cpu_threads)))
    elif gpu_share >= 1:
        with suppress(Exception):  # not installed, a device that NVML does not know, a driver without it
            import pynvml

            counter = Nvml(device.index or 0, pynvml)
    return counter if counter is not None and counter.read() is not None else None


def _is_package(path: Path) -> bool:
    if not _PACKAGE.fullmatch(path.name):
        return False
    try:
        return (path / "name").read_text(encoding="ascii").strip() != _PLATFORM
    except (OSError, ValueError):
        return True


def _joules(path: Path) -> float | None:
    try:
        return int(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None
