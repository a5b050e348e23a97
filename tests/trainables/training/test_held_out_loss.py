"""The held-out loss against a recomputation in plain torch, and what it may hang on: the model, and nothing else."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.helpers.tiny_families import RESOLUTION, make_tiny
from tests.helpers.training_runs import MakeConfig, MakeTrainer
from trainables.config.fields import EMBEDDED, HELD_OUT_IMAGES, HELD_OUT_LEVELS, ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject, resolve_subject
from trainables.evaluation.metrics_table import HELD_OUT_LOSS
from trainables.events import read_events
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.execute import execute
from trainables.run_config import RunConfig
from trainables.training.held_out_loss import HeldOutLoss, prepare_held_out_loss
from trainables.training.loop import train_step
from trainables.training.noise import unweighted_process
from trainables.training.trainer import build_trainer

PROMPT = "a sks cat"


def seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def prepared(backbone: Backbone, subject: Subject, cache: Path, **changes: Any) -> HeldOutLoss:
    arguments: dict[str, Any] = {"prompt": PROMPT, "seed": 0, "batch_size": 3} | changes
    return prepare_held_out_loss(backbone, subject, cache=Cache(cache), **arguments)


def subject_of(make_config: MakeConfig, resolution: int = RESOLUTION) -> Subject:
    return resolve_subject(make_config("lora").subject, resolution)


@torch.no_grad()
def recomputed(backbone: Backbone, subject: Subject) -> float:
    """Row by row, from the pixels and the papers' formulas: noise, velocity, or noise minus image."""
    conditioning = backbone.encode_prompts([PROMPT])
    count, errors = len(subject.references), []
    size = subject.resolution
    aside = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32)
    for image, picture in enumerate(subject.references):
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3)
        moments = backbone.vae.encode(pixels.permute(2, 0, 1)[None].float() / 127.5 - 1).latent_dist
        clean = (moments.mean - backbone.latent_shift) * backbone.latent_scale
        for level in range(HELD_OUT_LEVELS):
            own = torch.Generator().manual_seed(
                seed_of(f"{seed_of('0/subject/cat')}/held-out/{image}/{level}")
            )
            noise = torch.randn(clean.shape[1:], generator=own)[None]
            share = (level + (image + 0.5) / count) / HELD_OUT_LEVELS
            if backbone.family.flow:
                noisy, target, time = (1 - share) * clean + share * noise, noise - clean, share * 1000
            else:
                step = math.floor(share * len(backbone.alphas_cumprod))
                keep = backbone.alphas_cumprod[step]
                noisy, time = keep.sqrt() * clean + (1 - keep).sqrt() * noise, step
                target = (
                    noise
                    if backbone.prediction_type == "epsilon"
                    else keep.sqrt() * noise - (1 - keep).sqrt() * clean
                )
            given = backbone.denoise(noisy, torch.tensor([time]), conditioning, aside)
            errors.append(float((given - target).square().mean()))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_it_is_the_mean_squared_error_of_the_papers(
    name: str, make_config: MakeConfig, cache: Path, tmp_path: Path
) -> None:
    backbone = load_backbone(ModelConfig(path=str(make_tiny(name, tmp_path / "model"))))
    subject = subject_of(make_config)
    assert len(subject.references) > 1
    assert prepared(backbone, subject, cache).measure(backbone) == pytest.approx(
        recomputed(backbone, subject), rel=1e-4
    )


def test_it_hangs_on_the_model_and_on_nothing_else(
    make_config: MakeConfig, make_trainer: MakeTrainer, cache: Path
) -> None:
    """Arms differ in their weights alone: neither batches, nor what was drawn before, nor how they train changes it."""
    trainer = make_trainer("dreambooth", learning_rate=0.05, snr_gamma=5.0, noise_offset=0.1, use_ema=True)
    backbone = trainer.backbone
    loss = prepared(backbone, subject_of(make_config), cache)
    first, state = loss.measure(backbone), torch.random.get_rng_state()
    modes = [module.training for module in backbone.denoiser.modules()]
    assert prepared(backbone, subject_of(make_config), cache, batch_size=64).measure(
        backbone
    ) == pytest.approx(first, rel=1e-5)
    torch.manual_seed(7)
    assert loss.measure(backbone) == first
    torch.random.set_rng_state(state)
    loss.measure(backbone)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in backbone.denoiser.modules()] == modes
    assert all(parameter.grad is None for parameter in backbone.denoiser.parameters())
    train_step(trainer)
    assert loss.measure(backbone) != first
    other = prepared(backbone, subject_of(make_config), cache, seed=1).measure(backbone)
    assert other != loss.measure(backbone)  # the noise is the run's own


def test_a_model_that_has_diverged_has_none(make_config: MakeConfig, backbone: Backbone, cache: Path) -> None:
    loss = prepared(backbone, subject_of(make_config), cache)
    with torch.no_grad():
        next(backbone.denoiser.parameters()).fill_(math.nan)
    assert loss.measure(backbone) is None


def test_many_images_are_thinned_out_evenly_and_levels_cover_the_process(
    backbone: Backbone, cache: Path
) -> None:
    pictures = tuple(Image.new("RGB", (RESOLUTION, RESOLUTION), (k, 0, 0)) for k in range(64))
    subject = Subject("cat", PROMPT, "a cat", pictures[:1], (PROMPT,), pictures)
    loss = prepared(backbone, subject, cache)
    rows = HELD_OUT_IMAGES * HELD_OUT_LEVELS
    assert len(loss.latents) == len(loss.noise) == rows
    assert sorted(loss.fractions.tolist()) == pytest.approx([(k + 0.5) / rows for k in range(rows)])
    assert len({tuple(noise.flatten().tolist()) for noise in loss.noise}) == rows
    few = prepared(backbone, Subject("cat", PROMPT, "a cat", pictures[:1], (PROMPT,), pictures[:1]), cache)
    assert len(few.latents) == HELD_OUT_LEVELS


def test_every_evaluation_of_a_run_has_it(make_config: MakeConfig) -> None:
    config = make_config("lora", at=(0.5,), learning_rate=1e-2)
    events = [event for event in execute(config) if event.kind == "evaluation"]
    losses = [event.data[HELD_OUT_LOSS] for event in events]
    assert len(losses) == 2
    assert all(loss > 0 for loss in losses)
    assert losses[0] != losses[1]
    assert [
        e.data[HELD_OUT_LOSS] for e in read_events(Path(config.output_dir)) if e.kind == "evaluation"
    ] == losses


def test_it_falls_as_a_subject_is_learnt_and_rises_where_images_are_learnt_by_heart(tmp_path: Path) -> None:
    """LoRA on the embedded model, with a rate of 1e-3: best after 20 steps, worse than the base model after 100."""
    training = {"learning_rate": 1e-3, "max_train_steps": 100, "train_text_encoder": True}
    config = RunConfig.model_validate(
        {
            "method": "lora",
            "model": {"path": EMBEDDED},
            "subject": {"name": "cat-1"},
            "training": {"with_prior_preservation": False, **training},
            "device": "cpu",
            "output_dir": str(tmp_path / "run"),
            "cache_dir": str(tmp_path / "cache"),
        }
    )
    backbone = load_backbone(config.model)
    subject = resolve_subject(config.subject, backbone.resolution)
    loss = prepared(backbone, subject, tmp_path / "cache", prompt=subject.instance_prompt, batch_size=16)
    trainer = build_trainer(config, backbone, subject, Cache(config.cache_dir))
    found = [loss.measure(backbone) or math.nan]
    for steps in (20, 80):
        for _ in range(steps):
            train_step(trainer)
        found.append(loss.measure(backbone) or math.nan)
    before, soon, late = found
    assert soon < 0.97 * before
    assert late > 1.04 * soon


def test_images_of_a_data_set_are_denoised_with_their_own_captions(
    make_config: MakeConfig, backbone: Backbone, cache: Path
) -> None:
    subject = subject_of(make_config)
    captions = [f"a cat number {number}" for number in range(len(subject.references))]
    found = prepared(backbone, subject, cache, captions=captions)
    assert found.prompts == tuple(captions)
    # Row by row the loss of one caption is that of a subject with this prompt.
    alone = [prepared(backbone, subject, cache, prompt=caption) for caption in captions]
    process = unweighted_process(backbone)
    levels = process.at(found.fractions)
    rows = slice(0, len(levels))
    each = [
        one._errors(backbone, process, backbone.encode_prompts(list(one.prompts)), levels, rows)
        for one in alone
    ]
    expected = torch.stack([each[row // HELD_OUT_LEVELS][row] for row in range(len(levels))]).mean()
    assert found.measure(backbone) == pytest.approx(float(expected), rel=1e-5)
    assert found.measure(backbone) != pytest.approx(alone[0].measure(backbone), rel=1e-5)
    # Captions that several images share are encoded once.
    shared = prepared(backbone, subject, cache, captions=[PROMPT] * len(subject.references))
    assert shared.prompts == (PROMPT,)
    assert shared.measure(backbone) == prepared(backbone, subject, cache).measure(backbone)
