"""The training objective: pure functions of tensors.

With x the clean latents, n the noise and a_t the cumulative product of the schedule, the noisy latents are
``sqrt(a_t) x + sqrt(1 - a_t) n`` (Ho et al. 2020, eq. 4) and the model predicts the noise, the velocity
``sqrt(a_t) n - sqrt(1 - a_t) x`` (Salimans & Ho 2022, app. D) or the clean latents. In flow matching the noisy latents
are ``(1 - s) x + s n`` with s, or sigma, in [0, 1], and the model predicts ``n - x``.
"""

from __future__ import annotations

import torch


def _per_sample(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Reshapes [b] so that it multiplies a tensor of `like`'s rank sample by sample."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """Returns the latents [b, c, h, w] at noise level `timesteps` [b]."""
    alphas = _per_sample(alphas_cumprod[timesteps], latents)
    return alphas.sqrt() * latents + (1 - alphas).sqrt() * noise


def target_of(
    prediction_type: str,
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """Returns what the model should predict, of the latents' shape.

    Args:
        prediction_type: "epsilon", "v_prediction" or "sample".
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return latents
    if prediction_type == "v_prediction":
        alphas = _per_sample(alphas_cumprod[timesteps], latents)
        return alphas.sqrt() * noise - (1 - alphas).sqrt() * latents
    raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {prediction_type!r}")


def flow_noise(latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Returns the latents [b, c, h, w] at the shares of noise `sigmas` [b], in float32."""
    share = _per_sample(sigmas.float(), latents)
    return (1 - share) * latents + share * noise


def flow_target(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Returns the velocity from image to noise, of the latents' shape: the change of noisy latents with sigma."""
    return noise - latents


def shifted(sigmas: torch.Tensor, shift: float) -> torch.Tensor:
    """Returns shift * s / (1 + (shift - 1) * s) of each s (Esser et al. 2024, eq. 23): noisier for a shift above 1."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def snr(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Returns the signal-to-noise ratio a_t / (1 - a_t) of each sample, [b]."""
    alphas = alphas_cumprod[timesteps]
    return alphas / (1 - alphas)


def min_snr_weights(
    prediction_type: str, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, gamma: float
) -> torch.Tensor:
    """Returns the min-SNR-gamma weight of each sample's squared error, [b] (Hang et al. 2023,
    arXiv:2303.09556).

    The weight of the error in the clean latents is min(SNR, gamma); an error in the noise is that divided by
    SNR, and one in the velocity that divided by SNR + 1. The noise weight tends to 1 as SNR goes to 0, which
    covers a zero-terminal schedule.
    """
    ratio = snr(timesteps, alphas_cumprod)
    clipped = ratio.clamp(max=gamma)
    if prediction_type == "epsilon":
        return torch.where(ratio > 0, clipped / ratio.clamp(min=torch.finfo(ratio.dtype).tiny), 1.0)
    if prediction_type == "v_prediction":
        return clipped / (ratio + 1)
    if prediction_type == "sample":
        return clipped
    raise ValueError(f"prediction_type must be epsilon, v_prediction or sample, got {prediction_type!r}")


def share_of_samples(instances: int, priors: int, prior_loss_weight: float) -> torch.Tensor:
    """Returns the factor of each sample's loss in a batch of instances followed by class images, [instances +
    priors].

    Their sum of products is DreamBooth's loss, mean over instances + prior_loss_weight * mean over class
    images (Ruiz et al. 2022, eq. 2), whatever the two counts.
    """
    return torch.cat(
        [
            torch.full((instances,), 1 / instances),
            torch.full((priors,), prior_loss_weight / max(priors, 1)),
        ]
    )


def area_weights(masks: torch.Tensor, background_weight: float, size: tuple[int, int]) -> torch.Tensor:
    """Returns the factor of each latent pixel's squared error, with mean 1 over every image: [n, 1, h, w].

    It is in proportion to 1 on the subject and to `background_weight` beside it. With mean 1 the loss is a weighted
    mean, of the same size whatever share of its picture a subject takes, so that rates and clipping mean the same.

    Args:
        masks: How much of each pixel shows the subject, [n, 1, H, W] in 0..1, not all 0 in any image.
        size: (h, w) of the latents; each of their pixels has the mean of the mask that it covers.
    """
    shown = torch.nn.functional.adaptive_avg_pool2d(masks, size)
    weights = background_weight + (1 - background_weight) * shown
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)


def diffusion_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    shares: torch.Tensor,
    weights: torch.Tensor | None = None,
    areas: torch.Tensor | None = None,
) -> torch.Tensor:
    """Returns the sum over samples of share * weight * mean squared error, a scalar in float32.

    Args:
        prediction: Of the model, [b, c, h, w].
        target: Of the same shape.
        shares: From `share_of_samples`, [b].
        weights: From `min_snr_weights`, [b]; every sample has its own, class images too.
        areas: From `area_weights`, [b, 1, h, w]; None weighs all pixels alike.
    """
    squares = (prediction.float() - target.float()).square()
    errors = (squares if areas is None else squares * areas).flatten(1).mean(1)
    if weights is not None:
        errors = errors * weights
    return (errors * shares).sum()
