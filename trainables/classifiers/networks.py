"""The classifiers by name: which network each is at an image size, and where its weights come from.

| name | network | parameters at 1,000 classes, as published |
|---|---|---|
| resnet18, resnet50 | He et al. 2016 (arXiv 1512.03385), as in transformers | 11,689,512; 25,557,032 |
| vit | ViT-B/16, Dosovitskiy et al. 2021 (arXiv 2010.11929) | 86,567,656 |
| convnext | ConvNeXt-T, Liu et al. 2022 (arXiv 2201.03545) | 28,589,128 |
| vgg19 | Simonyan and Zisserman 2015 (arXiv 1409.1556) | 143,667,240 |
| inception_v3 | Szegedy et al. 2016 (arXiv 1512.00567), no auxiliary head | 23,834,568 |
| small_cnn | four convolutions (`small_cnn.py`) | - |

Below `SMALL_IMAGES` pixels these were not meant to be used, and with random weights some have another form there:
``vit`` the sizes of DeiT-Ti (Touvron et al. 2021, arXiv 2012.12877) and patches of 8 pixels, of which 64 pixels have as
many a side as DeiT's patches of 16 have at 128; ``convnext`` the sizes of ConvNeXt-atto (Woo et al. 2023, arXiv
2301.00808) and a stem of 2 pixels, so that 64 pixels end as a map of 4x4 and not of 2x2, which its kernels of 7x7 would
mostly overhang; ``vgg19`` a head of 512 on a 2x2 map, as large as that of 64 pixels is; ``inception_v3`` a first
convolution without stride. ResNets are the same at every size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.classifiers.inception import InceptionV3
from trainables.classifiers.small_cnn import SmallCnn
from trainables.classifiers.vgg import Vgg19
from trainables.classifiers.weights import (
    configuration,
    load_plain,
    load_transformers,
    mean_and_std,
    weights_problem,
)
from trainables.config.classifiers import TIMM, network_problem
from trainables.errors import UserError
from trainables.randomness import global_seed

SMALL_IMAGES = 128  # pixels: images of smaller sides are small

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of red, green, blue
HALVES = ((0.5,) * 3, (0.5,) * 3)  # with which Inception-v3 was trained

#: Smallest sides in pixels, at which the last features still have one place.
SMALLEST = {"small_cnn": 16, "inception_v3": 39, "vit": 16}
SMALLEST_OTHERS = 32

# Of transformers' configurations: class, sizes, and what is different for small images. What is not said is as
# published by transformers' own defaults.
_RESNET18 = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"}
_DEIT_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768, "patch_size": 8}
_CONVNEXT_ATTO = {"depths": [2, 2, 6, 2], "hidden_sizes": [40, 80, 160, 320], "patch_size": 2}
_OF_TRANSFORMERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "resnet18": ("ResNet", _RESNET18, _RESNET18),
    "resnet50": ("ResNet", {}, {}),
    "vit": ("ViT", {}, _DEIT_TINY),
    "convnext": ("ConvNext", {}, _CONVNEXT_ATTO),
}
_SMALL_FORMS = {
    "vit": "the sizes of DeiT-Ti, in patches of 8 pixels",
    "convnext": "the sizes of ConvNeXt-atto, with a stem of 2 pixels",
    "vgg19": "a head of 512 on a map of 2x2",
    "inception_v3": "a first convolution without stride",
}


class Classifier(nn.Module):
    """A network with what it needs before: images in [0, 1] are normalised.

    Args:
        network: Takes normalised images, [images, 3, side, side], and gives logits, or an output that has them.
        mean: Of red, green and blue, which is taken off; what is left is divided by `std`.
        options: Further arguments of the network's call.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, network: nn.Module, mean: Any, std: Any, options: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self._options = options or {}
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns logits, [images, classes], of images in [0, 1], [images, 3, side, side]."""
        output = self.network((images - self.mean) / self.std, **self._options)
        return output if isinstance(output, torch.Tensor) else output.logits


@dataclass(frozen=True)
class BuiltClassifier:
    """A classifier, and what is to be known of it.

    Attributes:
        notes: Sentences for a report: another form for small images, a new head, whose pixel values are normalised how.
    """

    classifier: Classifier
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of all weights."""
        return sum(parameter.numel() for parameter in self.classifier.parameters())


def build_classifier(
    name: str, classes: int, image_size: int, weights: str | None = None, *, generator: torch.Generator
) -> BuiltClassifier:
    """Builds a classifier of images of one size; the same generator gives the same weights, bit by bit.

    Args:
        name: One of `config.classifiers.NETWORKS`, or ``timm:NAME``.
        classes: Number of them, at least 2.
        image_size: Side of the square images in pixels.
        weights: A folder in transformers' layout, or a hub id; for `vgg19` and `inception_v3` a folder with
            ``model.safetensors`` under torchvision's names, for timm's under timm's. Where they are for another number
            of classes the head is new.
        generator: Of all random weights; moved on by one draw.

    Raises:
        UserError: With a message for each thing that is wrong.
    """
    problems = _problems(name, classes, image_size, weights)
    if problems:
        raise UserError(*problems)
    with global_seed(generator):
        if name.startswith(TIMM):
            return _timm(name, classes, image_size, weights)
        if name in _OF_TRANSFORMERS:
            return _transformers(name, classes, image_size, weights)
        return _plain(name, classes, image_size, weights)


def check_network(name: str, classes: int, image_size: int, weights: str | None = None) -> list[str]:
    """Returns what is wrong with a classifier before anything trains, arguments as of `build_classifier`.

    Of weights the small files are read; one that comes from the hub is fetched. A network of timm is built, since there
    is no other way to know what it takes.
    """
    problems = _problems(name, classes, image_size, weights)
    if problems:
        return problems
    try:
        if name.startswith(TIMM):
            with global_seed(torch.Generator().manual_seed(0)):
                _timm(name, classes, image_size, None)
        elif weights is not None and name in _OF_TRANSFORMERS:
            configuration(name, weights, image_size)
    except UserError as error:
        return list(error.problems)
    return []


def _problems(name: str, classes: int, image_size: int, weights: str | None) -> list[str]:
    """What can be told by names and numbers alone."""
    unknown = network_problem(name)
    problems = [unknown] if unknown else _size_problems(name, image_size, weights)
    if classes < 2:
        problems.append(f"a classifier needs at least 2 classes, got {classes}")
    if weights is not None and not unknown:
        problems += weights_problem(weights, hub=name in _OF_TRANSFORMERS)
    return problems


def _size_problems(name: str, image_size: int, weights: str | None) -> list[str]:
    if name.startswith(TIMM):
        return []
    smallest = SMALLEST.get(name, SMALLEST_OTHERS)
    if image_size < smallest:
        return [
            f"{name} needs images of {smallest} pixels a side and more, got {image_size}: make them larger, or take "
            "small_cnn, which takes 16"
        ]
    patch = 8 if image_size < SMALL_IMAGES else 16
    if name == "vit" and weights is None and image_size % patch:
        return [
            f"vit cuts images into patches of {patch} pixels, and {image_size} is no multiple of it: make them "
            f"{image_size // patch * patch} or {(image_size // patch + 1) * patch} pixels a side"
        ]
    return []


def _small_form(name: str, image_size: int) -> tuple[str, ...]:
    if name not in _SMALL_FORMS or image_size >= SMALL_IMAGES:
        return ()
    return (f"{name} has, for images of {image_size} pixels, {_SMALL_FORMS[name]}",)


def _transformers(name: str, classes: int, image_size: int, weights: str | None) -> BuiltClassifier:
    import transformers

    kind, large, small = _OF_TRANSFORMERS[name]
    model_class = getattr(transformers, f"{kind}ForImageClassification")
    # Positions of another grid than that of the weights: Dosovitskiy et al. 2021, section 3.2.
    options = {"interpolate_pos_encoding": True} if kind == "ViT" else {}
    if weights is not None:
        network, notes = load_transformers(name, model_class, weights, classes, image_size)
        (mean, std), said = mean_and_std(weights, IMAGENET)
        return BuiltClassifier(Classifier(network, mean, std, options), (*notes, *said))
    sizes = small if image_size < SMALL_IMAGES else large
    if kind == "ViT":
        sizes = {**sizes, "image_size": image_size}
    config = getattr(transformers, f"{kind}Config")(**sizes, num_labels=classes)
    return BuiltClassifier(
        Classifier(model_class(config), *IMAGENET, options=options), _small_form(name, image_size)
    )


def _plain(name: str, classes: int, image_size: int, weights: str | None) -> BuiltClassifier:
    small = image_size < SMALL_IMAGES
    builders: dict[str, tuple[Callable[[], nn.Module], str]] = {
        "vgg19": (lambda: Vgg19(classes, 2, 512) if small else Vgg19(classes), "classifier."),
        "inception_v3": (lambda: InceptionV3(classes, 1 if small else 2), "fc."),
        "small_cnn": (lambda: SmallCnn(classes), "classifier."),
    }
    build, head = builders[name]
    network, notes = build(), _small_form(name, image_size)
    usual = HALVES if name == "inception_v3" else IMAGENET
    if weights is None:
        return BuiltClassifier(Classifier(network, *usual), notes)
    new = load_plain(name, network, weights, (head,))
    (mean, std), said = mean_and_std(weights, usual)
    return BuiltClassifier(Classifier(network, mean, std), (*notes, *new, *said))


def _timm(name: str, classes: int, image_size: int, weights: str | None) -> BuiltClassifier:
    try:
        timm: Any = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(
            f"{name} needs the package timm, which cannot be imported here ({error}); install it (pip install timm, "
            "which needs torchvision too), or take a network that comes with the project"
        ) from error
    known = name.removeprefix(TIMM)
    if not timm.is_model(known.split(".")[0]):
        near = timm.list_models(f"*{known.split('.')[0][:6]}*")[:5]
        said = f"; it has {', '.join(near)}" if near else ""
        raise UserError(f"timm {timm.__version__} has no network {known!r}{said}")
    facts = timm.get_pretrained_cfg(known)
    options = {"img_size": image_size} if facts is not None and facts.fixed_input_size else {}
    try:
        network = timm.create_model(known, pretrained=False, num_classes=classes, **options)
        network.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{name} takes no images of {image_size} pixels ({first}); take another size"
        ) from error
    heads = network.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    usual = (network.pretrained_cfg["mean"], network.pretrained_cfg["std"]) if facts is not None else IMAGENET
    notes = () if weights is None else load_plain(name, network, weights, prefixes)
    return BuiltClassifier(Classifier(network.train(), *usual), notes)
