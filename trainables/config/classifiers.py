"""How one classifier is trained to say what generated images are worth: network, steps, loss, what is drawn.

Nothing in this module imports torch.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.config.frozen import Frozen
from trainables.config.messages import did_you_mean
from trainables.util.text import is_blank

#: Networks that come with the project or with transformers; any other is named ``timm:NAME``.
NETWORKS = ("resnet18", "resnet50", "vit", "convnext", "vgg19", "inception_v3", "small_cnn")
TIMM = "timm:"

_TIMM_NAME = re.compile(re.escape(TIMM) + r"[a-z0-9_]+(\.[a-z0-9_]+)?")

ClassifierLoss = Literal["cross_entropy", "weighted_cross_entropy", "focal"]
ClassifierOptimizer = Literal["adam", "adamw", "sgd"]

INVERSE_FREQUENCY = "inverse_frequency"


def network_problem(name: str) -> str | None:
    """Returns what is wrong with the name of a network; None if nothing is."""
    if name in NETWORKS or _TIMM_NAME.fullmatch(name):
        return None
    return (
        f"{name!r} is no classifier; {did_you_mean(name.lower(), NETWORKS)}Known are {', '.join(NETWORKS)}, and "
        f"{TIMM}NAME for one of timm's"
    )


class AugmentationConfig(Frozen):
    """Classical augmentation of the images that are trained on, real and generated alike.

    Attributes:
        random_flip: Half of the images are mirrored, left to right; not for what is read, such as digits.
        crop_padding: Images are reflected at their edges by this share of the side and cropped back at random: 4 of 32
            pixels, as He et al. 2016 (arXiv 1512.03385, section 4.2) pad; 0: no crop.
        colour_jitter: Brightness, contrast and saturation, in this order, are each multiplied by a factor from
            [1 - x, 1 + x]; 0: none.
    """

    random_flip: bool = True
    crop_padding: float = Field(default=0.125, ge=0, lt=1)
    colour_jitter: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.random_flip or self.crop_padding or self.colour_jitter):
            raise ValueError(
                "augmentation neither flips, crops nor changes colours; give one of random_flip, crop_padding and "
                "colour_jitter, or leave augmentation out"
            )
        return self


class ClassifierConfig(Frozen):
    """One training of one classifier; its data and seed are given apart.

    Attributes:
        network: One of `NETWORKS`, or ``timm:NAME`` where timm is installed.
        weights: To start from: a folder in transformers' layout or a hub id, for `vgg19`, `inception_v3` and timm's a
            folder with ``model.safetensors`` (`networks.build_classifier`); None: random ones.
        max_train_steps: Optimizer steps. Never epochs: with more images these would be more steps, so that an arm with
            generated images would also be trained longer.
        generated_probability: Chance of each draw to be a generated image: 0.5 in DA-Fusion (arXiv 2302.07944), 1 for
            classification accuracy scores, CAS (Ravuri and Vinyals 2019, arXiv 1905.10887).
        sampling: With replacement. ``natural``: every image of a source is equally likely; ``balanced``: every class
            is, among all draws (`sampling.Draws`).
        loss: `weighted_cross_entropy` weighs classes by one over their expected share of the draws
            (`losses.class_weights`), so that it weighs nothing where draws are balanced.
        focal_gamma: Of the focal loss (Lin et al. 2017, arXiv 1708.02002).
        focal_alpha: Its weights of the classes: one number each, ``inverse_frequency`` for the weights of
            `weighted_cross_entropy`, or None for none.
        optimizer: `weight_decay` is an L2 term in the gradient of ``adam`` and ``sgd``, as in torch, and decoupled in
            ``adamw`` (Loshchilov and Hutter 2019, arXiv 1711.05101).
        momentum: Of ``sgd``.
        lr_scheduler: ``cosine`` falls from `learning_rate` at the first step towards 0 after the last.
        validation_steps: Optimizer steps from one validation to the next; the last step is always validated.
        checkpointing_steps: Optimizer steps from one checkpoint to the next, which changes no result.
    """

    NEEDS: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {
        "focal_gamma": ("loss", ("focal",)),
        "focal_alpha": ("loss", ("focal",)),
        "momentum": ("optimizer", ("sgd",)),
    }

    network: str
    weights: str | None = None
    max_train_steps: int = Field(default=500, ge=1)
    train_batch_size: int = Field(default=32, ge=2)
    generated_probability: float = Field(default=0.0, ge=0, le=1)
    sampling: Literal["natural", "balanced"] = "natural"
    augmentation: AugmentationConfig | None = None
    loss: ClassifierLoss = "cross_entropy"
    focal_gamma: float = Field(default=2.0, ge=0)
    focal_alpha: Literal["inverse_frequency"] | tuple[float, ...] | None = None
    optimizer: ClassifierOptimizer = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=1e-4, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    validation_steps: int = Field(default=50, ge=1)
    checkpointing_steps: int = Field(default=100, ge=1)

    @property
    def stated_steps(self) -> int:
        """The number of optimizer steps, as of `TrainingConfig`."""
        return self.max_train_steps

    @field_validator("network")
    @classmethod
    def _network_is_known(cls, value: str) -> str:
        if problem := network_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("weights")
    @classmethod
    def _weights_are_named(cls, value: str | None) -> str | None:
        if value is not None and is_blank(value):
            raise ValueError(f"{value!r} is blank; name a folder or a hub id, or leave it out")
        return value

    @field_validator("focal_alpha")
    @classmethod
    def _alpha_is_positive(cls, value: Any) -> Any:
        if isinstance(value, tuple) and (len(value) < 2 or min(value) <= 0):
            raise ValueError(
                f"focal_alpha takes one number above 0 for each class, or {INVERSE_FREQUENCY}; got {list(value)}"
            )
        return value

    @model_validator(mode="after")
    def _every_field_has_an_effect(self) -> Self:
        problems = [
            f"{name} has no effect without {other}: {' or '.join(values)}"
            for name, (other, values) in self.NEEDS.items()
            if name in self.model_fields_set
            and getattr(self, name) != type(self).model_fields[name].default
            and getattr(self, other) not in values
        ]
        weighs = "loss: weighted_cross_entropy" if self.loss == "weighted_cross_entropy" else None
        weighs = f"focal_alpha: {INVERSE_FREQUENCY}" if self.focal_alpha == INVERSE_FREQUENCY else weighs
        if weighs and self.sampling == "balanced":
            problems.append(
                f"{weighs} has no effect with sampling: balanced, under which all classes have equal shares of the "
                "draws; leave one of them out"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
