"""What one run is: a frozen, validated description, from which everything about its training follows.

Training fields bear the names of diffusers' example scripts, adapter fields those of PEFT. Defaults stand
here and nowhere else. Nothing in this module imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from trainables.util.text import is_blank

EMBEDDED = "embedded"
ALPHA = "alpha"  # of `SubjectConfig.masks`
SUBJECT_FOLDERS = ("images", "references", "masks")
REVISION = "revision"  # of a model of the hub: what stands for its files

LrScheduler = Literal["constant", "cosine", "linear", "cosine_with_restarts", "polynomial"]
Optimizer = Literal["adamw", "adamw_8bit", "prodigy"]
Precision = Literal["no", "fp16", "bf16"]
PriorTarget = Literal["images", "base"]
TimestepSampling = Literal["logit_normal", "uniform"]


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Frozen):
    """The base model: ``embedded``, a folder in diffusers' layout, a hub id, or one ``.safetensors`` file.

    Attributes:
        config: Of a single file: folder or hub id with the configurations and tokenizers of that kind of model; None
            takes those that its publisher put on the hub, if they are those of every file of that kind.
    """

    path: str = EMBEDDED
    revision: str | None = None
    variant: str | None = None
    config: str | None = None


class DataSetConfig(Frozen):
    """A folder of captioned images, which takes a subject's place.

    Attributes:
        path: In Hugging Face's ``imagefolder`` layout: images with ``metadata.jsonl`` or ``metadata.csv`` (columns
            ``file_name``, `caption_column`), or with a text file (.txt, .caption) beside each.
        references: The same, of images that are never trained on. Without it a share of the images is held out.
        holdout: Share of the images that is held out, whole groups of them, chosen by a hash of the group's name, or of
            the file's where there is no `group_column`.
        trigger: Words put before every caption, e.g. "twem style". Captions without them then say what the model has
            kept of what it could do before.
        caption_column: Of the metadata file.
        group_column: Images that share its value are all trained on, or all held out.
        character_column: Names whom an image shows; the results then are told by character.
    """

    path: str
    references: str | None = None
    holdout: float = Field(default=0.2, gt=0, lt=1)
    trigger: str | None = None
    caption_column: str = "text"
    group_column: str | None = None
    character_column: str | None = None


class SubjectConfig(Frozen):
    """What is taught. `images` is None for a subject of the embedded world, whose name then is enough.

    Attributes:
        images: Folder of photographs to train on.
        references: Folder of held-out photographs. Without it, `holdout` images of `images` are held out.
        holdout: How many of `images` are held out as references (chosen by a hash of the file names,
            in Unicode's composed form).
        masks: Where the training images show the subject, for `TrainingConfig.masked_loss`: a folder with a grey image
            of each one's name and size (white: subject), or ``alpha``, the images' own transparency.
        instance_prompt: Prompt with the rare token, e.g. "a sks dog".
        class_prompt: The same without it, e.g. "a dog".
        dataset: Captioned images instead of a subject: then `images`, `references`, `masks` and both prompts stay
            unset. Data sets that come with the project need no more than their name, as embedded subjects do.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    images: str | None = None
    references: str | None = None
    masks: str | None = None
    holdout: int = Field(default=2, ge=1)
    instance_prompt: str | None = None
    class_prompt: str | None = None
    dataset: DataSetConfig | None = None

    @model_serializer(mode="wrap")
    def _as_before_data_sets(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out a data set that is not there, so that records and digests of subjects stay what they were."""
        content: dict[str, Any] = dump(self)
        return content if content.get("dataset") is not None else _without(content, "dataset")

    @field_validator("instance_prompt", "class_prompt")
    @classmethod
    def _prompt_is_not_blank(cls, value: str | None) -> str | None:
        if value is not None and is_blank(value):
            raise ValueError(f'{value!r} is blank; write what the images show, for example "a sks dog"')
        return value

    @model_validator(mode="after")
    def _photos_need_prompts(self) -> Self:
        if self.images is not None and not (self.instance_prompt and self.class_prompt):
            raise ValueError(
                f"subject {self.name!r} is a folder of photographs and needs instance_prompt and "
                'class_prompt, for example "a sks dog" and "a dog"'
            )
        if self.images is None and self.masks is not None:
            raise ValueError(
                f"subject {self.name!r}: masks need images; leave it out (embedded subjects bring their own masks)"
            )
        return self

    @property
    def folders(self) -> dict[str, str]:
        """The folders that it names, by field."""
        named = {field: getattr(self, field) for field in SUBJECT_FOLDERS}
        return {
            field: folder for field, folder in named.items() if folder and (field, folder) != ("masks", ALPHA)
        }


_RESTARTS = {"lr_scheduler": ("cosine_with_restarts",)}
_POLYNOMIAL = {"lr_scheduler": ("polynomial",)}
_TEXT_ENCODER = {"train_text_encoder": (True,)}
_PRIOR = {"with_prior_preservation": (True,)}
_CLASS_IMAGES = {**_PRIOR, "prior_preservation_target": ("images",)}
_MASKED = {"masked_loss": (True,)}
_LOGIT_NORMAL = {"timestep_sampling": ("logit_normal",)}


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
    }
    READ: ClassVar[tuple[str, ...] | None] = None
    UNREAD: ClassVar[tuple[str, ...]] = ()

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
    random_flip: bool = False
    captions: Literal["instance_prompt", "files"] = "instance_prompt"
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
        if content.get("prior_preservation_target") == "images":  # all that there was before the field
            content = _without(content, "prior_preservation_target")
        schedule = content.get("lr_scheduler")
        if schedule == "polynomial" and (content.get("lr_power"), content.get("lr_end_fraction")) == (
            1.0,
            0.0,
        ):
            content = _without(content, "lr_power", "lr_end_fraction") | {"lr_scheduler": "linear"}
        if schedule == "cosine_with_restarts" and content.get("lr_num_cycles") == 1:
            content = _without(content, "lr_num_cycles") | {"lr_scheduler": "cosine"}
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


def _without(content: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in names}


#: Class images of an evaluation on the way, at least: class kept is a factor of what runs are compared by.
FEWEST_CLASS_IMAGES = 8


# Of the one batch that is timed for a figure of latency, and how often: of the times the smallest is taken, since
# whatever else the machine does can only add.
LATENCY_IMAGES, LATENCY_REPEATS = 4, 2


# Of the loss on held-out images: images at most, of more so many that lie evenly; and noise levels of each, which
# cover the process evenly, those of all images together.
HELD_OUT_IMAGES, HELD_OUT_LEVELS = 8, 4


def latency_image_steps(num_inference_steps: int) -> int:
    """Returns the solver steps of all images together that one figure of latency takes."""
    return LATENCY_IMAGES * LATENCY_REPEATS * (1 + num_inference_steps)


def images_on_the_way(images: int, class_images: int, between: int | None) -> tuple[int, int]:
    """Returns how many images of the subject, and of the class, an evaluation on the way draws.

    Args:
        images: At the end; likewise `class_images`.
        between: `EvaluationConfig.images_between`; of the class as large a share is drawn, but `FEWEST_CLASS_IMAGES` at
            least, or all where the end has fewer.
    """
    if between is None or between >= images:
        return images, class_images
    return between, min(class_images, max(FEWEST_CLASS_IMAGES, round(class_images * between / images)))


class EvaluationConfig(Frozen):
    """How a run is judged (see ``trainables/evaluation``): fixed prompts, fixed noise, held-out references.

    Attributes:
        prompts: Templates with ``{subject}``; None takes the model's own list (embedded) or the built-in one.
        num_prompts: Take only the first so many templates.
        images_per_prompt: Images of each prompt, each from its own fixed noise.
        at: Fractions of `max_train_steps`, beside the end (1.0 is always evaluated), at which to evaluate.
        image_encoder: For subject fidelity (DINO's place): ``embedded``, a folder or a hub id.
        clip: For prompt fidelity: ``embedded``, a folder or a hub id.
        num_class_images: Images of class prompts: what the class has kept, its drift, and KID from 50 on.
        anchor_images: Of the base model, at least, from which the scales' zero and one are taken; made once a class.
            With 10, their standard errors were up to .15 in scaled units.
        prompt_set: Which of the built-in lists is taken where `prompts` is None; the two share no prompt.
        images_between: Of the subject's prompts, drawn at each of `at`; None: all of them, as at the end.
    """

    prompts: tuple[str, ...] | None = None
    prompt_set: Literal["confirm", "search"] = "confirm"
    num_prompts: int | None = Field(default=None, ge=1)
    images_per_prompt: int = Field(default=4, ge=1)
    images_between: int | None = Field(default=None, ge=1)
    num_inference_steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=3.0, ge=0)
    batch_size: int = Field(default=16, ge=1)
    at: tuple[float, ...] = ()
    seed: int = Field(default=1234, ge=0)
    image_encoder: str = EMBEDDED
    clip: str = EMBEDDED
    num_class_images: int = Field(default=16, ge=2)
    anchor_images: int = Field(default=64, ge=2)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for template in self.prompts or ():
            if "{subject}" not in template:
                raise ValueError(f"evaluation prompt {template!r} lacks the placeholder {{subject}}")
        for fraction in self.at:
            if not 0 < fraction <= 1:
                raise ValueError(
                    f"evaluation.at takes fractions of max_train_steps in (0, 1], got {fraction}"
                )
        return self
