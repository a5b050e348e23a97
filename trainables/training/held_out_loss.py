"""The denoising loss on images that were held out, at fixed noise and noise levels: cheap, and without a judge.

It falls while a model learns the subject and rises when it learns its training images by heart. Noise and levels are
those of subject and seed, the same at every step and for every arm, so that differences are not of the draw; every
squared error weighs the same, whatever weights the training has, so that arms with other weights are measured alike.
It says how well held-out images are denoised, not how images look that are drawn: quality stays the judge. Images of
a data set are denoised with their own captions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.config.fields import HELD_OUT_IMAGES, HELD_OUT_LEVELS
from trainables.data.cache import Cache
from trainables.data.images import geometry_of
from trainables.data.subjects import Subject
from trainables.models.backbone import Backbone
from trainables.models.sampling import at_rest
from trainables.randomness import stream_seed, subject_seed
from trainables.training.encoding import encode_images
from trainables.training.noise import NoiseProcess, unweighted_process


@dataclass(frozen=True, eq=False)
class HeldOutLoss:
    """What the loss is measured on; made by `prepare_held_out_loss`.

    Attributes:
        latents: Of the images, each as often as it has levels, [rows, c, h, w], as the denoiser is given them.
        noise: Of the same shape.
        fractions: Where each row's level lies in the process, [rows], in 0..1; larger is noisier.
        geometry: See `geometry_of`, [rows, 6].
        prompts: In the method's words: what names the subject, or the distinct captions of a data set's images.
        of_rows: Number of each row's prompt, [rows].
        batch_size: Rows that are denoised at once.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    fractions: torch.Tensor
    geometry: torch.Tensor
    prompts: tuple[str, ...]
    of_rows: torch.Tensor
    batch_size: int

    def measure(self, backbone: Backbone) -> float | None:
        """Returns the mean squared error of the model as it is now, None where it is not finite any more.

        Changes neither the model nor any random state.
        """
        process = unweighted_process(backbone)
        levels = process.at(self.fractions)
        total = torch.zeros((), dtype=torch.float64)
        with at_rest(backbone):
            conditioning = backbone.encode_prompts(list(self.prompts))
            for begin in range(0, len(levels), self.batch_size):
                rows = slice(begin, begin + self.batch_size)
                total += self._errors(backbone, process, conditioning, levels, rows).sum()
        mean = float(total / len(levels))
        return mean if math.isfinite(mean) else None

    def _errors(
        self,
        backbone: Backbone,
        process: NoiseProcess,
        conditioning: dict[str, torch.Tensor],
        levels: torch.Tensor,
        rows: slice,
    ) -> torch.Tensor:
        """Returns the mean squared error of each row, [rows], float64 on the CPU."""
        clean, noise, level = (part[rows].to(backbone.device) for part in (self.latents, self.noise, levels))
        of_rows = self.of_rows[rows].to(backbone.device)
        repeated = {name: value[of_rows] for name, value in conditioning.items()}
        geometry = self.geometry[rows].to(backbone.device)
        noisy = process.add(clean, noise, level)
        predicted = backbone.denoise(noisy, process.times(level), repeated, geometry)
        squares = (predicted.float() - process.target(clean, noise, level).float()).square()
        return squares.flatten(1).mean(1).double().cpu()


def prepare_held_out_loss(
    backbone: Backbone,
    subject: Subject,
    prompt: str,
    cache: Cache,
    seed: int,
    batch_size: int,
    stream: str = "held-out",
    captions: Sequence[str] = (),
) -> HeldOutLoss:
    """Encodes held-out images and draws their noise; must be called while `backbone` is the base model.

    Args:
        prompt: As the method names the subject.
        seed: Of the run.
        batch_size: Rows that are denoised at once.
        stream: Of the noise.
        captions: Of a data set, one for each reference as the method words it; they take the place of `prompt`.
    """
    numbers = _spread(len(subject.references), HELD_OUT_IMAGES)
    chosen = [subject.references[number] for number in numbers]
    said = [captions[number] for number in numbers] if captions else [prompt] * len(chosen)
    prompts = tuple(dict.fromkeys(said))
    of_images = torch.tensor([prompts.index(text) for text in said])
    mean, _ = encode_images(backbone, cache, chosen, flip=False, each_alone=subject.is_data_set)
    latents = ((mean[:, 0] - backbone.latent_shift) * backbone.latent_scale).cpu()
    count, own = len(chosen), subject_seed(seed, subject.name)
    noise = [
        torch.randn(
            latents.shape[1:],
            generator=torch.Generator().manual_seed(stream_seed(own, f"{stream}/{image}/{level}")),
        )
        for image in range(count)
        for level in range(HELD_OUT_LEVELS)
    ]
    places = [
        (level + (image + 0.5) / count) / HELD_OUT_LEVELS
        for image in range(count)
        for level in range(HELD_OUT_LEVELS)
    ]
    geometry = torch.tensor([geometry_of(image.size, image.width) for image in chosen])
    return HeldOutLoss(
        latents=latents.repeat_interleave(HELD_OUT_LEVELS, 0),
        noise=torch.stack(noise),
        fractions=torch.tensor(places),
        geometry=geometry.repeat_interleave(HELD_OUT_LEVELS, 0).float(),
        prompts=prompts,
        of_rows=of_images.repeat_interleave(HELD_OUT_LEVELS, 0),
        batch_size=batch_size,
    )


def _spread(count: int, most: int) -> list[int]:
    """Returns the numbers of at most so many of `count` things, evenly over their order."""
    kept = min(count, most)
    return [round((place + 0.5) * count / kept - 0.5) for place in range(kept)]
