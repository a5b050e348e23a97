"""The objective against closed forms, and against diffusers where it has the same quantity."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from trainables.training.objective import (
    add_noise,
    area_weights,
    diffusion_loss,
    min_snr_weights,
    share_of_samples,
    snr,
    target_of,
)

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ALPHAS = SCHEDULER.alphas_cumprod
TIMESTEPS = torch.tensor([0, 10, 250, 999])


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 3, 2, 2, generator=generator), torch.randn(4, 3, 2, 2, generator=generator)


def test_noise_and_velocity_are_those_of_diffusers(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    latents, noise = pair
    torch.testing.assert_close(
        add_noise(latents, noise, TIMESTEPS, ALPHAS), SCHEDULER.add_noise(latents, noise, TIMESTEPS)
    )
    torch.testing.assert_close(
        target_of("v_prediction", latents, noise, TIMESTEPS, ALPHAS),
        SCHEDULER.get_velocity(latents, noise, TIMESTEPS),
    )
    assert target_of("epsilon", latents, noise, TIMESTEPS, ALPHAS) is noise
    assert target_of("sample", latents, noise, TIMESTEPS, ALPHAS) is latents
    torch.testing.assert_close(snr(TIMESTEPS, ALPHAS), compute_snr(SCHEDULER, TIMESTEPS))


def test_unknown_prediction_type_is_refused(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="flow"):
        target_of("flow", *pair, TIMESTEPS, ALPHAS)
    with pytest.raises(ValueError, match="flow"):
        min_snr_weights("flow", TIMESTEPS, ALPHAS, 5.0)


def test_min_snr_weights_by_hand() -> None:
    # SNR = a / (1 - a): 9, 1, 0.25
    alphas = torch.tensor([0.9, 0.5, 0.2])
    steps = torch.arange(3)
    expected = {
        "epsilon": [5 / 9, 1.0, 1.0],
        "v_prediction": [5 / 10, 1 / 2, 0.25 / 1.25],
        "sample": [5.0, 1.0, 0.25],
    }
    for kind, weights in expected.items():
        torch.testing.assert_close(min_snr_weights(kind, steps, alphas, 5.0), torch.tensor(weights))


def test_min_snr_weights_mean_the_same_loss_in_every_parameterisation(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """An error in the clean latents, told as an error in noise or velocity, costs the same."""
    latents, noise = pair
    wrong = latents + 0.1  # predicted clean latents
    alphas = ALPHAS[TIMESTEPS].reshape(-1, 1, 1, 1)
    noisy = add_noise(latents, noise, TIMESTEPS, ALPHAS)
    wrong_noise = (noisy - alphas.sqrt() * wrong) / (1 - alphas).sqrt()
    predictions = {
        "sample": wrong,
        "epsilon": wrong_noise,
        "v_prediction": alphas.sqrt() * wrong_noise - (1 - alphas).sqrt() * wrong,
    }
    losses = [
        diffusion_loss(
            prediction.double(),
            target_of(kind, latents, noise, TIMESTEPS, ALPHAS).double(),
            share_of_samples(4, 0, 1.0),
            min_snr_weights(kind, TIMESTEPS, ALPHAS, 5.0),
        )
        for kind, prediction in predictions.items()
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=0)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-2, atol=0)


@pytest.mark.parametrize(("instances", "priors"), [(1, 1), (3, 3), (2, 4), (4, 0)])
def test_prior_preservation_is_the_sum_of_two_means(instances: int, priors: int) -> None:
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randn(instances + priors, 4, 2, 2, generator=generator)
    target = torch.randn(instances + priors, 4, 2, 2, generator=generator)
    loss = diffusion_loss(prediction, target, share_of_samples(instances, priors, 0.5))
    expected = torch.nn.functional.mse_loss(prediction[:instances], target[:instances])
    if priors:
        expected = expected + 0.5 * torch.nn.functional.mse_loss(prediction[instances:], target[instances:])
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("instances", [1, 3])
def test_min_snr_with_prior_preservation_weighs_each_sample_by_its_own_timestep(instances: int) -> None:
    """diffusers' train_dreambooth.py fails here for batches, and weighs wrongly for single images."""
    generator = torch.Generator().manual_seed(2)
    count = 2 * instances
    prediction = torch.randn(count, 4, 2, 2, generator=generator)
    target = torch.randn(count, 4, 2, 2, generator=generator)
    timesteps = torch.randint(1000, (count,), generator=generator)
    weights = min_snr_weights("epsilon", timesteps, ALPHAS, 5.0)
    loss = diffusion_loss(prediction, target, share_of_samples(instances, instances, 1.0), weights)
    errors = [float((prediction[i] - target[i]).square().mean() * weights[i]) for i in range(count)]
    expected = sum(errors[:instances]) / instances + sum(errors[instances:]) / instances
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_loss_is_computed_in_float32() -> None:
    prediction = torch.full((1, 1, 1, 1), 300.0, dtype=torch.float16)
    loss = diffusion_loss(prediction, torch.zeros_like(prediction), share_of_samples(1, 0, 1.0))
    assert loss.dtype == torch.float32
    assert float(loss) == 90_000.0  # overflows in float16


def test_the_loss_of_areas_is_a_weighted_mean(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    prediction, target = pair
    masks = torch.zeros(4, 1, 8, 8)
    masks[:, :, :4, :4] = 1  # the first of 2 x 2 latent pixels
    masks[3, :, :4, 4:] = 0.5
    shares = share_of_samples(4, 0, 1.0)
    areas = area_weights(masks, 0.2, (2, 2))
    expected = 0.0
    for sample in range(4):
        weights = [1.0, 0.6 if sample == 3 else 0.2, 0.2, 0.2]
        squares = ((prediction[sample] - target[sample]) ** 2).mean(0).flatten().tolist()
        expected += sum(w * s for w, s in zip(weights, squares, strict=True)) / sum(weights) / 4
    assert float(diffusion_loss(prediction, target, shares, areas=areas)) == pytest.approx(expected, rel=1e-6)


def test_a_mask_of_the_whole_image_changes_nothing(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    shares = share_of_samples(2, 2, 0.5)
    areas = area_weights(torch.ones(4, 1, 16, 16), 0.0, (2, 2))
    torch.testing.assert_close(diffusion_loss(*pair, shares, areas=areas), diffusion_loss(*pair, shares))


def test_without_weight_the_background_has_no_gradient(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    prediction, target = pair[0].requires_grad_(), pair[1]
    masks = torch.zeros(4, 1, 2, 2)
    masks[:, :, 1, 0] = 1
    diffusion_loss(
        prediction, target, share_of_samples(4, 0, 1.0), areas=area_weights(masks, 0.0, (2, 2))
    ).backward()
    gradient = prediction.grad
    assert gradient is not None
    assert gradient[:, :, 1, 0].abs().min() > 0
    assert gradient[:, :, 0].abs().max() == gradient[:, :, 1, 1].abs().max() == 0
