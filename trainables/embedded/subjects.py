"""Held-out subjects: identities that pre-training never drew, with training and reference images.

Everything is drawn from fixed seeds, so a subject is the same on every machine and in every run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal

from trainables.embedded.captions import article, compose
from trainables.embedded.world import CLASSES, SCENES, Identity, Setting, draw_identity, generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

SUBJECTS_PER_CLASS = 12  # 96 in all: a search and a verdict of tens of subjects need not share one
SEED = 2024
PLACEHOLDER = "sks"
IN_INK = "-ink"  # after a subject's name: the same creature as a cartoon character
TRAINING_SETTINGS = (
    ("on grass", "none"),
    ("in a room", "none"),
    ("on a beach", "hat"),
    ("in a city", "none"),
    ("on grass", "scarf"),
)
# Where a run asks for more than those five: the same four scenes, of no evaluation prompt either.
FURTHER_SETTINGS = (
    ("in a room", "none"),
    ("in a city", "none"),
    ("on grass", "hat"),
    ("on a beach", "scarf"),
    ("in a room", "hat"),
)
TRAINING_IMAGES = len(TRAINING_SETTINGS)
MOST_TRAINING_IMAGES = len(TRAINING_SETTINGS) + len(FURTHER_SETTINGS)
REFERENCE_SCENES = ("in the snow", "at night", "in a forest", "in the desert")
REFERENCE_ACCESSORIES = ("none", "crown", "none", "balloon")
# Settings of the evaluation prompts; without a scene the prompt names none. The two lists share no setting, so that
# nothing that a search is tuned on is asked again, and none is a training image's, whose copy would be a good answer.
_CONFIRM_SETTINGS = (
    ("in the snow", "none"),
    ("", "hat"),
    ("in a forest", "crown"),
    ("at night", "none"),
    ("", "balloon"),
    ("on a beach", "none"),
    ("in the desert", "sunglasses"),
    ("in a city", "scarf"),
    ("", "sunglasses"),
    ("in a room", "scarf"),
    ("on grass", "balloon"),
    ("", "crown"),
    ("in the desert", "none"),
    ("in the snow", "hat"),
    ("at night", "balloon"),
    ("in a forest", "none"),
)
_SEARCH_SETTINGS = (
    ("at night", "hat"),
    ("", "scarf"),
    ("in the desert", "crown"),
    ("on a beach", "balloon"),
    ("in the snow", "sunglasses"),
    ("in a forest", "scarf"),
    ("in a room", "crown"),
    ("in a city", "hat"),
)
PromptSet = Literal["confirm", "search"]
_SETTINGS: dict[PromptSet, tuple[tuple[str, str], ...]] = {
    "confirm": _CONFIRM_SETTINGS,
    "search": _SEARCH_SETTINGS,
}
RENDERS_A_TEMPLATE = 2  # of a template, as perfect pictures
_REFERENCE_ROUNDS = 4  # of the 16 settings: as many images as the other end of the scales rests on
_PERFECT_SEED = 3000  # apart from those of training (1000) and references (2000)


@dataclass(frozen=True)
class EmbeddedSubject:
    """A held-out identity, named `<class>-<number>`; all images are 64x64 RGB.

    Attributes:
        in_ink: It is a cartoon character, named `<class>-<number>-ink`: drawn, in all its images, in the style of the
            data set ``sprite-cast``, which the base model never saw either.
    """

    name: str
    class_name: str
    instance_prompt: str
    class_prompt: str
    identity: Identity
    in_ink: bool = False

    def _draw(self, settings: list[tuple[str, str]], first_seed: int) -> list[Image.Image]:
        from trainables.embedded.ink import render_in_ink
        from trainables.embedded.render import render

        drawn = render_in_ink if self.in_ink else render
        return [
            drawn(self.identity, Setting(scene, accessory, first_seed + index))
            for index, (scene, accessory) in enumerate(settings)
        ]

    def training_images(self, count: int = TRAINING_IMAGES) -> list[Image.Image]:
        """The first `count` images to train on, up to 10, in the order of `training_captions`."""
        return self._draw(list(_training_settings(count)), 1000)

    def training_masks(self, count: int = TRAINING_IMAGES) -> list[Image.Image]:
        """Where the training images show the creature, 64x64 8-bit grey, 255 where it covers a pixel."""
        from trainables.embedded.render import render_mask

        return [
            render_mask(self.identity, Setting(scene, accessory, 1000 + index))
            for index, (scene, accessory) in enumerate(_training_settings(count))
        ]

    def training_captions(self, count: int = TRAINING_IMAGES) -> list[str]:
        """One caption an image: the instance prompt plus the scene and accessory shown."""
        return [compose(self.instance_prompt, *setting) for setting in _training_settings(count)]

    def reference_images(self) -> list[Image.Image]:
        """64 held-out images in four scenes that no training image shows, each with each accessory four times.

        The scales of an evaluation rest on them and on the base model's images: where scales begin, on at least 64
        images of the base model (`EvaluationConfig.anchor_images`); the one of the subject scale, how
        similar real images are to each other, on these and their 2,016 pairs. How sure the end is stands beside it
        as a jackknife error (`trainables.evaluation.metrics.real_similarity_error`), which enters the error of every
        scaled score.
        """
        settings = [(s, a) for a in REFERENCE_ACCESSORIES for s in REFERENCE_SCENES]
        return self._draw(settings * _REFERENCE_ROUNDS, 2000)

    def perfect_images(self, templates: Sequence[str]) -> list[Image.Image] | None:
        """What a perfect model would draw of this identity: `RENDERS_A_TEMPLATE` pictures of each template in turn.

        A template that names no scene is shown in two different ones, as a model may choose.

        Args:
            templates: Of `evaluation_prompts`.

        Returns:
            Shape (templates x `RENDERS_A_TEMPLATE`), grouped by template; None if a template is none of this world's,
            since nobody knows then what a perfect picture shows.
        """
        known = _settings_by_template()
        if not set(templates) <= known.keys():
            return None
        settings = []
        for number, template in enumerate(templates):
            scene, accessory = known[template]
            for render in range(RENDERS_A_TEMPLATE):
                free = SCENES[(number + render * len(SCENES) // RENDERS_A_TEMPLATE) % len(SCENES)]
                settings.append((scene or free, accessory))
        return self._draw(settings, _PERFECT_SEED)


@cache
def _subjects() -> dict[str, EmbeddedSubject]:
    found = {}
    for number in range(1, SUBJECTS_PER_CLASS + 1):
        for index, class_name in enumerate(CLASSES):
            rng = generator(SEED, "subjects", number * len(CLASSES) + index)
            name = f"{class_name}-{number}"
            found[name] = EmbeddedSubject(
                name=name,
                class_name=class_name,
                instance_prompt=f"a {PLACEHOLDER} {class_name}",
                class_prompt=article(class_name),
                identity=draw_identity(rng, class_name),
            )
    return found


def subject_names() -> tuple[str, ...]:
    """The names of all held-out subjects: one of each class, then a second of each, and so on; without `IN_INK`."""
    return tuple(_subjects())


def subject_ranges() -> str:
    """All names in one short line: ``cat-1 ... cat-12, dog-1 ... dog-12, ...``."""
    plain = ", ".join(f"{name}-1 ... {name}-{SUBJECTS_PER_CLASS}" for name in CLASSES)
    return f"{plain}, each in ink too (cat-1{IN_INK})"


def is_subject(name: str) -> bool:
    """Whether there is a subject of this name, drawn as the base model draws or in ink."""
    return name.removesuffix(IN_INK) in _subjects()


def load_subject(name: str) -> EmbeddedSubject:
    """The held-out subject of this name.

    Raises:
        ValueError: there is none; the message tells which names there are.
    """
    if not is_subject(name):
        raise ValueError(f"no embedded subject {name!r}; there are: {subject_ranges()}")
    plain = _subjects()[name.removesuffix(IN_INK)]
    return replace(plain, name=name, in_ink=True) if name.endswith(IN_INK) else plain


def evaluation_prompts(prompt_set: PromptSet = "confirm") -> tuple[str, ...]:
    """Templates with `{subject}`: scenes, accessories, and both; no template is in both sets.

    Args:
        prompt_set: "confirm" has 16, of which the first 4 are balanced; "search" has 8.
    """
    return tuple(_template(scene, accessory) for scene, accessory in _SETTINGS[prompt_set])


def _training_settings(count: int) -> tuple[tuple[str, str], ...]:
    return (*TRAINING_SETTINGS, *FURTHER_SETTINGS)[:count]


def _template(scene: str, accessory: str) -> str:
    return compose("{subject}", scene, accessory)


@cache
def _settings_by_template() -> dict[str, tuple[str, str]]:
    settings = (*_CONFIRM_SETTINGS, *_SEARCH_SETTINGS)
    return {_template(*setting): setting for setting in settings}
