"""Ten steps of v-prediction and of flow matching, computed once more in plain torch without any code of the project.

Levels of noise come from generators that are seeded anew, targets and losses from the papers' formulas, updates from
AdamW written out.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.plain_torch import Adam, stream
from tests.helpers.tiny_families import RESOLUTION, make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.models.loading import load_backbone
from trainables.training.loop import Trainer, train_step
from trainables.training.trainer import build_trainer

STEPS, RATE, DECAY, CLIP = 10, 1e-3, 1e-2, 1.0


def trainer_of(make_config: MakeConfig, folder: Path, **fields: Any) -> Trainer:
    backbone = load_backbone(ModelConfig(path=str(folder)))
    config = make_config(
        "dreambooth",
        model=str(folder),
        resolution=RESOLUTION,
        with_prior_preservation=False,
        learning_rate=RATE,
        max_train_steps=STEPS,
        adam_weight_decay=DECAY,
        max_grad_norm=CLIP,
        **fields,
    )
    subject = resolve_subject(config.subject, RESOLUTION)
    return build_trainer(config, backbone, subject, Cache(config.cache_dir))


def compare(trainer: Trainer, predict: Any, corrupt: Any, weigh: Any = None) -> None:
    """Trains the project's model and a copy of its denoiser side by side.

    Args:
        predict: Copy, noisy latents, levels and conditioning -> prediction.
        corrupt: Clean latents, noise -> noisy latents, levels and target; draws the levels.
        weigh: Levels -> weight of each sample.
    """
    mine = copy.deepcopy(trainer.backbone.denoiser)
    parameters = list(mine.parameters())
    adam = Adam(parameters, RATE, DECAY, CLIP)
    drawn: list[Any] = []
    draw = trainer.batches.draw
    trainer.batches.draw = lambda: drawn.append(draw()) or drawn[-1]  # type: ignore[method-assign, func-returns-value]
    noise_of = stream("noise")
    for _ in range(STEPS):
        loss, _ = train_step(trainer)
        batch = drawn.pop()
        noise = torch.randn(batch.latents.shape, generator=noise_of)
        assert torch.equal(batch.noise, noise)
        noisy, levels, target = corrupt(batch.latents, noise)
        torch.testing.assert_close(batch.timesteps.float(), levels.float(), rtol=1e-6, atol=1e-7)
        rows = {name: value[batch.captions] for name, value in trainer.texts.rows.items()}
        errors = (predict(mine, noisy, levels, rows, batch) - target).pow(2).mean((1, 2, 3))
        expected = (errors if weigh is None else errors * weigh(levels)).mean()
        torch.testing.assert_close(loss, expected, rtol=2e-4, atol=1e-5)
        adam.update(list(torch.autograd.grad(expected, parameters, allow_unused=True)))
    for (name, ours), value in zip(trainer.backbone.denoiser.named_parameters(), parameters, strict=True):
        # The two sum gradients in other orders, and Adam's quotient of small ones is unsteady.
        assert (ours - value).abs().mean() < 0.02 * RATE * STEPS, name


@pytest.mark.parametrize("gamma", [None, 5.0])
@pytest.mark.parametrize("zero", [False, True])
def test_velocity(zero: bool, gamma: float | None, make_config: MakeConfig, tmp_path: Path) -> None:
    """Salimans & Ho 2022; with a schedule that ends without signal as in Lin et al. 2024, algorithm 1."""
    folder = make_tiny("sd2", tmp_path / "sd2", rescale_betas_zero_snr=zero)
    trainer = trainer_of(make_config, folder, snr_gamma=gamma)
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
    trainer = trainer_of(make_config, make_tiny(name, tmp_path / name), **fields)
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


def test_latents_of_flow_matching_are_shifted_and_scaled(make_config: MakeConfig, tmp_path: Path) -> None:
    trainer = trainer_of(make_config, make_tiny("sd3", tmp_path / "sd3"))
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
        trainer = trainer_of(make_config, folder, train_batch_size=2, **fields)
        return float(torch.cat([trainer.batches.draw().timesteps for _ in range(200)]).mean())

    plain = mean_sigma(shift=1.0)
    assert abs(plain - 0.5) < 0.05
    assert mean_sigma(shift=1.0, logit_mean=1.0) > plain + 0.1
    assert mean_sigma(shift=3.0) > plain + 0.1
