"""Sampling: equal to the stock pipeline, independent of the batch, and without side effects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.config.fields import ModelConfig
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.models.sampling import generate, image_seed, initial_noise, make_solver

PROMPTS = ["a sks cat", "a dog in the snow", "a sks cat", "a red teapot", "a bird on a hat"]
SEEDS = [image_seed(7, "test", number, 0) for number in range(len(PROMPTS))]


def as_array(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def apart(first: list[Image.Image], second: list[Image.Image]) -> int:
    return int(np.abs(as_array(first) - as_array(second)).max())


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
@pytest.mark.parametrize("name", ["model", "v_model"])
def test_equals_the_stock_pipeline(models: Path, name: str, guidance_scale: float) -> None:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    backbone = load_backbone(ModelConfig(path=str(models / name)))
    ours = generate(
        backbone, PROMPTS, seeds=SEEDS, num_inference_steps=4, guidance_scale=guidance_scale, batch_size=3
    )
    pipeline = StableDiffusionPipeline.from_pretrained(models / name, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    spacing = {"timestep_spacing": "trailing"} if name == "v_model" else {}
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **spacing)
    stock = pipeline(
        PROMPTS,
        latents=initial_noise(backbone, SEEDS),
        num_inference_steps=4,
        guidance_scale=guidance_scale,
        height=32,
        width=32,
    ).images
    assert apart(ours, stock) <= 1
    assert as_array(ours).std() > 1


def test_prediction_type_follows_the_model(models: Path) -> None:
    solver = make_solver(load_backbone(ModelConfig(path=str(models / "v_model"))))
    assert solver.config.prediction_type == "v_prediction"
    assert solver.config.beta_schedule == "scaled_linear"


def test_images_do_not_depend_on_the_batch(backbone: Backbone) -> None:
    eight = generate(backbone, PROMPTS, seeds=SEEDS, num_inference_steps=4, batch_size=8)
    one = generate(backbone, PROMPTS, seeds=SEEDS, num_inference_steps=4, batch_size=1)
    alone = generate(backbone, PROMPTS[3:4], seeds=SEEDS[3:4], num_inference_steps=4)
    assert apart(eight, one) <= 1
    assert apart(eight[3:4], alone) <= 1
    # ... and they do depend on prompt and noise.
    assert apart(eight[:1], eight[2:3]) > 1
    moved = generate(backbone, [PROMPTS[1]], seeds=SEEDS[:1], num_inference_steps=4, guidance_scale=7)
    same_noise = generate(backbone, [PROMPTS[0]], seeds=SEEDS[:1], num_inference_steps=4, guidance_scale=7)
    assert apart(moved, same_noise) > 0


def test_noise_is_fixed_by_seed_prompt_and_image() -> None:
    seeds = {
        image_seed(seed, purpose, prompt, image)
        for seed in (0, 1)
        for purpose in ("instance", "class")
        for prompt in range(3)
        for image in range(3)
    }
    assert len(seeds) == 36
    assert image_seed(1234, "instance", 2, 1) == image_seed(1234, "instance", 2, 1)


def test_no_side_effects(models: Path) -> None:
    backbone = load_backbone(ModelConfig(path=str(models / "model")))
    backbone.denoiser.train()
    backbone.denoiser.mid_block.eval()
    backbone.denoiser.requires_grad_(True)
    backbone.denoiser.enable_gradient_checkpointing()
    modes = [module.training for module in backbone.denoiser.modules()]
    before = backbone.parameter_digest()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = generate(backbone, PROMPTS[:2], seeds=SEEDS[:2], num_inference_steps=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in backbone.denoiser.modules()] == modes
    assert backbone.parameter_digest() == before
    assert all(parameter.grad is None for parameter in backbone.denoiser.parameters())
    torch.manual_seed(99)
    assert apart(first, generate(backbone, PROMPTS[:2], seeds=SEEDS[:2], num_inference_steps=2)) == 0


def test_modes_are_restored_after_an_error(models: Path) -> None:
    backbone = load_backbone(ModelConfig(path=str(models / "model")))
    backbone.denoiser.train()
    with pytest.raises(RuntimeError):
        generate(backbone, ["a cat"], noise=torch.zeros(1, 9, 8, 8), num_inference_steps=2)
    assert backbone.denoiser.training


def test_lower_precision_weights_beside_trained_ones(models: Path, backbone: Backbone) -> None:
    mixed = load_backbone(ModelConfig(path=str(models / "model")))
    for name, parameter in mixed.denoiser.named_parameters():
        parameter.requires_grad_("attn" in name)
    mixed.lower_precision(torch.bfloat16)
    assert {parameter.dtype for parameter in mixed.denoiser.parameters()} == {torch.float32, torch.bfloat16}
    low = as_array(generate(mixed, PROMPTS[:2], seeds=SEEDS[:2], num_inference_steps=4))
    full = as_array(generate(backbone, PROMPTS[:2], seeds=SEEDS[:2], num_inference_steps=4))
    assert np.abs(low - full).mean() < 8
    assert np.abs(low - full).max() > 0  # it did compute in lower precision


def test_other_resolution_and_nothing(backbone: Backbone) -> None:
    images = generate(backbone, PROMPTS[:1], seeds=SEEDS[:1], num_inference_steps=1, resolution=64)
    assert images[0].size == (64, 64)
    assert images[0].mode == "RGB"
    assert generate(backbone, [], seeds=[]) == []
    with pytest.raises(ValueError, match="either noise or seeds"):
        generate(backbone, PROMPTS)
    with pytest.raises(ValueError, match="as many noises"):
        generate(backbone, PROMPTS, seeds=SEEDS[:2])


def test_a_diverged_model_gives_black_images(models: Path) -> None:
    backbone = load_backbone(ModelConfig(path=str(models / "model")))
    with torch.no_grad():
        backbone.denoiser.conv_out.bias.fill_(float("nan"))
    (image,) = generate(backbone, PROMPTS[:1], seeds=SEEDS[:1], num_inference_steps=2)
    assert np.asarray(image).max() == 0


def test_a_family_may_guide_away_from_zeros_and_not_from_an_empty_prompt(backbone: Backbone) -> None:
    plain = {scale: draw_one(backbone, scale) for scale in (1.0, 3.0)}
    backbone.family = replace(backbone.family, zero_unconditional=True)
    zeroed = {scale: draw_one(backbone, scale) for scale in (1.0, 3.0)}
    assert apart(plain[1.0], zeroed[1.0]) == 0
    assert apart(plain[3.0], zeroed[3.0]) > 0
    conditioning = backbone.encode_prompts(["", "a sks cat"])
    states = conditioning["encoder_hidden_states"]
    states[0] = 0
    noise = initial_noise(backbone, SEEDS[:1])
    solver = make_solver(backbone)
    solver.set_timesteps(1)
    (timestep,) = solver.timesteps
    with torch.no_grad():
        without, along = backbone.denoise(torch.cat([noise, noise]), timestep, conditioning).chunk(2)
        latents = solver.step(without + 3 * (along - without), timestep, noise).prev_sample
        pixels = backbone.vae.decode(latents / backbone.vae.config.scaling_factor).sample
    expected = ((pixels[0] / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).round().numpy()
    assert np.abs(as_array(zeroed[3.0])[0] - expected).max() <= 1


def draw_one(backbone: Backbone, guidance_scale: float) -> list[Image.Image]:
    return generate(
        backbone, ["a sks cat"], seeds=SEEDS[:1], num_inference_steps=1, guidance_scale=guidance_scale
    )
