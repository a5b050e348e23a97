"""Labelled images as classifiers take them, and what is wrong with those of a training."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from trainables.classifiers.scores import missing_classes
from trainables.config.classifiers import ClassifierConfig
from trainables.errors import UserError
from trainables.util.text import some


class LabelledImages(Protocol):
    """Square images of one size with the class of each; they may be read when they are taken."""

    @property
    def labels(self) -> torch.Tensor:
        """The class of each image, from 0, [images], int64."""

    @property
    def size(self) -> int:
        """The side in pixels."""

    @property
    def digest(self) -> str:
        """Names the content: pixels and labels."""

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        """Returns images in [0, 1], [indices, 3, size, size], float32."""


class TensorImages:
    """Labelled images in memory.

    Args:
        images: [images, 3, side, side]: uint8, which takes a quarter of the memory, or floats in [0, 1].
        labels: The class of each, from 0.

    Raises:
        UserError: With a message for each thing that is wrong.
    """

    def __init__(self, images: torch.Tensor, labels: Sequence[int] | torch.Tensor) -> None:
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self._images = images
        problems = []
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3]:
            problems.append(f"images have shape (images, 3, side, side), got {shape}")
        if self.labels.shape != shape[:1]:
            problems.append(f"there are {shape[0] if shape else 0} images and {self.labels.numel()} labels")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            problems.append(f"images are uint8, or floats in [0, 1]; got {images.dtype}")
        elif images.is_floating_point() and images.numel():
            low, high = float(images.min()), float(images.max())
            if not (low >= 0 and high <= 1):
                problems.append(f"images of floats are in [0, 1], got values from {low:g} to {high:g}")
        if problems:
            raise UserError(*problems)

    @classmethod
    def from_pictures(cls, pictures: Sequence[Image.Image], labels: Sequence[int]) -> TensorImages:
        """Takes Pillow's images, which are of one size."""
        sizes = sorted({picture.size for picture in pictures})
        if len(sizes) > 1:
            raise UserError(
                f"images of one training have one size, got {some([f'{w}x{h}' for w, h in sizes])}"
            )
        arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
        stacked = np.stack(arrays) if arrays else np.zeros((0, 1, 1, 3), np.uint8)
        return cls(torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(), labels)

    @property
    def size(self) -> int:
        return int(self._images.shape[-1])

    @cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(f"{tuple(self._images.shape)} {self._images.dtype}".encode())
        digest.update(self._images.contiguous().numpy().data)
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()

    def take(self, indices: torch.Tensor) -> torch.Tensor:
        taken = self._images[indices]
        return taken.float() / 255 if taken.dtype == torch.uint8 else taken.float()


@dataclass(frozen=True)
class TrainingData:
    """What one classifier is trained on and chosen by.

    Attributes:
        classes: Names of the classes, in the order of the labels.
        train: Real images.
        validation: Real images, none of which is trained on: they choose the step whose weights are kept. With
            generated ones among them a classifier would be chosen for telling these apart.
        generated: Images of a generator that saw `train` alone.
    """

    classes: tuple[str, ...]
    train: LabelledImages
    validation: LabelledImages
    generated: LabelledImages | None = None

    def counts(self, images: LabelledImages) -> list[int]:
        """Returns how many images there are of each class."""
        return torch.bincount(images.labels, minlength=len(self.classes)).tolist()

    @property
    def digest(self) -> str:
        """Names all content."""
        parts = [*self.classes, self.train.digest, self.validation.digest]
        parts += [self.generated.digest] if self.generated is not None else []
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def data_problems(config: ClassifierConfig, data: TrainingData) -> list[str]:
    """Returns a message for each thing that is wrong with the data of a training."""
    sources = {"training": data.train, "validation": data.validation, "generated": data.generated}
    there = {name: images for name, images in sources.items() if images is not None}
    problems = [f"there are no {name} images" for name, images in there.items() if not len(images.labels)]
    if len(data.classes) < 2 or len(set(data.classes)) < len(data.classes):
        problems.append(f"a classifier needs at least 2 classes of different names, got {list(data.classes)}")
    problems += [message for name, images in there.items() for message in _label_problems(name, images, data)]
    sizes = {images.size for images in there.values()}
    if len(sizes) > 1:
        said = ", ".join(f"{name} {images.size}" for name, images in there.items())
        problems.append(f"images of one training have one size in pixels: {said}; resize them to one")
    if problems:
        return problems
    return _missing(config, data) + _share_problems(config, data)


def _label_problems(name: str, images: LabelledImages, data: TrainingData) -> list[str]:
    last = len(data.classes) - 1
    wrong = sorted({label for label in images.labels.tolist() if not 0 <= label <= last})
    return [f"labels of {name} images are 0 to {last}, got {some(list(map(str, wrong)))}"] if wrong else []


def _missing(config: ClassifierConfig, data: TrainingData) -> list[str]:
    wanted = {"validation": data.validation}
    if config.generated_probability < 1:
        wanted["training"] = data.train
    elif data.generated is not None:
        wanted["generated"] = data.generated
    remedies = {
        "training": "which cannot be learned; add some, or leave the class out",
        "validation": "so that its recall is not known; put images of every class there",
        "generated": "and with generated_probability: 1 nothing else is drawn; generate some",
    }
    found = {name: missing_classes(images.labels.numpy(), data.classes) for name, images in wanted.items()}
    return [
        f"no {name} image is of {some(names)}, {remedies[name]}" for name, names in found.items() if names
    ]


def _share_problems(config: ClassifierConfig, data: TrainingData) -> list[str]:
    chance, generated = config.generated_probability, data.generated
    if generated is None:
        return [f"generated_probability is {chance:g}, and there are no generated images"] if chance else []
    if not chance:
        return ["there are generated images, and generated_probability is 0: they would never be drawn"]
    of_classes = sum(count > 0 for count in data.counts(generated))
    most = of_classes / len(data.classes)
    if config.sampling == "balanced" and chance < 1 and chance > most + 1e-12:
        return [
            f"sampling: balanced draws every class alike, but only {of_classes} of {len(data.classes)} classes have "
            f"generated images, which are {chance:g} of all draws; take a generated_probability of {most:.3g} at most, "
            "or generate images of the others"
        ]
    return []
