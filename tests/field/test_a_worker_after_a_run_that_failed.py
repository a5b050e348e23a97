"""Whatever went wrong in a run, the next one on the same worker gives what a fresh process gives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainables.run.execute
import trainables.run.run_evaluation
import trainables.training.loop
import trainables.training.trainer
from tests.helpers.short_runs import config_of
from trainables.methods import adapters
from trainables.models.backbone import Backbone
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig


def weights(config: RunConfig) -> bytes:
    return (Path(config.output_dir) / "weights" / "pytorch_lora_weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of the sound run, trained by a process that has done nothing else."""
    config = config_of(tmp_path_factory.mktemp("expected") / "run")
    list(execute(config))
    return weights(config)


@pytest.fixture(scope="module")
def resident() -> Resident:
    """The worker's models."""
    return Resident()


def half_attached(backbone: Backbone, *_: Any) -> None:
    """PEFT stops at a module that it does not know, others being wrapped already."""
    from peft import LoraConfig

    backbone.denoiser.add_adapter(LoraConfig(target_modules=["to_q", "norm3"]))


def spoiled(backbone: Backbone, *_: Any) -> None:
    with torch.no_grad():
        backbone.denoiser.conv_in.weight.add_(1.0)  # announced to nobody
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def raising(kind: type[BaseException], message: str = "") -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise kind(message)

    return fail


FAULTS = {
    "attach half done": (adapters, "_groups", half_attached),
    "attach": (adapters, "attach_adapters", half_attached),
    "a weight changed": (adapters, "attach_adapters", spoiled),
    "optimizer": (trainables.training.trainer, "build_optimizer", raising(ValueError, "no such kernel")),
    "count": (trainables.run.execute, "note_flops", raising(RuntimeError, "shapes")),
    "first step": (
        trainables.training.loop,
        "train_step",
        raising(torch.OutOfMemoryError, "CUDA out of memory"),
    ),
    "interrupted": (trainables.training.loop, "train_step", raising(KeyboardInterrupt)),
    "checkpoint": (trainables.training.loop, "save_checkpoint", raising(ValueError, "not finite")),
    "save": (adapters, "save_adapters", raising(RuntimeError, "tensors share memory")),
    "evaluation": (trainables.run.run_evaluation, "evaluate", raising(RuntimeError, "mat1 and mat2")),
    "detach": (adapters, "detach_adapters", raising(RuntimeError, "no such module")),
    "restore": (Backbone, "restore_frozen", raising(MemoryError)),
}


# What the worker does about a fault hangs on what it left behind: modules half wrapped, a changed weight, nothing, an
# exception that is no Exception, a method that does not let go. The other moments are a matter of the night.
BY_DAY = ("attach half done", "a weight changed", "first step", "interrupted", "detach")


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=() if stage in BY_DAY else pytest.mark.nightly) for stage in FAULTS]
)
def test_the_next_run_is_that_of_a_fresh_process(
    stage: str, expected: bytes, resident: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        place, name, fault = FAULTS[stage]
        if stage == "attach half done":
            patch.setattr(place, name, lambda *_: fault(resident._kept["backbone"][1]))
        else:
            patch.setattr(place, name, fault)
        first = config_of(tmp_path / "first", mixed_precision="bf16", train_text_encoder=True, use_ema=True)
        try:
            last = list(execute(first, resident))[-1]
        except KeyboardInterrupt:
            assert stage == "interrupted"
        else:
            # What goes wrong after the end of a run is no fault of the run.
            assert last.data["state"] == ("COMPLETE" if stage == "detach" else "FAIL")
    second = config_of(tmp_path / "second")
    list(execute(second, resident))
    assert weights(second) == expected


def test_a_stop_in_the_middle_keeps_the_model_in_memory(
    expected: bytes, resident: Resident, tmp_path: Path
) -> None:
    events = execute(
        config_of(tmp_path / "first", mixed_precision="bf16", gradient_checkpointing=True), resident
    )
    assert any(event.kind == "progress" for event in events)
    kept = resident._kept["backbone"][1]
    events.close()
    assert resident._kept["backbone"][1] is kept
    second = config_of(tmp_path / "second")
    list(execute(second, resident))
    assert resident._kept["backbone"][1] is kept
    assert weights(second) == expected


def test_a_model_that_is_let_go_leaves_memory(
    resident: Resident, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainables.training.loop, "train_step", raising(RuntimeError, "broken"))
    events = execute(config_of(tmp_path / "first"), resident)
    assert any(event.kind == "progress" or event.data.get("name") == "train" for event in events)
    kept = weakref.ref(resident._kept["backbone"][1])
    assert [event.kind for event in events][-1] == "finished"
    assert "backbone" not in resident._kept
    gc.collect()
    assert kept() is None
