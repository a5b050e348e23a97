"""Which images a step trains on: real or generated with a stated chance, classes as they come or all alike.

Draws are independent and with replacement, as in DA-Fusion (arXiv 2302.07944), so that a batch means the same for every
number of images. Each takes three numbers from the stream, whatever they decide: two arms with one seed draw the same
real images wherever both draw a real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from trainables.classifiers.images import TrainingData


@dataclass(frozen=True)
class Drawn:
    """The images of a batch, each [images].

    Attributes:
        generated: Whether it is a generated one.
        indices: Its place among the images of its source.
        labels: Its class.
    """

    generated: torch.Tensor
    indices: torch.Tensor
    labels: torch.Tensor


class Draws:
    """Draws the images of a training.

    With balanced sampling all classes have the same share of the draws, of both sources together: where only some have
    generated images, these are drawn the less often from the real ones.

    Args:
        chance: Of a draw to be a generated image.
        generator: Of the draws, and of nothing else.
    """

    def __init__(
        self,
        data: TrainingData,
        chance: float,
        sampling: Literal["natural", "balanced"],
        generator: torch.Generator,
    ) -> None:
        self._chance = chance
        self._generator = generator
        sources = (
            [data.train.labels] if data.generated is None else [data.train.labels, data.generated.labels]
        )
        counts = [torch.bincount(labels, minlength=len(data.classes)).double() for labels in sources]
        shares = [count / count.sum() for count in counts]
        if sampling == "balanced":
            shares = _balanced(counts, chance)
        self._sources = [_Source(*pair) for pair in zip(sources, shares, strict=True)]

    @property
    def class_shares(self) -> list[float]:
        """The share of each class in the draws, in expectation."""
        chances = (1 - self._chance, self._chance)
        shares = sum(chance * source.shares for chance, source in zip(chances, self._sources, strict=False))
        return torch.as_tensor(shares).tolist()

    def take(self, count: int) -> Drawn:
        """Returns the next `count` draws."""
        numbers = torch.rand(count, 3, dtype=torch.float64, generator=self._generator)
        generated = numbers[:, 0] < self._chance
        picked = [source.pick(numbers[:, 1].contiguous(), numbers[:, 2]) for source in self._sources]
        indices, labels = picked[0]
        if len(picked) > 1:
            others, their_labels = picked[1]
            indices = torch.where(generated, others, indices)
            labels = torch.where(generated, their_labels, labels)
        return Drawn(generated, indices, labels)


class _Source:
    """Images of one source by class; a class is drawn by its share, and in it every image is equally likely."""

    def __init__(self, labels: torch.Tensor, shares: torch.Tensor) -> None:
        self.shares = shares
        self._counts = torch.bincount(labels, minlength=len(shares))
        self._starts = self._counts.cumsum(0) - self._counts
        self._by_class = torch.argsort(labels, stable=True)
        self._bounds = shares.cumsum(0) / shares.sum()

    def pick(self, of_class: torch.Tensor, of_image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the places and labels of images for numbers in [0, 1)."""
        labels = torch.searchsorted(self._bounds, of_class, right=True)
        places = (of_image * self._counts[labels]).long()
        return self._by_class[self._starts[labels] + places], labels


def _balanced(counts: Sequence[torch.Tensor], chance: float) -> list[torch.Tensor]:
    """Returns the shares of classes in each source with which all classes have the same share of the draws.

    Generated classes are all alike, and real ones make up for what is missing, which they can as long as `chance` is
    no larger than the share of classes with generated images (`images.data_problems`).
    """
    classes = len(counts[0])
    there = [(count > 0).double() / (count > 0).sum() for count in counts]
    if len(counts) == 1 or chance in (0, 1):
        return there
    real = (1 / classes - chance * there[1]) / (1 - chance)
    return [real.clamp(min=0), there[1]]
