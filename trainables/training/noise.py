"""The noise processes that models are trained with: diffusion in steps, and flow matching on a line.

A noise level is a step of the schedule in the first, sigma in [0, 1] in the second. In both, larger is noisier.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from trainables.config.fields import TrainingConfig
from trainables.models.backbone import Backbone
from trainables.training.objective import (
    add_noise,
    flow_noise,
    flow_target,
    min_snr_weights,
    shifted,
    target_of,
)

_TIMES = 1000.0  # what denoisers of flow matching are told at sigma 1


class NoiseProcess(Protocol):
    """How latents are made noisy, and what the model should say of it."""

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draws noise levels of samples, [count], on the CPU."""
        ...

    def add(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Returns latents [b, c, h, w] at levels [b]."""
        ...

    def target(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """Returns what the model should predict, of the latents' shape."""
        ...

    def weights(self, levels: torch.Tensor) -> torch.Tensor | None:
        """Returns the weight of each sample's squared error [b], or None where all weigh the same."""
        ...

    def times(self, levels: torch.Tensor) -> torch.Tensor:
        """Returns levels as the denoiser is told them, from 0 to 1000."""
        ...

    def at(self, fractions: torch.Tensor) -> torch.Tensor:
        """Returns the levels at shares in [0, 1) of the way to noise, as a uniform draw would have them."""
        ...


@dataclass(frozen=True, eq=False)
class Diffusion:
    """Ho et al. 2020: steps of a schedule, drawn uniformly.

    Attributes:
        alphas_cumprod: Of the schedule, [steps], float32.
        prediction_type: "epsilon", "v_prediction" or "sample".
        snr_gamma: Of min-SNR weights, or None.
    """

    alphas_cumprod: torch.Tensor
    prediction_type: str
    snr_gamma: float | None = None

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Steps, int64."""
        return torch.randint(len(self.alphas_cumprod), (count,), generator=generator)

    def add(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """See `add_noise`."""
        return add_noise(latents, noise, levels, self.alphas_cumprod)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """See `target_of`."""
        return target_of(self.prediction_type, latents, noise, levels, self.alphas_cumprod)

    def weights(self, levels: torch.Tensor) -> torch.Tensor | None:
        """See `min_snr_weights`."""
        if self.snr_gamma is None:
            return None
        return min_snr_weights(self.prediction_type, levels, self.alphas_cumprod, self.snr_gamma)

    def times(self, levels: torch.Tensor) -> torch.Tensor:
        """The steps themselves."""
        return levels

    def at(self, fractions: torch.Tensor) -> torch.Tensor:
        """Steps, int64."""
        return (fractions * len(self.alphas_cumprod)).long()


@dataclass(frozen=True, eq=False)
class FlowMatching:
    """Lipman et al. 2023, Esser et al. 2024 (arXiv 2403.03206): a straight line from image to noise.

    Everything of sigma is float32 on the way. Direction: sigma 1 is noise, and `mean` above 0 as `shift` above 1 draw
    noisier levels. (diffusers' scripts draw an index of descending levels, so that their logit_mean has the opposite
    effect, and apply the shift for some models and not for others.)

    Attributes:
        shift: See `shifted`.
        sampling: "uniform" draws sigma uniformly before the shift, "logit_normal" the logistic function of a normal.
        mean: Of that normal; `std` likewise.
    """

    shift: float = 1.0
    sampling: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Sigmas, float32."""
        if self.sampling == "uniform":
            return shifted(torch.rand(count, generator=generator), self.shift)
        normal = torch.randn(count, generator=generator)
        return shifted(torch.sigmoid(self.mean + self.std * normal), self.shift)

    def add(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """See `flow_noise`."""
        return flow_noise(latents, noise, levels)

    def target(self, latents: torch.Tensor, noise: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        """See `flow_target`."""
        return flow_target(latents, noise)

    def weights(self, levels: torch.Tensor) -> torch.Tensor | None:
        """All samples weigh the same: what is drawn how often is the weighting."""
        return None

    def times(self, levels: torch.Tensor) -> torch.Tensor:
        """Sigma times 1000."""
        return levels * _TIMES

    def at(self, fractions: torch.Tensor) -> torch.Tensor:
        """Sigmas, float32, without the shift."""
        return fractions.float()


def process_of(backbone: Backbone, config: TrainingConfig) -> NoiseProcess:
    """Returns the noise process of a model, with what a configuration says of it."""
    if not backbone.family.flow:
        return Diffusion(backbone.alphas_cumprod, backbone.prediction_type, config.snr_gamma)
    shift = backbone.sigma_shift if config.shift is None else config.shift
    return FlowMatching(shift, config.timestep_sampling, config.logit_mean, config.logit_std)


def unweighted_process(backbone: Backbone) -> NoiseProcess:
    """Returns the noise process of a model, without what a configuration weighs or shifts in it."""
    if backbone.family.flow:
        return FlowMatching()
    return Diffusion(backbone.alphas_cumprod, backbone.prediction_type)
