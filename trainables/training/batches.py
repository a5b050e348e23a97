"""Training images as tensors that stay on the device, and the draws that make batches of them.

There is no loader and no decoding while training: a run's images (a handful, or a few hundred class images)
    are encoded
once, to the moments of their latents, from which every step samples anew. A batch is indices; captions follow
the index of the image, so that no order can part them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy
import torch
from PIL import Image

from trainables.data.cache import Cache
from trainables.models.backbone import Backbone
from trainables.models.conditioning import Conditioning
from trainables.models.sampling import images_at_once
from trainables.randomness import Streams
from trainables.training.noise import NoiseProcess
from trainables.training.objective import area_weights, share_of_samples

_ENCODE_AT_ONCE = 16  # images through the autoencoder at most; large ones are fewer


@dataclass(frozen=True)
class Examples:
    """Images of one kind (instances or class images), encoded.

    Attributes:
        mean: Of the latents' posterior, [images, orientations, c, h, w], unscaled, float32.
        std: Its deviation, of the same shape.
        captions: Row of `Texts` that belongs to each image, [images]; or several, of which each draw of the image
            takes one, [images, captions].
        areas: Factors of the latent pixels' errors (`objective.area_weights`), [images, orientations, 1, h, w]; None
            where all count alike.
        geometry: Sizes and crops, [images, 6], float32 (see `trainables.data.images.geometry_of`).
    """

    mean: torch.Tensor
    std: torch.Tensor
    captions: torch.Tensor
    areas: torch.Tensor | None = None
    geometry: torch.Tensor | None = None

    def __len__(self) -> int:
        return self.mean.shape[0]


@dataclass(frozen=True)
class Texts:
    """The distinct captions of a run, as conditioning, or as tokens where a part of a text encoder trains."""

    captions: tuple[str, ...]
    rows: Conditioning
    are_tokens: bool


@dataclass(frozen=True)
class Batch:
    """One forward pass: instances, then class images.

    Attributes:
        latents: Scaled samples, [b, c, h, w].
        noise: Of the same shape.
        timesteps: Noise levels, [b], of the noise process (``noise.py``).
        captions: Rows of `Texts`, [b].
        shares: Factor of each sample's loss, [b].
        areas: Factors of the latent pixels' errors, [b, 1, h, w]; None where all count alike.
        geometry: Sizes and crops of the images, [b, 6], float32, or None where they are not known.
        from_base: Which samples are to be predicted as the base model predicts them, [b], bool, on the CPU, where it is
            looked at; None where all have the target of the noise process.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    captions: torch.Tensor
    shares: torch.Tensor
    areas: torch.Tensor | None = None
    geometry: torch.Tensor | None = None
    from_base: torch.Tensor | None = None

    def part(self, rank: int, size: int) -> Batch:
        """Returns every `size`-th sample from `rank` on: one of `size` parts that differ by one sample at most.

        Samples keep their shares, so that the losses of the parts add up to that of the whole.
        """
        if size == 1:
            return self
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        known = {name: value[rank::size] for name, value in columns.items() if value is not None}
        return Batch(**known)


class Shuffle:
    """Indices of `length` things for ever: each epoch a new permutation from the generator.

    Batches run over the ends of epochs, so that none is short.
    """

    def __init__(self, length: int, generator: torch.Generator) -> None:
        self._length = length
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> torch.Tensor:
        """Returns the next `count` indices, [count]."""
        while len(self._order) < count:
            epoch = torch.randperm(self._length, generator=self._generator)
            self._order = torch.cat([self._order, epoch])
        taken, self._order = self._order[:count], self._order[count:]
        return taken

    def state(self) -> torch.Tensor:
        """Returns the rest of the present epoch; with the generator's state it determines what follows."""
        return self._order.clone()

    def load_state(self, order: torch.Tensor) -> None:
        """Goes on with the rest of an epoch."""
        self._order = order.clone()


def encode_images(
    backbone: Backbone, cache: Cache, images: Sequence[Image.Image], flip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and deviation of the images' latents, [images, orientations, c, h, w], float32, on the
    device.

    Args:
        images: RGB squares of one size, a multiple of the autoencoder's factor.
        flip: Encode the mirrored image as a second orientation.
    """
    pixels = numpy.stack([numpy.asarray(image.convert("RGB")) for image in images])
    identity = {
        "vae": backbone.digest(backbone.family.autoencoder.name),
        "pixels": _digest(pixels),
        "shape": list(pixels.shape),
        "flip": flip,
        "device": backbone.device.type,
    }

    def compute() -> dict[str, torch.Tensor]:
        tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        moments = [_encode(backbone, tensor, mirrored) for mirrored in ((False, True) if flip else (False,))]
        return {
            "mean": torch.stack([mean for mean, _ in moments], 1),
            "std": torch.stack([std for _, std in moments], 1),
        }

    found = cache.tensors("latents", identity, compute)
    return found["mean"].to(backbone.device), found["std"].to(backbone.device)


def mask_areas(masks: Sequence[Image.Image], background_weight: float, latents: torch.Tensor) -> torch.Tensor:
    """Returns the factors of the latent pixels' errors, [images, orientations, 1, h, w], on the latents' device.

    Args:
        masks: 8-bit grey, one for each image; see `Subject.masks`.
        latents: Of the images, [images, orientations, c, h, w]; a second orientation is the mirrored image.
    """
    shown = torch.from_numpy(numpy.stack([numpy.asarray(mask) for mask in masks])).float()[:, None] / 255
    height, width = latents.shape[-2:]
    orientations = [shown, shown.flip(3)][: latents.shape[1]]
    areas = [area_weights(one, background_weight, (height, width)) for one in orientations]
    return torch.stack(areas, 1).to(latents.device)


def embed_texts(backbone: Backbone, cache: Cache, captions: Sequence[str], as_tokens: bool) -> Texts:
    """Returns the distinct captions as conditioning, or as tokens where what encodes them trains."""
    distinct = tuple(dict.fromkeys(captions))
    if as_tokens:
        return Texts(distinct, backbone.tokenize(distinct), are_tokens=True)
    identity = {
        "text": backbone.digest(*backbone.family.texts, prompts=distinct),
        "captions": list(distinct),
        "device": backbone.device.type,
    }
    found = cache.tensors("texts", identity, lambda: backbone.encode_prompts(distinct))
    return Texts(distinct, {name: rows.to(backbone.device) for name, rows in found.items()}, are_tokens=False)


class Batches:
    """Draws the batches of a run, of `size` instances each, followed by as many examples of the class if there
    are any.

    A batch is defined for the whole run, not for a process: with several workers each draws it and takes its
        slice.

    Args:
        examples: Of the subject.
        priors: Of the class, or None.
        priors_from_base: Examples of the class have the base model's prediction for their target.
        process: Draws noise levels.
        scale: Of latents (the autoencoder's scaling factor).
        shift: What is taken from latents before that (its shift factor).
    """

    def __init__(
        self,
        examples: Examples,
        priors: Examples | None,
        streams: Streams,
        *,
        process: NoiseProcess,
        size: int,
        scale: float,
        prior_loss_weight: float,
        noise_offset: float,
        shift: float = 0.0,
        priors_from_base: bool = False,
    ) -> None:
        self._sources = [("", examples)] if priors is None else [("", examples), ("prior_", priors)]
        self._streams = streams
        self._shuffles = {
            prefix: Shuffle(len(source), streams[f"{prefix}order"]) for prefix, source in self._sources
        }
        self._size = size
        self._scale = scale
        self._shift = shift
        self._process = process
        self._noise_offset = noise_offset
        shares = share_of_samples(size, 0 if priors is None else size, prior_loss_weight)
        self._shares = shares.to(examples.mean.device)
        self._priors_from_base = priors_from_base and priors is not None

    @property
    def images(self) -> int:
        """Images in one batch, class images among them."""
        return len(self._shares)

    def draw(self) -> Batch:
        """Draws the next batch."""
        parts = [self._draw(prefix, source) for prefix, source in self._sources]
        *columns, areas, geometry = zip(*parts, strict=True)
        latents, noise, timesteps, captions = (
            torch.cat(column) if len(parts) > 1 else column[0] for column in columns
        )
        return Batch(
            latents,
            noise,
            timesteps,
            captions,
            self._shares,
            _areas_of(latents, areas),
            _where_known(geometry),
            self._from_base(self._size),
        )

    def _from_base(self, size: int) -> torch.Tensor | None:
        """Which samples of a batch of `size` of each kind the base model gives a target."""
        return torch.tensor([False] * size + [True] * size) if self._priors_from_base else None

    def sample(self) -> Batch:
        """Returns a batch of one image of each kind; draws nothing and moves nothing."""
        firsts = [(source.mean[:1, 0] - self._shift) * self._scale for _, source in self._sources]
        latents = torch.cat(firsts)
        captions = torch.cat([source.captions.flatten()[:1] for _, source in self._sources])
        # The kind of number that is drawn, from a generator of its own.
        timesteps = torch.zeros_like(self._process.draw(len(latents), torch.Generator())).to(latents.device)
        shares = torch.ones(len(latents), device=latents.device)
        sizes = [source.geometry for _, source in self._sources]
        geometry = _where_known([part if part is None else part[:1] for part in sizes])
        noise, from_base = torch.zeros_like(latents), self._from_base(1)
        return Batch(latents, noise, timesteps, captions, shares, geometry=geometry, from_base=from_base)

    def _draw(self, prefix: str, source: Examples) -> tuple[Any, ...]:
        size, device = self._size, source.mean.device
        indices = self._shuffles[prefix].take(size)
        orientations = source.mean.shape[1]
        flips = torch.zeros(size, dtype=torch.int64)
        if orientations > 1:
            flips = torch.randint(orientations, (size,), generator=self._streams[f"{prefix}flip"])
        shape = (size, *source.mean.shape[2:])
        sample = torch.randn(shape, generator=self._streams[f"{prefix}latents"])
        noise = torch.randn(shape, generator=self._streams[f"{prefix}noise"])
        if self._noise_offset:
            # One shift a channel lets the model learn to change overall brightness (Guttenberg 2023).
            shift = torch.randn((*shape[:2], 1, 1), generator=self._streams[f"{prefix}noise_offset"])
            noise = noise + self._noise_offset * shift
        timesteps = self._process.draw(size, self._streams[f"{prefix}timesteps"])
        indices, flips = indices.to(device), flips.to(device)
        drawn = source.mean[indices, flips] + source.std[indices, flips] * sample.to(device)
        latents = (drawn - self._shift) * self._scale
        areas = None if source.areas is None else source.areas[indices, flips]
        # A mirrored image has the same crop: it is cut out of the middle.
        geometry = None if source.geometry is None else source.geometry[indices]
        captions = source.captions[indices]
        if captions.dim() > 1:
            stream = self._streams[f"{prefix}captions"]
            chosen = torch.randint(captions.shape[1], (size, 1), generator=stream)
            captions = captions.gather(1, chosen.to(device)).squeeze(1)
        return latents, noise.to(device), timesteps.to(device), captions, areas, geometry

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the positions in the epochs; the generators' states belong to `Streams`."""
        return {f"{prefix}order": shuffle.state() for prefix, shuffle in self._shuffles.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on from positions that `state_dict` returned."""
        for prefix, shuffle in self._shuffles.items():
            shuffle.load_state(state[f"{prefix}order"])


def _where_known(geometry: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The sizes and crops of a batch of several sources, or None where those of one are not known."""
    known = [part for part in geometry if part is not None]
    return torch.cat(known) if len(known) == len(geometry) else None


def _areas_of(latents: torch.Tensor, areas: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The factors of a batch of several sources, 1 for those that have none."""
    if all(part is None for part in areas):
        return None
    size = len(latents) // len(areas)
    ones = torch.ones((size, 1, *latents.shape[2:]), device=latents.device)
    return torch.cat([ones if part is None else part for part in areas])


@torch.no_grad()
def _encode(backbone: Backbone, pixels: torch.Tensor, mirrored: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns mean and deviation of latents of 8-bit pixels [images, 3, h, w], as many at once as memory is made for.

    The autoencoder works on whole images: tiles of one, as diffusers has them, would give other latents at their seams.
    """
    moments = []
    for chunk in pixels.split(min(_ENCODE_AT_ONCE, images_at_once(max(pixels.shape[-2:])))):
        values = chunk.float() / 127.5 - 1
        values = values.flip(3) if mirrored else values
        values = values.to(backbone.device, memory_format=torch.channels_last)
        posterior = backbone.vae.encode(values).latent_dist
        moments.append((posterior.mean.float().cpu(), posterior.std.float().cpu()))
    means, stds = zip(*moments, strict=True)
    return torch.cat(means), torch.cat(stds)


def _digest(array: numpy.ndarray) -> str:
    import hashlib

    return hashlib.sha256(array.tobytes()).hexdigest()
