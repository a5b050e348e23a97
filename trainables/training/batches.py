"""Training images as tensors that stay on the device, and the draws that make batches of them.

There is no loader and no decoding while training: a run's images (a handful, or a few hundred) are encoded once, to
the moments of their latents, from which every step samples anew. A batch is indices; captions follow the index of the
image, so that no order can part them. Images of several sizes are kept by size, and a batch has images of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy
import torch
from PIL import Image

from trainables.models.conditioning import Conditioning
from trainables.randomness import Streams
from trainables.training.data_order import BucketOrder, Shuffle
from trainables.training.noise import NoiseProcess
from trainables.training.objective import area_weights, share_of_samples

_MASKS_AT_ONCE = 64  # whole ones of a large data set would take gigabytes


@dataclass(frozen=True)
class Examples:
    """Images of one kind (instances or class images) and one size, encoded.

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
        dropped: Which samples have the empty prompt in place of their captions, [b], bool; None where none can.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    captions: torch.Tensor
    shares: torch.Tensor
    areas: torch.Tensor | None = None
    geometry: torch.Tensor | None = None
    from_base: torch.Tensor | None = None
    dropped: torch.Tensor | None = None

    def part(self, rank: int, size: int) -> Batch:
        """Returns every `size`-th sample from `rank` on: one of `size` parts that differ by one sample at most.

        Samples keep their shares, so that the losses of the parts add up to that of the whole.
        """
        if size == 1:
            return self
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        known = {name: value[rank::size] for name, value in columns.items() if value is not None}
        return Batch(**known)


def mask_areas(masks: Sequence[Image.Image], background_weight: float, latents: torch.Tensor) -> torch.Tensor:
    """Returns the factors of the latent pixels' errors, [images, orientations, 1, h, w], on the latents' device.

    Args:
        masks: 8-bit grey, one for each image; see `Subject.masks`.
        latents: Of the images, [images, orientations, c, h, w]; a second orientation is the mirrored image.
    """
    height, width = latents.shape[-2:]
    areas = []
    for begin in range(0, len(masks), _MASKS_AT_ONCE):
        part = masks[begin : begin + _MASKS_AT_ONCE]
        shown = torch.from_numpy(numpy.stack([numpy.asarray(mask) for mask in part])).float()[:, None] / 255
        orientations = [shown, shown.flip(3)][: latents.shape[1]]
        weights = [area_weights(one, background_weight, (height, width)) for one in orientations]
        areas.append(torch.stack(weights, 1))
    return torch.cat(areas).to(latents.device)


class Batches:
    """Draws the batches of a run, of `size` instances each, followed by as many examples of the class if there
    are any.

    A batch is defined for the whole run, not for a process: with several workers each draws it and takes its
        slice.

    Args:
        examples: Of the subject; several where its images have several sizes, one for each bucket. A batch then is of
            one bucket (see `BucketOrder`), and there are no `priors`.
        priors: Of the class, or None.
        priors_from_base: Examples of the class have the base model's prediction for their target.
        process: Draws noise levels.
        scale: Of latents (the autoencoder's scaling factor).
        shift: What is taken from latents before that (its shift factor).
        caption_dropout: Chance with which an image of the subject gets the caption `empty_caption`, a row of `Texts`.
    """

    def __init__(
        self,
        examples: Examples | Sequence[Examples],
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
        caption_dropout: float = 0.0,
        empty_caption: int = 0,
    ) -> None:
        buckets = [examples] if isinstance(examples, Examples) else list(examples)
        if priors is not None and len(buckets) > 1:
            raise ValueError("images of several sizes have no examples of the class beside them")
        self._sources = [("", bucket) for bucket in buckets]
        self._priors = [] if priors is None else [("prior_", priors)]
        self._streams = streams
        self._order = BucketOrder([len(bucket) for bucket in buckets], streams["order"])
        self._prior_order = None if priors is None else Shuffle(len(priors), streams["prior_order"])
        self._counts = torch.zeros(len(buckets), dtype=torch.int64)
        self._only: int | None = None
        self._size = size
        self._scale = scale
        self._shift = shift
        self._process = process
        self._noise_offset = noise_offset
        shares = share_of_samples(size, 0 if priors is None else size, prior_loss_weight)
        self._shares = shares.to(buckets[0].mean.device)
        self._priors_from_base = priors_from_base and priors is not None
        self._caption_dropout = caption_dropout
        self._empty_caption = empty_caption

    @property
    def images(self) -> int:
        """Images in one batch, class images among them."""
        return len(self._shares)

    @property
    def bucket_images(self) -> list[int]:
        """Images of the subject in each bucket. Batches are in proportion to them, in the long run."""
        return [len(bucket) for _, bucket in self._sources]

    @property
    def bucket_counts(self) -> list[int]:
        """Batches that have been drawn of each bucket."""
        counts: list[int] = self._counts.tolist()
        return counts

    def each_bucket(self) -> Iterator[float]:
        """Yields each bucket's share of the batches, while all that is drawn is of that bucket.

        What is drawn meanwhile is no part of the run's order; it is for measuring what a batch takes.
        """
        total = sum(self.bucket_images)
        for bucket, images in enumerate(self.bucket_images):
            self._only = bucket if len(self._sources) > 1 else None
            try:
                yield images / total
            finally:
                self._only = None

    def draw(self) -> Batch:
        """Draws the next batch."""
        if self._only is None:
            bucket, places = self._order.take(self._size)
        else:
            bucket = self._only
            places = torch.arange(self._size) % len(self._sources[bucket][1])
        self._counts[bucket] += 1
        parts = [self._draw(*self._sources[bucket], places)]
        if self._prior_order is not None:
            parts += [self._draw(*source, self._prior_order.take(self._size)) for source in self._priors]
        *columns, areas, geometry = zip(*parts, strict=True)
        latents, noise, timesteps, captions = (
            torch.cat(column) if len(parts) > 1 else column[0] for column in columns
        )
        dropped = self._drop(len(captions), captions.device)
        if dropped is not None:
            captions = torch.where(dropped, self._empty_caption, captions)
        return Batch(
            latents,
            noise,
            timesteps,
            captions,
            self._shares,
            _areas_of(latents, areas),
            _where_known(geometry),
            self._from_base(self._size),
            dropped,
        )

    def _drop(self, count: int, device: torch.device) -> torch.Tensor | None:
        """Draws which of `count` samples lose their captions; those of the class never do."""
        if not self._caption_dropout:
            return None
        drawn = torch.rand(self._size, generator=self._streams["caption_dropout"]) < self._caption_dropout
        return torch.cat([drawn, torch.zeros(count - self._size, dtype=torch.bool)]).to(device)

    def _from_base(self, size: int) -> torch.Tensor | None:
        """Which samples of a batch of `size` of each kind the base model gives a target."""
        return torch.tensor([False] * size + [True] * size) if self._priors_from_base else None

    def sample(self, bucket: int = 0, each: int = 1) -> Batch:
        """Returns a batch of one image of each kind; draws nothing and moves nothing.

        Args:
            bucket: Of the image of the subject.
            each: How many times each image is in the batch.
        """
        sources = [source for _, source in (self._sources[bucket], *self._priors)]
        firsts = [(source.mean[:1, 0] - self._shift) * self._scale for source in sources]
        latents = torch.cat([first.expand(each, -1, -1, -1) for first in firsts])
        captions = torch.cat([source.captions.flatten()[:1].expand(each) for source in sources])
        # The kind of number that is drawn, from a generator of its own.
        timesteps = torch.zeros_like(self._process.draw(len(latents), torch.Generator())).to(latents.device)
        shares = torch.ones(len(latents), device=latents.device)
        sizes = [source.geometry for source in sources]
        geometry = _where_known([part if part is None else part[:1].expand(each, -1) for part in sizes])
        noise, from_base = torch.zeros_like(latents), self._from_base(each)
        return Batch(latents, noise, timesteps, captions, shares, geometry=geometry, from_base=from_base)

    def _draw(self, prefix: str, source: Examples, indices: torch.Tensor) -> tuple[Any, ...]:
        size, device = self._size, source.mean.device
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
        """Returns the positions in the epochs, and of several buckets what was drawn of each; the generators' states
        belong to `Streams`.
        """
        state = self._order.state()
        if len(self._sources) > 1:
            state["bucket_counts"] = self._counts.clone()
        if self._prior_order is not None:
            state["prior_order"] = self._prior_order.state()
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on from positions that `state_dict` returned."""
        self._order.load_state(state)
        if len(self._sources) > 1:
            self._counts = state["bucket_counts"].clone()
        if self._prior_order is not None:
            self._prior_order.load_state(state["prior_order"])


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
