"""Energy: where a counter says something of the run, and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables.distributed.worker_group import WorkerGroup
from trainables.training import energy
from trainables.training.energy import Nvml, Rapl, energy_counter
from trainables.training.meter import Meter

CPU = torch.device("cpu")


class Fake:
    """A counter that gives prepared states."""

    def __init__(self, *states: float | None) -> None:
        self.states = list(states)

    def read(self) -> Sequence[float] | None:
        state = self.states.pop(0)
        return None if state is None else [state]

    def between(self, before: Sequence[float], after: Sequence[float]) -> float:
        return after[0] - before[0]


def powercap(folder: Path, **domains: tuple[str, int, int]) -> Path:
    """Writes domains: name, energy and range in microjoules."""
    for entry, (name, now, full) in domains.items():
        place = folder / entry.replace("_", ":").replace("rapl", "intel-rapl")
        place.mkdir(exist_ok=True)
        (place / "name").write_text(f"{name}\n")
        (place / "energy_uj").write_text(f"{now}\n")
        (place / "max_energy_range_uj").write_text(f"{full}\n")
    return folder


def test_rapl_adds_packages_charges_the_share_and_knows_that_counters_wrap(tmp_path: Path) -> None:
    full = 100_000_000
    before = {
        "rapl_0": ("package-0", 10_000_000, full),
        "rapl_1": ("package-1", 95_000_000, full),
        "rapl_0_0": ("core", 5_000_000, full),
        "rapl_2": ("psys", 1_000_000, full),
    }
    rapl = Rapl(0.25, powercap(tmp_path, **before))
    first = rapl.read()
    assert first == [10.0, 95.0], "neither parts of packages nor the platform that holds them"
    after = {"rapl_0": ("package-0", 30_000_000, full), "rapl_1": ("package-1", 7_000_000, full)}
    powercap(tmp_path, **after)
    second = rapl.read()
    assert first is not None
    assert second is not None
    assert rapl.between(first, second) == pytest.approx(0.25 * (20 + 12))


def test_rapl_that_may_not_be_read_gives_nothing(tmp_path: Path) -> None:
    powercap(tmp_path, rapl_0=("package-0", 1, 2))
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert Rapl(1.0, tmp_path).read() is None
    assert Rapl(1.0, tmp_path / "nowhere").read() is None


def test_nvml_counts_only_a_gpu_that_the_run_holds_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    asked: list[str] = []
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: 5_500,
    )
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    properties: Any = lambda index: SimpleNamespace(uuid="1234")  # noqa: E731
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    cuda = torch.device("cuda", 0)
    whole = energy_counter(cuda, 1, 1.0)
    assert isinstance(whole, Nvml)
    assert whole.read() == [5.5]
    assert whole.between([5.5], [7.0]) == 1.5
    assert asked == ["GPU-1234"]
    assert energy_counter(cuda, 1, 0.5) is None, "what others do on the GPU would be charged to the run"

    def refused(handle: str) -> int:
        raise NVMLError

    nvml.nvmlDeviceGetTotalEnergyConsumption = refused  # MIG, old devices
    assert energy_counter(cuda, 1, 1.0) is None
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)  # not installed
    assert energy_counter(cuda, 1, 1.0) is None


def test_a_cpu_without_counter_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "Rapl", lambda share: Rapl(share, tmp_path))
    assert energy_counter(CPU, 1, 1.0) is None


def measured(meter: Meter, times: int = 1) -> Any:
    for _ in range(times):
        with meter.measure("train"):
            pass
        meter.share_with(WorkerGroup())
    return meter.cost(times)["energy_joules"]


def test_the_meter_adds_up_what_training_takes() -> None:
    meter = Meter(CPU, 1, Fake(1.0, 3.0, 10.0, 14.0))
    with meter.measure("evaluate"):
        pass
    assert meter.cost(0)["energy_joules"] is None, "nothing was trained"
    assert measured(meter, 2) == 6.0


def test_energy_of_which_a_part_was_not_counted_is_not_known() -> None:
    assert measured(Meter(CPU, 1)) is None
    meter = Meter(CPU, 1, Fake(1.0, 3.0, None, 14.0))
    assert measured(meter, 2) is None
    resumed = Meter(CPU, 1, Fake(0.0, 2.0))
    assert measured(resumed) == 2.0
    resumed.load_state_dict(meter.state_dict())
    assert resumed.cost(1)["energy_joules"] is None


def test_a_worker_group_adds_up_its_members() -> None:
    class Two(WorkerGroup):
        def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
            return 2 * tensor

    meter = Meter(CPU, 1, Fake(1.0, 3.0))
    with meter.measure("train"):
        pass
    meter.share_with(Two())
    assert meter.energy_joules == 4.0
    assert not math.isnan(meter.energy_joules)
