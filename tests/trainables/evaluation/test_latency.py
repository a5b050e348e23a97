"""Adapters merged into the weights: the same images, and afterwards the same weights, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.evaluation import latency
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.training.loop import train_step


@torch.no_grad()
def output(backbone: Backbone) -> torch.Tensor:
    inputs = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    text = backbone.encode_prompts(["a sks cat"])["encoder_hidden_states"]
    result: torch.Tensor = backbone.denoiser(inputs, 500, encoder_hidden_states=text).sample
    return result


@pytest.mark.parametrize("text_encoder", [False, True])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_merged_adapters_compute_the_same_and_leave_no_trace(
    text_encoder: bool, precision: str, make_trainer: MakeTrainer, backbone: Backbone
) -> None:
    untouched = backbone.parameter_digest()
    method = get_method("lora")
    trainer = make_trainer(
        "lora", learning_rate=3e-2, train_text_encoder=text_encoder, mixed_precision=precision
    )
    for _ in range(3):
        train_step(trainer)
    backbone.restore_frozen()  # as before saving
    for module in backbone.modules.values():
        module.eval()
    before, weights = output(backbone), backbone.parameter_digest()
    with method.fused(backbone) as merged:
        assert merged
        assert backbone.parameter_digest() != weights
        torch.testing.assert_close(output(backbone), before, rtol=1e-4, atol=1e-5)
    assert backbone.parameter_digest() == weights
    assert torch.equal(output(backbone), before)
    method.detach(backbone)
    backbone.restore()
    assert backbone.parameter_digest() == untouched
    assert backbone.is_base_model()


def test_an_error_while_merged_leaves_no_trace_either(make_trainer: MakeTrainer, backbone: Backbone) -> None:
    trainer = make_trainer("lora", learning_rate=3e-2)
    train_step(trainer)
    train_step(trainer)
    weights = backbone.parameter_digest()
    with pytest.raises(ZeroDivisionError), get_method("lora").fused(backbone):
        raise ZeroDivisionError
    assert backbone.parameter_digest() == weights


@pytest.mark.parametrize("method", ["base", "lora", "dreambooth"])
def test_every_run_states_both_figures(method: str, make_config: MakeConfig, resident: Resident) -> None:
    config = make_config(method)
    list(execute(config, resident))
    cost = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    fused, beside = cost["image_latency_fused_seconds"], cost["image_latency_seconds"]
    assert min(fused, beside) > 0
    assert (fused == beside) == (method != "lora"), "nothing to merge, nothing to measure"
    assert resident.backbone(config.model, torch.device("cpu")).is_base_model()


@pytest.mark.parametrize(("method", "merges"), [("base", False), ("lora", True), ("dreambooth", False)])
def test_both_figures_are_taken_in_the_same_way(
    method: str,
    merges: bool,
    make_config: MakeConfig,
    resident: Resident,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warm batches of four, in turn and twice, of which the faster counts; nothing comes from the evaluation."""
    config = make_config(method)
    clock, calls = [0.0], []
    # Seconds of each timed batch: one figure and the other in turn, or the one figure twice.
    spans = iter([8.0, 6.0, 4.0, 12.0] if merges else [8.0, 4.0])

    def generate(backbone: Backbone, prompts: Sequence[str], **settings: Any) -> list[Any]:
        calls.append((len(prompts), settings["batch_size"], settings["num_inference_steps"]))
        clock[0] += next(spans) if settings["num_inference_steps"] > 1 else 100.0
        return []

    monkeypatch.setattr(latency, "generate", generate)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    list(execute(config, resident))
    assert calls == [(4, 4, 1), (4, 4, 2)] * (4 if merges else 2)
    cost = json.loads((Path(config.output_dir) / "result.json").read_text())["cost"]
    assert cost["image_latency_seconds"] == 1.0
    assert cost["image_latency_fused_seconds"] == (1.5 if merges else 1.0)
