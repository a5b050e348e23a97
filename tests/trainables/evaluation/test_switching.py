"""From one subject's weights to another's: what is done while the clock runs, and that the model is as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.training_runs import MakeConfig
from trainables.evaluation import switching
from trainables.methods.protocol import Method
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.run import inference
from trainables.run.execute import execute
from trainables.run.resident import Resident


class Clock:
    """A clock that goes on by what loading takes, the next of some spans, and by nothing else."""

    def __init__(self, spans: list[float]) -> None:
        self.now, self._spans = 0.0, iter(spans)

    def perf_counter(self) -> float:
        return self.now

    def load(self) -> None:
        self.now += next(self._spans)


class Spy:
    """A method whose loads are noted: what they find on the model, and what they leave on it."""

    def __init__(self, method: Method, backbone: Backbone, clock: Clock | None = None) -> None:
        self.method, self.backbone, self.clock = method, backbone, clock
        self.found: list[bool] = []  # whether a load found the base model
        self.folders: list[Path] = []

    def load(self, pipeline: Any, folder: Path) -> Any:
        self.found.append(self.backbone.is_base_model())
        self.folders.append(folder)
        if self.clock is not None:
            self.clock.load()
        return self.method.load(pipeline, folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)


@pytest.fixture
def saved(make_config: MakeConfig, resident: Resident) -> Iterator[tuple[Backbone, Path]]:
    """A base model, and weights of LoRA that were trained on it."""
    config = make_config("lora")
    list(execute(config, resident))
    assert json.loads((Path(config.output_dir) / "result.json").read_text())["state"] == "COMPLETE"
    backbone = resident.backbone(config.model, torch.device("cpu"))
    yield backbone, Path(config.output_dir) / "weights"
    assert backbone.is_base_model()


@pytest.mark.parametrize(
    ("spans", "timed", "median"),
    [([50.0, 0.3, 0.1, 0.2], 3, 0.2), ([50.0, 0.9, 0.3], 2, 0.6), ([0.1, 7.0], 1, 7.0)],
)
def test_the_median_of_few_switches_counts_and_the_first_load_does_not(
    spans: list[float],
    timed: int,
    median: float,
    saved: tuple[Backbone, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, weights = saved
    clock = Clock(spans)
    monkeypatch.setattr(switching, "time", clock)
    spy = Spy(get_method("lora"), backbone, clock)
    found = switching.measure_switch(backbone, spy, weights)  # type: ignore[arg-type]
    assert found == pytest.approx(median)
    # Each load finds the model without the weights of the one before, and reads the run's files.
    assert spy.found == [True] * (1 + timed)
    assert set(spy.folders) == {weights}


def test_taking_weights_off_is_part_of_what_is_timed(
    saved: tuple[Backbone, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, weights = saved
    clock, clear = Clock([1.0, 0.1, 0.1, 0.1]), switching._Slot.clear

    def slowly(slot: switching._Slot) -> None:
        clock.now += 0.2
        clear(slot)

    monkeypatch.setattr(switching, "time", clock)
    monkeypatch.setattr(switching._Slot, "clear", slowly)
    spy = Spy(get_method("lora"), backbone, clock)
    found = switching.measure_switch(backbone, spy, weights)  # type: ignore[arg-type]
    assert found == pytest.approx(0.3)


def test_weights_that_cannot_be_loaded_leave_the_base_model_and_the_result(
    make_config: MakeConfig,
    resident: Resident,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config, method = make_config("lora"), type(get_method("lora"))

    def full(self: Any, pipeline: Any, folder: Path) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(method, "load", full)
    list(execute(config, resident))
    result = json.loads((Path(config.output_dir) / "result.json").read_text())
    assert result["state"] == "COMPLETE"
    assert result["cost"]["switch_seconds"] is None
    assert result["cost"]["image_latency_seconds"] > 0
    assert "switch_seconds could not be measured (OutOfMemoryError: full)" in caplog.text
    assert resident.backbone(config.model, torch.device("cpu")).is_base_model()


def test_the_base_model_is_switched_for_nothing(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("base")
    list(execute(config, resident))
    cost = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    assert cost["switch_seconds"] is None
    assert cost["inference_bytes"] == cost["inference_fused_bytes"] > 0


def test_runs_of_a_search_are_not_switched(make_config: MakeConfig, resident: Resident) -> None:
    """There are many of them, and nothing is chosen by it."""
    config = make_config("lora")
    asked = config.evaluation.model_copy(update={"prompt_set": "search"})
    config = config.model_copy(update={"evaluation": asked})
    list(execute(config, resident))
    cost = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    assert cost["switch_seconds"] is None
    assert cost["image_latency_seconds"] > 0


def test_switching_counts_as_evaluation(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.training import meter

    clock = Clock([])
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=clock.perf_counter))

    def switch(*_: Any, **__: Any) -> float:
        clock.now += 3.0
        return 1.0

    monkeypatch.setattr(inference, "measure_switch", switch)
    config = make_config("lora")
    list(execute(config, resident))
    cost = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    assert (cost["switch_seconds"], cost["evaluation_seconds"], cost["train_seconds"]) == (1.0, 3.0, 0.0)
