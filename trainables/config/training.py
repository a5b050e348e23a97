"""How a run trains: the fields that every method has, their defaults, and what each needs to have an effect.

They bear the names of diffusers' example scripts, or of kohya's sd-scripts where diffusers has none. Nothing in this
module imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from trainables.config.frozen import Frozen, without

LrScheduler = Literal["constant", "cosine", "linear", "cosine_with_restarts", "polynomial"]
Optimizer = Literal["adamw", "adamw_8bit", "prodigy"]
Precision = Literal["no", "fp16", "bf16"]
PriorTarget = Literal["images", "base"]
TimestepSampling = Literal["logit_normal", "uniform"]


_RESTARTS = {"lr_scheduler": ("cosine_with_restarts",)}
_POLYNOMIAL = {"lr_scheduler": ("polynomial",)}
_TEXT_ENCODER = {"train_text_encoder": (True,)}
_PRIOR = {"with_prior_preservation": (True,)}
_CLASS_IMAGES = {**_PRIOR, "prior_preservation_target": ("images",)}
_MASKED = {"masked_loss": (True,)}
_LOGIT_NORMAL = {"timestep_sampling": ("logit_normal",)}
_FILES = {"captions": ("files",)}

#: Fields that say how captions are shown, which has no effect where none is.
OF_CAPTIONS = ("shuffle_captions", "keep_tokens")
CAPTION_DROPOUT = "caption_dropout"
NO_CAPTIONS = "caption_dropout is 1, so that no caption is ever shown"

#: Fields that came later -> the value with which a run does what it did before: it is left out of digests.
AS_BEFORE: dict[str, Any] = {
    "prior_preservation_target": "images",
    "caption_dropout": 0.0,
    "shuffle_captions": False,
    "keep_tokens": 0,
    "aspect_ratio_buckets": False,
    "num_training_images": None,
}


class TrainingConfig(Frozen):
    """Fields that every method has; a method's own class adds its own (see ``trainables/methods/``).

    Defaults are those of Stable Diffusion. `EMBEDDED_DEFAULTS` names what differs for the embedded model, a thousand
    times smaller, where a run's configuration does not say otherwise, and `EMBEDDED_WITHOUT_PRIOR` what differs further
    without prior preservation, where the rates that teach most lose the class. `NEEDS` names the fields that do nothing
    by themselves: each has an effect only where another field has one of some values. `READ` names the fields that a
    method reads at all; None: every one. `UNREAD` names single fields that a method does not read.
    """

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {}
    EMBEDDED_WITHOUT_PRIOR: ClassVar[dict[str, Any]] = {}
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        "lr_num_cycles": _RESTARTS,
        "lr_power": _POLYNOMIAL,
        "lr_end_fraction": _POLYNOMIAL,
        "text_encoder_learning_rate": _TEXT_ENCODER,
        "prior_loss_weight": _PRIOR,
        "prior_preservation_target": _PRIOR,
        "num_class_images": _CLASS_IMAGES,
        "class_num_inference_steps": _CLASS_IMAGES,
        "class_guidance_scale": _CLASS_IMAGES,
        "ema_decay": {"use_ema": (True,)},
        "background_weight": _MASKED,
        "logit_mean": _LOGIT_NORMAL,
        "logit_std": _LOGIT_NORMAL,
        "caption_dropout": _FILES,
        "shuffle_captions": _FILES,
        "keep_tokens": {"shuffle_captions": (True,)},
        "aspect_ratio_buckets": _FILES,
    }
    READ: ClassVar[tuple[str, ...] | None] = None
    UNREAD: ClassVar[tuple[str, ...]] = ()
    TEACHES_A_WORD: ClassVar[bool] = False  # for one subject, so that a data set is nothing for it

    # Optimisation. The warm-up applies to every schedule, constant too: a comparison of schedules
    # must not be one of warm-ups.
    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    text_encoder_learning_rate: float | None = Field(default=None, gt=0, le=10)
    optimizer: Optimizer = "adamw"
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    adam_weight_decay: float = Field(default=1e-2, ge=0)
    adam_epsilon: float = Field(default=1e-8, gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    lr_scheduler: LrScheduler = "constant"
    lr_warmup_steps: int = Field(default=0, ge=0)
    lr_num_cycles: int = Field(default=1, ge=1)
    lr_power: float = Field(default=1.0, gt=0)
    lr_end_fraction: float = Field(default=0.0, ge=0, lt=1, description="of the rate, where polynomial ends")
    # Batches and length.
    train_batch_size: int = Field(default=4, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    max_train_steps: int = Field(default=200, ge=1)
    max_train_flops: float | None = Field(default=None, gt=0, description="FLOPs; ends training earlier")
    max_train_seconds: float | None = Field(default=None, gt=0, description="s; ends training earlier")
    budget_share: float = Field(
        default=1.0, gt=0, le=1, description="of the steps that FLOPs or seconds allow"
    )
    resolution: int | None = Field(default=None, ge=8, description="pixels; None: the model's own")
    num_training_images: int | None = Field(
        default=None, ge=1, description="of the subject's; None: all (of an embedded subject five of its ten)"
    )
    random_flip: bool = False
    captions: Literal["instance_prompt", "files"] = "instance_prompt"
    # Of captions that are files (see trainables/training/captions.py); tags are what stands between commas, and the
    # trigger of a data set is in front of them and stays there.
    caption_dropout: float = Field(default=0.0, ge=0, le=1, description="chance of the empty prompt instead")
    shuffle_captions: bool = Field(default=False, description="tags in random order")
    keep_tokens: int = Field(default=0, ge=0, description="tags in front that stay when they are shuffled")
    aspect_ratio_buckets: bool = Field(default=False, description="images keep about their ratio of sides")
    # Precision and memory. What trains is kept in float32 in every mode.
    mixed_precision: Precision = "no"
    gradient_checkpointing: bool = False
    # Objective.
    snr_gamma: float | None = Field(default=None, gt=0)
    noise_offset: float = Field(default=0.0, ge=0)
    masked_loss: bool = False
    background_weight: float = Field(default=0.1, ge=0, lt=1, description="of the loss outside the mask")
    # Of flow-matching models alone. Sigma is the share of noise: a shift above 1, and a mean above 0, train on noisier
    # images (see trainables/training/noise.py).
    shift: float | None = Field(default=None, gt=0, description="None: that of the model's own sampler")
    timestep_sampling: TimestepSampling = "logit_normal"
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
    # What holds the class: images of it that the base model draws, or, without images, what the frozen base model
    # predicts for the class prompt on the subject's own noisy latents (see trainables/training/trainer.py).
    with_prior_preservation: bool = False
    prior_preservation_target: PriorTarget = "images"
    prior_loss_weight: float = Field(default=1.0, ge=0)
    num_class_images: int = Field(default=32, ge=1)
    class_num_inference_steps: int = Field(default=20, ge=1)
    class_guidance_scale: float = Field(default=3.0, ge=0)
    # What else trains, and what is kept.
    train_text_encoder: bool = False
    use_ema: bool = False
    ema_decay: float = Field(default=0.995, gt=0, lt=1)
    checkpointing_steps: int = Field(default=50, ge=1)

    @field_validator("lr_scheduler", mode="before")
    @classmethod
    def _warmup_is_no_other_schedule(cls, value: Any) -> Any:
        # diffusers' name for what "constant" with lr_warmup_steps is here: one thing, one name in the
        # results.
        return "constant" if value == "constant_with_warmup" else value

    @model_validator(mode="after")
    def _warmup_shorter_than_training(self) -> Self:
        if self.lr_warmup_steps >= self.max_train_steps:
            raise ValueError(
                f"lr_warmup_steps ({self.lr_warmup_steps}) must be below "
                f"max_train_steps ({self.max_train_steps})"
            )
        return self

    @model_validator(mode="after")
    def _share_of_a_budget(self) -> Self:
        if self.budget_share < 1 and self.stated_steps is not None:
            raise ValueError(
                f"budget_share ({self.budget_share:g}) is a share of max_train_flops or max_train_seconds, and neither "
                "is given; state fewer max_train_steps"
            )
        return self

    @model_validator(mode="after")
    def _buckets_hold_images_of_one_shape(self) -> Self:
        if not self.aspect_ratio_buckets:
            return self
        if self.with_prior_preservation:
            raise ValueError(
                "aspect_ratio_buckets: true makes batches of images that are no squares, and with_prior_preservation: "
                "true adds squares of the class to every batch, in which all images have one size; set one of them to "
                "false"
            )
        return self

    @property
    def trains_on_class_images(self) -> bool:
        """Whether the base model draws images of the class for the run to train on."""
        return self.with_prior_preservation and self.prior_preservation_target == "images"

    @property
    def trains_on_base(self) -> bool:
        """Whether the run trains on what the frozen base model predicts for the class."""
        return self.with_prior_preservation and self.prior_preservation_target == "base"

    @property
    def stated_steps(self) -> int | None:
        """The number of optimizer steps; None where it is settled when the run begins, by another budget."""
        if self.max_train_flops is None and self.max_train_seconds is None:
            return self.max_train_steps
        return None

    @classmethod
    def defaults_beside(cls, stated: Mapping[str, Any], *, embedded: bool) -> dict[str, Any]:
        """Returns the defaults of fields that are not the class's own: for the embedded model, or beside other fields.

        Args:
            stated: Fields that somebody has set.
            embedded: The base model is the embedded one.
        """
        if not embedded:
            return {}
        switch = "with_prior_preservation"
        usual = cls.EMBEDDED_DEFAULTS.get(switch, cls.model_fields[switch].default)
        without = {} if stated.get(switch, usual) else cls.EMBEDDED_WITHOUT_PRIOR
        return {**cls.EMBEDDED_DEFAULTS, **without}

    @classmethod
    def needs_of(cls, name: str) -> dict[str, tuple[Any, ...]]:
        """Returns what a field needs to have an effect: other fields and the values of each that give it one."""
        if name in cls.UNREAD or (cls.READ is not None and name not in cls.READ):
            return {"method": ()}
        return cls.NEEDS.get(name, {})

    def without_effect(self, names: Iterable[str]) -> list[str]:
        """Returns a message for each of some fields that does nothing beside the values of the others."""
        problems = []
        for name in names:
            for other, values in self.needs_of(name).items():
                if other == "method":
                    problems.append(f"{name} has no effect: this method does not read it")
                elif getattr(self, other) not in values:
                    wanted = " or ".join(json.dumps(value).strip('"') for value in values)
                    problems.append(f"{name} has no effect without {other}: {wanted}")
            if name in OF_CAPTIONS and self.caption_dropout == 1:
                problems.append(f"{name} has no effect: {NO_CAPTIONS}")
        return problems

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """Returns the fields by what they come to: configurations for which this is equal train the same.

        Args:
            varied: Fields that have no one value (a search sets them); they are left out, and what depends on
                them is kept.
        """
        content = self.model_dump(exclude=set(varied))
        for name in list(content):
            for other, values in self.needs_of(name).items():
                if other not in varied and getattr(self, other, None) not in values:
                    content.pop(name, None)
        content = without(content, *(name for name, value in AS_BEFORE.items() if content.get(name) == value))
        schedule = content.get("lr_scheduler")
        if schedule == "polynomial" and (content.get("lr_power"), content.get("lr_end_fraction")) == (
            1.0,
            0.0,
        ):
            content = without(content, "lr_power", "lr_end_fraction") | {"lr_scheduler": "linear"}
        if schedule == "cosine_with_restarts" and content.get("lr_num_cycles") == 1:
            content = without(content, "lr_num_cycles") | {"lr_scheduler": "cosine"}
        content.pop(
            "checkpointing_steps", None
        )  # changes what is lost when a run breaks off, and nothing else
        rate = "text_encoder_learning_rate"
        if rate in content and content[rate] is None and "learning_rate" not in varied:
            content[rate] = self.learning_rate
        return content

    def for_subject(self, instance_prompt: str, class_prompt: str) -> Self:
        """Returns the configuration for a subject: what a method leaves to the subject's prompts is settled.

        Raises:
            UserError: The method cannot be taught by these prompts.
        """
        return self

    def reword(self, text: str) -> str:
        """Returns a prompt or caption of the subject in the words by which the method teaches it, see `for_subject`.

        Raises:
            UserError: The text does not name the subject.
        """
        return text

    def training_prompts(self, caption: str) -> tuple[str, ...]:
        """Returns the prompts for an image with this caption, of which each step that shows the image draws one."""
        return (caption,)

    @property
    def subject_notes(self) -> tuple[str, ...]:
        """What was taken for granted of a subject's prompts, one note each; after `for_subject`."""
        return ()

    @property
    def added_words(self) -> tuple[str, ...]:
        """Words of the prompts that are none of the base model's: one token each."""
        return ()
