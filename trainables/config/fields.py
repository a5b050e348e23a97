"""What one run is: a frozen, validated description, from which everything about its training follows.

How it trains stands in ``training.py``. Defaults stand in the configuration's classes and nowhere else. Nothing in this
module imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from trainables.config.frozen import Frozen, without
from trainables.config.messages import unknown_placeholders
from trainables.config.training import LrScheduler as LrScheduler
from trainables.config.training import TrainingConfig as TrainingConfig
from trainables.embedded.data_sets import DATA_SETS
from trainables.util.text import is_blank

EMBEDDED = "embedded"
#: Of prompts for data sets that name characters: one of them, and another one (`held_out_captions`).
CHARACTER_PLACEHOLDERS = ("{character}", "{other_character}")
ALPHA = "alpha"  # of `SubjectConfig.masks` and `DataSetConfig.masks`
SUBJECT_FOLDERS = ("images", "references", "masks")
DATA_SET_FOLDERS = ("path", "references", "masks")
#: Fields of `SubjectConfig.folders` whose images say where others show what is taught, and show nothing themselves.
MASKS = ("masks", "dataset.masks")
REVISION = "revision"  # of a model of the hub: what stands for its files


class ModelConfig(Frozen):
    """The base model: ``embedded``, a folder in diffusers' layout, a hub id, or one ``.safetensors`` file.

    Attributes:
        config: Of a single file: folder or hub id with the configurations and tokenizers of that kind of model; None
            takes those that its publisher put on the hub, if they are those of every file of that kind.
        quantization: In how many bits weights of linear layers are kept that never train, for models that do not fit on
            the device else (``trainables/models/quantization.py``); None: as they are. For all arms alike.
    """

    path: str = EMBEDDED
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    quantization: Literal["8bit", "4bit"] | None = None

    @model_serializer(mode="wrap")
    def _as_before_quantization(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out a quantisation that is not there, so that records and digests stay what they were."""
        content: dict[str, Any] = dump(self)
        return content if content.get("quantization") is not None else without(content, "quantization")

    @property
    def whole(self) -> ModelConfig:
        """The same model with its weights as they are."""
        return self.model_copy(update={"quantization": None})


class DataSetConfig(Frozen):
    """A folder of captioned images, which takes a subject's place.

    Attributes:
        path: In Hugging Face's ``imagefolder`` layout: images with ``metadata.jsonl`` or ``metadata.csv`` (columns
            ``file_name``, `caption_column`), or with a text file (.txt, .caption) beside each.
        references: The same, of images that are never trained on. Without it a share of the images is held out.
        holdout: Share of the images that is held out, whole groups of them, chosen by a hash of the group's name, or of
            the file's where there is no `group_column`; of every character its part.
        trigger: Words put before every caption that does not begin with them, e.g. "twem style". Captions without them
            then say what the model has kept of what it could do before.
        caption_column: Of the metadata file.
        group_column: Images that share its value are all trained on, or all held out.
        character_column: Names whom an image shows; the results then are told by character.
        masks: As `SubjectConfig.masks`, for the images that are trained on: of a folder's sub-folders those with the
            names that `path` has.
    """

    path: str
    references: str | None = None
    holdout: float = Field(default=0.2, gt=0, lt=1)
    trigger: str | None = None
    caption_column: str = "text"
    group_column: str | None = None
    character_column: str | None = None
    masks: str | None = None

    @model_serializer(mode="wrap")
    def _as_before_masks(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out masks that are not there, so that records and digests stay what they were."""
        content: dict[str, Any] = dump(self)
        return content if content.get("masks") is not None else without(content, "masks")

    @field_validator(
        "path", "references", "trigger", "caption_column", "group_column", "character_column", "masks"
    )
    @classmethod
    def _is_not_blank(cls, value: str | None) -> str | None:
        if value is not None and is_blank(value):
            raise ValueError(f"{value!r} is blank; write something, or leave it out")
        return value

    @field_validator("trigger")
    @classmethod
    def _trigger_is_words(cls, value: str | None) -> str | None:
        if value is None:
            return None
        words = " ".join(value.split())
        if "," in words or "{subject}" in words:
            raise ValueError(
                f"trigger {value!r} must be words without commas: it is put before each caption with a comma of its "
                'own, as in "twem style, a red apple"'
            )
        return words


def names_data_set(subject: Mapping[str, Any] | None) -> bool:
    """Whether the fields of a subject name a data set: a folder, or one that comes with the project."""
    if subject is None or subject.get("dataset") is not None:
        return subject is not None
    return subject.get("images") is None and subject.get("name") in DATA_SETS


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
        return content if content.get("dataset") is not None else without(content, "dataset")

    @field_validator("instance_prompt", "class_prompt")
    @classmethod
    def _prompt_is_not_blank(cls, value: str | None) -> str | None:
        if value is not None and is_blank(value):
            raise ValueError(f'{value!r} is blank; write what the images show, for example "a sks dog"')
        return value

    @model_validator(mode="after")
    def _data_set_is_alone(self) -> Self:
        if not self.is_data_set:
            return self
        shipped = ", ".join(DATA_SETS)
        if self.dataset is not None and self.name in DATA_SETS:
            raise ValueError(
                f"{self.name!r} is a data set that comes with the project and takes no options (those that come with "
                f"it: {shipped}); leave dataset out, or give your own folder another name"
            )
        stated = [
            field for field in (*SUBJECT_FOLDERS, "instance_prompt", "class_prompt") if getattr(self, field)
        ]
        if self.holdout != SubjectConfig.model_fields["holdout"].default:
            stated.append("holdout")
        if stated:
            remedy = (
                "dataset.references and dataset.holdout say what is held out, dataset.trigger what is put before "
                "captions, dataset.masks where images show what is taught"
                if self.dataset is not None
                else "it brings its own captions and held-out images"
            )
            raise ValueError(
                f"{self.name!r} is a data set, which takes a subject's place, and has {', '.join(stated)} too; remove "
                f"{'it' if len(stated) == 1 else 'them'}: {remedy}"
            )
        return self

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
    def is_data_set(self) -> bool:
        """Whether it is a set of captioned images: a folder, or one that comes with the project."""
        return names_data_set({"name": self.name, "images": self.images, "dataset": self.dataset})

    @property
    def folders(self) -> dict[str, str]:
        """The folders that it names, by field; those of a data set as ``dataset.path``, ``dataset.masks``."""
        named = {field: getattr(self, field) for field in SUBJECT_FOLDERS}
        if self.dataset is not None:
            named |= {f"dataset.{field}": getattr(self.dataset, field) for field in DATA_SET_FOLDERS}
        return {
            field: folder
            for field, folder in named.items()
            if folder and not (field in MASKS and folder == ALPHA)
        }


#: Class images of an evaluation on the way, at least: class kept is a factor of what runs are compared by.
FEWEST_CLASS_IMAGES = 8


# Of the one batch that is timed for a figure of latency, and how often: of the times the smallest is taken, since
# whatever else the machine does can only add.
LATENCY_IMAGES, LATENCY_REPEATS = 4, 2


MOST_INFERENCE_STEPS = 1000  # noise levels of the usual training

#: Images of each prompt that are drawn at other numbers of solver steps, at most. Each has the same noise at every
#: number, and all arms the same, so that differences need fewer images than a result.
IMAGES_AT_OTHER_STEPS = 2


# Of the loss on held-out images: images at most, of more so many that lie evenly; and noise levels of each, which
# cover the process evenly, those of all images together.
HELD_OUT_IMAGES, HELD_OUT_LEVELS = 8, 4

#: Class images for prior preservation that are made together, and lie in one entry of the cache.
CLASS_IMAGES_AT_ONCE = 16


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
        prompts: Templates with ``{subject}``, which those of data sets begin with, and which may name characters of
            these by ``{character}`` and ``{other_character}``, others in each prompt; None takes the model's own list
            (embedded) or the built-in one, and of a data set the held-out captions of the phase's half.
        num_prompts: Take only the first so many templates; of held-out captions so many, those of every character in
            turn. None takes all templates, and of captions as many as the built-in lists have.
        images_per_prompt: Images of each prompt, each from its own fixed noise.
        at: Fractions of `max_train_steps`, beside the end (1.0 is always evaluated), at which to evaluate.
        image_encoder: For subject fidelity (DINO's place): ``embedded``, a folder or a hub id.
        clip: For prompt fidelity: ``embedded``, a folder or a hub id.
        num_class_images: Images of class prompts: what the class has kept, its drift, and KID from 50 on.
        anchor_images: Of the base model, at least, from which the scales' zero and one are taken; made once a class.
            With 10, their standard errors were up to .15 in scaled units.
        prompt_set: Which of the built-in lists is taken where `prompts` is None; the two share no prompt.
        images_between: Of the subject's prompts, drawn at each of `at`; None: all of them, as at the end.
        restore_best: Metric by which the best of the steps of `at` and the end is chosen, whose weights are then saved
            and judged; None: those of the end are. The choice rests on prompts, noise and held-out images that do not
            judge the result (``trainables/evaluation/choice.py``). It is no field of training, so that no arm has it
            alone.
        inference_steps: Numbers of solver steps at which the result is drawn too, in increasing order, beside
            `num_inference_steps`, by which alone it is judged: quality against inference steps.
        restore_best_prompts: Templates of the images that choose; None takes the model's own list for searches,
            and of a data set the held-out captions of the search's half.
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
    restore_best: str | None = None
    restore_best_prompts: tuple[str, ...] | None = None
    seed: int = Field(default=1234, ge=0)
    image_encoder: str = EMBEDDED
    clip: str = EMBEDDED
    num_class_images: int = Field(default=16, ge=2)
    anchor_images: int = Field(default=64, ge=2)
    inference_steps: tuple[int, ...] = ()

    @field_validator("inference_steps", mode="before")
    @classmethod
    def _increasing_numbers(cls, value: object) -> object:
        numbers = value if isinstance(value, list | tuple) else ("no list",) if value is not None else ()
        whole = all(type(number) is int and 1 <= number <= MOST_INFERENCE_STEPS for number in numbers)
        if whole and all(one < other for one, other in pairwise(numbers)):
            return tuple(numbers)
        raise ValueError(
            f"takes whole numbers from 1 to {MOST_INFERENCE_STEPS} in increasing order, each once, such as "
            f"[4, 8, 12, 25]; got {value!r}"
        )

    @model_validator(mode="after")
    def _checked(self) -> Self:
        for template in (*(self.prompts or ()), *(self.restore_best_prompts or ())):
            if unknown := unknown_placeholders(
                template, "the subject's instance prompt", CHARACTER_PLACEHOLDERS
            ):
                raise ValueError(f"evaluation prompt {unknown[0]}")
            if "{subject}" not in template:
                raise ValueError(f"evaluation prompt {template!r} lacks the placeholder {{subject}}")
        for fraction in self.at:
            if not 0 < fraction <= 1:
                raise ValueError(
                    f"evaluation.at takes fractions of max_train_steps in (0, 1], got {fraction}"
                )
        if self.restore_best is not None and not any(fraction < 1 for fraction in self.at):
            raise ValueError(
                f"restore_best: {self.restore_best} chooses among evaluations on the way, and evaluation.at names "
                "none; write for example at: [0.25, 0.5, 0.75], or leave restore_best out"
            )
        if self.restore_best_prompts is not None and self.restore_best is None:
            raise ValueError(
                "restore_best_prompts are for restore_best, which is not set; set it, or remove them"
            )
        return self
