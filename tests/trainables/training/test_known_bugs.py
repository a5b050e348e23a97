"""Mistakes of other trainers that ours must not make, each shown on a real training step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open

from tests.helpers.training_runs import MakeTrainer
from trainables.methods.registry import get_method
from trainables.training.loop import Trainer, batch_loss, train_step
from trainables.training.objective import min_snr_weights

METHODS = ("lora", "dreambooth", "dreambooth_lora")


def gradients_at_the_step(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """Does one step; returns the gradients' norm as the optimizer sees it, and as `train_step` reports it."""
    seen: list[float] = []
    original = trainer.optimizer.optimizer.step

    def step(*arguments: Any) -> Any:
        grads = [parameter.grad for parameter in trainer.parameters.values()]
        seen.append(float(torch.stack([grad.norm() for grad in grads if grad is not None]).norm()))
        return original(*arguments)

    monkeypatch.setattr(trainer.optimizer.optimizer, "step", step)
    _, norm = train_step(trainer)
    return seen[0], float(norm)


@pytest.mark.parametrize("method", METHODS)
def test_clipping_clips(method: str, make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """train_text_to_image_lora.py clips an iterator that the optimizer has consumed: nothing."""
    limit = 1e-4
    trainer = make_trainer(method, max_grad_norm=limit, train_text_encoder=True)
    applied, reported = gradients_at_the_step(trainer, monkeypatch)
    assert reported > 10 * limit
    assert applied == pytest.approx(limit, rel=1e-2)


def test_small_gradients_are_left_alone(make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    applied, reported = gradients_at_the_step(make_trainer("lora", max_grad_norm=1e6), monkeypatch)
    assert applied == pytest.approx(reported, rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_what_trains_is_float32_in_low_precision(method: str, make_trainer: MakeTrainer) -> None:
    """diffusers' LoRA scripts leave adapters in bfloat16, where small updates round away."""
    trainer = make_trainer(method, mixed_precision="bf16", train_text_encoder=True, learning_rate=1e-6)
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    train_step(trainer)
    moved = 0
    for name, value in trainer.parameters.items():
        assert value.dtype == torch.float32
        moved += int((value != before[name]).any())
    # An update of 1e-6 changes a float32; of a bfloat16 near 0.1 it would change nothing.
    assert moved > len(before) / 3
    trained = {id(value) for value in trainer.parameters.values()}
    for module in trainer.backbone.modules.values():
        for parameter in module.parameters():
            assert (parameter.dtype == torch.bfloat16) == (id(parameter) not in trained)


def test_low_precision_starts_from_the_same_adapters(make_trainer: MakeTrainer) -> None:
    plain = {name: value.detach().clone() for name, value in make_trainer("lora").parameters.items()}
    low = make_trainer("lora", mixed_precision="bf16").parameters
    assert all(torch.equal(low[name], value) for name, value in plain.items())


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("model", ["model", "v_model"])
def test_min_snr_with_prior_preservation(
    size: int, model: str, make_trainer: MakeTrainer, models: Path
) -> None:
    """train_dreambooth.py makes weights for the double batch and applies them to half of it."""
    trainer = make_trainer("dreambooth", train_batch_size=size, snr_gamma=5.0, prior_loss_weight=0.7)
    backbone = trainer.backbone
    if model == "v_model":
        backbone.prediction_type = "v_prediction"
    batch = trainer.batches.draw()
    assert len(batch.latents) == 2 * size
    alphas = backbone.alphas_cumprod[batch.timesteps].reshape(-1, 1, 1, 1)
    noisy = alphas.sqrt() * batch.latents + (1 - alphas).sqrt() * batch.noise
    target = batch.noise
    if model == "v_model":
        target = alphas.sqrt() * batch.noise - (1 - alphas).sqrt() * batch.latents
    weights = min_snr_weights(backbone.prediction_type, batch.timesteps, backbone.alphas_cumprod, 5.0)
    texts = trainer.texts.rows["encoder_hidden_states"][batch.captions]
    with torch.no_grad():
        output = backbone.denoiser(noisy, batch.timesteps, encoder_hidden_states=texts).sample
        loss = batch_loss(trainer, batch)
    errors = (output - target).square().mean((1, 2, 3)) * weights
    expected = errors[:size].mean() + 0.7 * errors[size:].mean()
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "scale"),
    [
        ({"r": 4}, 1.0),
        ({"r": 4, "lora_alpha": 1}, 0.25),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 4, "lora_alpha": 2.5}, 0.625),
    ],
)
def test_alpha_over_r_is_applied_saved_and_loaded(
    fields: dict[str, Any], scale: float, make_trainer: MakeTrainer, models: Path, tmp_path: Path
) -> None:
    """Trainers disagree on alpha; a scale that is not stored with the adapter changes what it does."""
    trainer = make_trainer("lora", **fields)
    assert trainer.config.scaling == pytest.approx(scale)  # type: ignore[attr-defined]
    unet = trainer.backbone.denoiser
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(1, 3, layer.in_features, generator=torch.Generator().manual_seed(1))
    product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = layer.base_layer(inputs) + scale * inputs @ product.T
    torch.testing.assert_close(layer(inputs), expected)

    method = get_method("lora")
    method.save(trainer.backbone, trainer.config, tmp_path / "weights")
    with safe_open(tmp_path / "weights" / "pytorch_lora_weights.safetensors", "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    assert told["unet.lora_alpha"] == told["unet.r"] == 4
    assert not told["unet.use_rslora"]
    stock = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    loaded = method.load(stock, tmp_path / "weights")
    again = loaded.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    assert list(again.scaling.values()) == [1.0]  # that of loaders which ignore the metadata
    torch.testing.assert_close(again(inputs), expected)


def test_accumulated_gradients_are_those_of_one_large_batch(make_trainer: MakeTrainer) -> None:
    """accelerate forces a step at the end of a data loader; there is none here, and no short batch."""

    def weights(**fields: int) -> list[torch.Tensor]:
        trainer = make_trainer("dreambooth", with_prior_preservation=False, **fields)
        draws = [trainer.batches.draw() for _ in range(2)] if "gradient_accumulation_steps" in fields else []
        if draws:
            queue = iter(draws)
            trainer.batches.draw = lambda: next(queue)  # type: ignore[method-assign]
        else:
            small = make_trainer("dreambooth", with_prior_preservation=False, train_batch_size=2)
            first, second = small.batches.draw(), small.batches.draw()
            trainer = make_trainer("dreambooth", with_prior_preservation=False, **fields)
            joined = type(first)(
                *(
                    torch.cat([getattr(first, name), getattr(second, name)])
                    for name in ("latents", "noise", "timesteps", "captions")
                ),
                torch.full((4,), 0.25),
            )
            trainer.batches.draw = lambda: joined  # type: ignore[method-assign]
        _, norm = train_step(trainer)
        assert math.isfinite(float(norm))
        return [norm, *(value.detach().clone() for value in trainer.parameters.values())]

    accumulated = weights(train_batch_size=2, gradient_accumulation_steps=2)
    large = weights(train_batch_size=4)
    torch.testing.assert_close(accumulated[0], large[0], rtol=1e-3, atol=0)
    # Adam's first step is the sign of the gradient: those near zero may differ, the bulk may not.
    same = [
        torch.isclose(a, b, atol=1e-5).float().mean() for a, b in zip(accumulated[1:], large[1:], strict=True)
    ]
    assert float(torch.stack(same).mean()) > 0.99
