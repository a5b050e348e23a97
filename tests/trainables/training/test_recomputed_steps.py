"""Ten steps of v-prediction, of flow matching and of DreamBooth with class images, computed once more in plain torch.

They use no code of the project: levels of noise come from generators that are seeded anew, targets and losses from the
papers' formulas, updates from AdamW written out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.helpers.plain_torch import Adam, check_trained, disturb, stream
from tests.helpers.tiny_families import RESOLUTION, make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.models.loading import load_backbone
from trainables.training.class_images import ClassImages, make_class_images
from trainables.training.loop import Trainer, train_step
from trainables.training.trainer import build_trainer

STEPS, RATE, TEXT_RATE, DECAY, CLIP, EPSILON, BETAS = 10, 1e-3, 4e-4, 1.0, 0.02, 1e-5, (0.8, 0.9)
SIZE, PRIOR_WEIGHT = 2, 0.6


def trainer_of(make_config: MakeConfig, folder: Path, **fields: Any) -> Trainer:
    backbone = load_backbone(ModelConfig(path=str(folder)))
    config = make_config(
        "dreambooth",
        model=str(folder),
        resolution=RESOLUTION,
        learning_rate=RATE,
        max_train_steps=STEPS,
        train_batch_size=SIZE,
        adam_weight_decay=DECAY,
        adam_epsilon=EPSILON,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        **fields,
    )
    subject = resolve_subject(config.subject, RESOLUTION)
    trainer = build_trainer(config, backbone, subject, Cache(config.cache_dir))
    disturb(trainer.parameters)
    return trainer


def compare(trainer: Trainer, predict: Any, corrupt: Any, weigh: Any = None) -> None:
    """Trains the project's model and a copy of its denoiser side by side.

    Args:
        predict: Copy, noisy latents, levels and conditioning -> prediction.
        corrupt: Clean latents, noise -> noisy latents, levels and target; draws the levels.
        weigh: Levels -> weight of each sample.
    """
    mine = copy.deepcopy(trainer.backbone.denoiser).double()
    parameters = {
        f"{trainer.backbone.family.denoiser.name}.{name}": value for name, value in mine.named_parameters()
    }
    began = {name: value.detach().clone() for name, value in parameters.items()}
    adam = Adam(list(parameters.values()), RATE, DECAY, CLIP, BETAS, EPSILON)
    drawn: list[Any] = []
    draw = trainer.batches.draw
    trainer.batches.draw = lambda: drawn.append(draw()) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    noise_of = stream("noise")
    for _ in range(STEPS):
        loss, norm = train_step(trainer)
        assert norm > CLIP
        batch = drawn.pop()
        noise = torch.randn(batch.latents.shape, generator=noise_of)
        assert torch.equal(batch.noise, noise)
        noisy, levels, target = corrupt(batch.latents.double(), noise.double())
        torch.testing.assert_close(batch.timesteps.float(), levels.float(), rtol=1e-6, atol=1e-7)
        rows = {name: value[batch.captions].double() for name, value in trainer.texts.rows.items()}
        errors = (predict(mine, noisy, levels, rows, batch) - target).pow(2).mean((1, 2, 3))
        expected = (errors if weigh is None else errors * weigh(levels)).mean()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        adam.update(list(torch.autograd.grad(expected, adam.parameters, allow_unused=True)))
    check_trained(trainer.parameters, parameters, began)


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("zero", [False, True])
def test_velocity(zero: bool, gamma: float | None, make_config: MakeConfig, tmp_path: Path) -> None:
    """Salimans & Ho 2022; with a schedule that ends without signal as in Lin et al. 2024, algorithm 1."""
    folder = make_tiny("sd2", tmp_path / "sd2", rescale_betas_zero_snr=zero)
    trainer = trainer_of(make_config, folder, snr_gamma=gamma, with_prior_preservation=False)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    root = (1 - betas).cumprod(0).sqrt()
    if zero:
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    signal = root.square().float()
    levels_of = stream("timesteps")

    def corrupt(latents: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        steps = torch.randint(1000, (len(latents),), generator=levels_of)
        a = signal[steps].reshape(-1, 1, 1, 1)
        return a.sqrt() * latents + (1 - a).sqrt() * noise, steps, a.sqrt() * noise - (1 - a).sqrt() * latents

    def weigh(steps: torch.Tensor) -> torch.Tensor:
        ratio = signal[steps] / (1 - signal[steps])
        return torch.minimum(ratio, torch.tensor(gamma)) / (ratio + 1)

    def predict(model: Any, noisy: Any, steps: Any, rows: Any, batch: Any) -> torch.Tensor:
        output: torch.Tensor = model(noisy, steps, encoder_hidden_states=rows["encoder_hidden_states"]).sample
        return output

    compare(trainer, predict, corrupt, weigh if gamma else None)


FLOWS = [
    ("sd3", {}, 3.0),  # the shift of the model's own sampler
    ("sd3", {"shift": 1.0, "logit_mean": 0.5, "logit_std": 0.8}, 1.0),
    ("flux", {}, 1.0),  # it shifts by resolution when it samples, and not in training
    ("flux", {"shift": 2.0, "timestep_sampling": "uniform"}, 2.0),
]


@pytest.mark.parametrize(("name", "fields", "shift"), FLOWS)
def test_flow_matching(
    name: str, fields: dict[str, Any], shift: float, make_config: MakeConfig, tmp_path: Path
) -> None:
    """Esser et al. 2024: sigma is the share of noise, and what is predicted is noise minus image."""
    folder = make_tiny(name, tmp_path / name)
    trainer = trainer_of(make_config, folder, with_prior_preservation=False, **fields)
    levels_of = stream("timesteps")

    def corrupt(latents: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if fields.get("timestep_sampling") == "uniform":
            share = torch.rand(len(latents), generator=levels_of)
        else:
            normal = torch.randn(len(latents), generator=levels_of)
            exponent = -(fields.get("logit_mean", 0.0) + fields.get("logit_std", 1.0) * normal)
            share = 1 / (1 + exponent.exp())
        sigmas = shift * share / (1 + (shift - 1) * share)
        s = sigmas.reshape(-1, 1, 1, 1)
        return (1 - s) * latents + s * noise, sigmas, noise - latents

    def predict(model: Any, noisy: Any, sigmas: Any, rows: Any, batch: Any) -> torch.Tensor:
        states, pooled = rows["encoder_hidden_states"], rows["pooled"]
        if name == "sd3":
            output: torch.Tensor = model(noisy, states, pooled, 1000 * sigmas).sample
            return output
        squares = noisy.unfold(2, 2, 2).unfold(3, 2, 2)  # [b, c, h / 2, w / 2, 2, 2]
        tokens = squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
        places = torch.tensor([[0.0, row, column] for row in range(2) for column in range(2)])
        flat = model(
            tokens,
            states,
            pooled,
            sigmas,
            img_ids=places,
            txt_ids=torch.zeros(states.shape[1], 3),
            guidance=torch.ones(len(noisy)),
        ).sample
        image = flat.reshape(-1, 2, 2, 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return image.reshape(noisy.shape)

    compare(trainer, predict, corrupt)


def draws(stock: Any, images: Sequence[Image.Image], kind: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """Latents, noise and steps of the images of one kind, a batch at a time, from the streams of that kind."""
    pixels = torch.stack([torch.from_numpy(numpy.array(image)).permute(2, 0, 1) for image in images])
    with torch.no_grad():
        posterior = stock.vae.encode(pixels.float() / 127.5 - 1).latent_dist
    streams = {name: stream(f"{kind}{name}") for name in ("order", "latents", "noise", "timesteps")}
    order: list[int] = []
    while True:
        while len(order) < SIZE:
            order += torch.randperm(len(images), generator=streams["order"]).tolist()
        taken, order = order[:SIZE], order[SIZE:]
        sample = torch.randn((SIZE, *posterior.mean.shape[1:]), generator=streams["latents"])
        latents = (posterior.mean[taken] + posterior.std[taken] * sample) * stock.vae.config.scaling_factor
        noise = torch.randn(sample.shape, generator=streams["noise"])
        yield latents.double(), noise.double(), torch.randint(1000, (SIZE,), generator=streams["timesteps"])


def test_dreambooth_with_class_images(
    make_config: MakeConfig, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ruiz et al. 2022, eq. 2: all weights of a stock UNet and its text encoder, the latter at a rate of its own."""
    made: list[ClassImages] = []

    def recorded(*arguments: Any) -> ClassImages:
        made.append(make_class_images(*arguments))
        return made[-1]

    monkeypatch.setattr("trainables.training.encoded.make_class_images", recorded)
    trainer = trainer_of(
        make_config,
        models / "model",
        prior_loss_weight=PRIOR_WEIGHT,
        train_text_encoder=True,
        text_encoder_learning_rate=TEXT_RATE,
    )
    config = make_config("dreambooth")
    stock = StableDiffusionPipeline.from_pretrained(str(models / "model"), safety_checker=None)
    halves = [
        (draws(stock, resolve_subject(config.subject, RESOLUTION).images, ""), "a sks cat", 1.0),
        (draws(stock, made[0].images, "prior_"), "a cat", PRIOR_WEIGHT),
    ]
    parts = {"unet": stock.unet.double().train(), "text_encoder": stock.text_encoder.double().train()}
    parameters = {
        f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()
    }
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(trainer.parameters[name])
    began = {name: value.detach().clone() for name, value in parameters.items()}
    rates = [RATE if name.startswith("unet.") else TEXT_RATE for name in parameters]
    adam = Adam(list(parameters.values()), rates, DECAY, CLIP, BETAS, EPSILON)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    signal = (1 - betas).cumprod(0)
    for _ in range(STEPS):
        expected = torch.zeros((), dtype=torch.float64)
        for source, prompt, weight in halves:
            latents, noise, steps = next(source)
            a = signal[steps].reshape(-1, 1, 1, 1)
            noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
            ids = stock.tokenizer(
                [prompt] * SIZE, padding="max_length", max_length=77, return_tensors="pt"
            ).input_ids
            states = parts["text_encoder"](ids)[0]
            output = parts["unet"](noisy, steps, encoder_hidden_states=states).sample
            expected = expected + weight * (output - noise).square().mean()
        loss, norm = train_step(trainer)
        assert norm > CLIP
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        adam.update(list(torch.autograd.grad(expected, adam.parameters, allow_unused=True)))
    check_trained(trainer.parameters, parameters, began)


def test_latents_of_flow_matching_are_shifted_and_scaled(make_config: MakeConfig, tmp_path: Path) -> None:
    trainer = trainer_of(make_config, make_tiny("sd3", tmp_path / "sd3"), with_prior_preservation=False)
    examples = trainer.batches._sources[0][1]
    sample = stream("latents")
    order = torch.randperm(len(examples), generator=stream("order"))[:2]
    drawn = examples.mean[order, 0] + examples.std[order, 0] * torch.randn((2, 4, 4, 4), generator=sample)
    expected = (drawn - 0.1) * 0.5  # of the tiny autoencoder
    torch.testing.assert_close(trainer.batches.draw().latents, expected)


def test_a_larger_mean_and_a_larger_shift_draw_noisier_levels(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """diffusers' scripts draw an index of descending levels, so that their mean has the opposite effect."""
    folder = make_tiny("sd3", tmp_path / "sd3")

    def mean_sigma(**fields: Any) -> float:
        trainer = trainer_of(make_config, folder, with_prior_preservation=False, **fields)
        return float(torch.cat([trainer.batches.draw().timesteps for _ in range(200)]).mean())

    plain = mean_sigma(shift=1.0)
    assert abs(plain - 0.5) < 0.05
    assert mean_sigma(shift=1.0, logit_mean=1.0) > plain + 0.1
    assert mean_sigma(shift=3.0) > plain + 0.1
