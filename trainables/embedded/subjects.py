"""Held-out subjects: identities that pre-training never drew, with training and reference images.

Everything is drawn from fixed seeds, so a subject is the same on every machine and in every run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from trainables.embedded.captions import article, compose
from trainables.embedded.world import CLASSES, Identity, Setting, draw_identity, generator

if TYPE_CHECKING:
    from PIL import Image

SUBJECTS_PER_CLASS = 2
SEED = 2024
PLACEHOLDER = "sks"
TRAINING_SETTINGS = (
    ("on grass", "none"),
    ("in a room", "none"),
    ("on a beach", "hat"),
    ("in a city", "none"),
    ("on grass", "scarf"),
)
REFERENCE_SCENES = ("in the snow", "at night", "in a forest", "in the desert")
REFERENCE_ACCESSORIES = ("none", "crown", "none", "balloon")
_TEMPLATES = (
    ("in the snow", "none"),
    ("", "hat"),
    ("in a forest", "crown"),
    ("at night", "none"),
    ("", "balloon"),
    ("on a beach", "none"),
    ("in the desert", "sunglasses"),
    ("in a city", "scarf"),
    ("", "sunglasses"),
    ("in a room", "none"),
    ("on grass", "balloon"),
    ("", "crown"),
    ("in the desert", "none"),
    ("in the snow", "hat"),
    ("at night", "balloon"),
    ("in a forest", "none"),
)


@dataclass(frozen=True)
class EmbeddedSubject:
    """A held-out identity, named `<class>-<number>`; all images are 64x64 RGB."""

    name: str
    class_name: str
    instance_prompt: str
    class_prompt: str
    identity: Identity

    def _draw(self, settings: list[tuple[str, str]], first_seed: int) -> list[Image.Image]:
        from trainables.embedded.render import render

        return [
            render(self.identity, Setting(scene, accessory, first_seed + index))
            for index, (scene, accessory) in enumerate(settings)
        ]

    def training_images(self) -> list[Image.Image]:
        """The 5 images to train on, in the order of `training_captions`."""
        return self._draw(list(TRAINING_SETTINGS), 1000)

    def training_captions(self) -> list[str]:
        """One caption an image: the instance prompt plus the scene and accessory shown."""
        return [compose(self.instance_prompt, *setting) for setting in TRAINING_SETTINGS]

    def reference_images(self) -> list[Image.Image]:
        """16 held-out images in four scenes that no training image shows."""
        settings = [(s, a) for a in REFERENCE_ACCESSORIES for s in REFERENCE_SCENES]
        return self._draw(settings, 2000)


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
    """The names of all held-out subjects: one of each class, then a second of each."""
    return tuple(_subjects())


def load_subject(name: str) -> EmbeddedSubject:
    """The held-out subject of this name.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    subjects = _subjects()
    if name not in subjects:
        raise ValueError(f"no embedded subject {name!r}; there are: {', '.join(subjects)}")
    return subjects[name]


def evaluation_prompts() -> tuple[str, ...]:
    """16 templates with `{subject}`: scenes, accessories, and both; the first 4 are balanced."""
    return tuple(compose("{subject}", scene, accessory) for scene, accessory in _TEMPLATES)
