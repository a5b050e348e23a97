"""The data set ``sprite-cast``: eight characters with names of their own, in a style that pre-training never saw.

``sprite-cast-2`` and the others are the same with other characters, so that a verdict on captioned fine-tuning can rest
on several data sets. Everything is drawn from fixed seeds, so the pictures are the same on every machine and in every
run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from trainables.embedded.captions import compose
from trainables.embedded.world import (
    ACCESSORIES,
    CLASSES,
    SCENES,
    Identity,
    Setting,
    draw_identity,
    generator,
)

if TYPE_CHECKING:
    from PIL import Image

TRIGGER = "ink style"
# Name -> which identity of its class it is: of the first ten, one that a thick outline leaves recognisable, and that
# differs from the others in colour, pattern and mark.
CHARACTERS = {
    "momo": ("cat", 5),
    "rufo": ("dog", 3),
    "nibi": ("rabbit", 6),
    "bruno": ("bear", 1),
    "pip": ("bird", 5),
    "zog": ("frog", 2),
    "dumo": ("elephant", 8),
    "tilo": ("turtle", 6),
}
#: Further casts: one character of each class, in the order of the classes. Nobody has looked for identities that stand
#: out in them, as in `CHARACTERS`.
FURTHER_CASTS = {
    "sprite-cast-2": ("mira", "tarn", "bibo", "olaf", "twix", "gulp", "humbo", "slog"),
    "sprite-cast-3": ("felo", "dux", "noki", "barg", "piri", "zump", "eldo", "tork"),
    "sprite-cast-4": ("sima", "waff", "lopi", "urso", "fifi", "krok", "jumba", "panz"),
    "sprite-cast-5": ("kato", "bello", "hoppi", "grizo", "tweet", "quak", "tembo", "shello"),
    "sprite-cast-6": ("nala", "rexi", "flopp", "balu", "avio", "ribb", "oli", "moss"),
    "sprite-cast-7": ("pumi", "wolke", "zippi", "honko", "sparr", "lurch", "mamu", "terra"),
    "sprite-cast-8": ("lynx", "finn", "cotto", "brumm", "colib", "plop", "tusk", "dozy"),
    "sprite-cast-9": ("simba", "laika", "thump", "yogi", "robin", "kermo", "dumbi", "franz"),
}
_FURTHER_PLACE = (
    10  # of the second cast's characters in their classes; the first cast has some of the first ten
)
_SEED = 2024
_FIRST_PICTURE = 4000  # seed of the small details; apart from those of embedded subjects (1000 to 3000)
_FURTHER_PICTURE = 20_000  # likewise; benchmarks have casts of their own from 10,000 on
_PICTURES = 1_000  # more than a cast has
_PICTURES_A_SCENE = 3  # of each character: the first held out, the others to train on


@dataclass(frozen=True)
class CastPicture:
    """One picture of the cast.

    Attributes:
        caption: Without the trigger, e.g. "momo the cat in the snow wearing a hat".
        is_held_out: It is never trained on, nor is its scene with its accessory, by any character.
    """

    name: str
    character: str
    caption: str
    identity: Identity
    setting: Setting
    is_held_out: bool

    def draw(self) -> Image.Image:
        """The picture, 64x64 RGB."""
        from trainables.embedded.ink import render_in_ink

        return render_in_ink(self.identity, self.setting)


@cache
def cast_pictures(name: str = "sprite-cast") -> tuple[CastPicture, ...]:
    """All 192 of the data set of this name."""
    if name not in FURTHER_CASTS:
        return pictures_of(CHARACTERS, _FIRST_PICTURE)
    number = tuple(FURTHER_CASTS).index(name)
    place = _FURTHER_PLACE + number
    characters = {who: (kind, place) for who, kind in zip(FURTHER_CASTS[name], CLASSES, strict=True)}
    return pictures_of(characters, _FURTHER_PICTURE + _PICTURES * number)


def pictures_of(characters: Mapping[str, tuple[str, int]], first_picture: int) -> tuple[CastPicture, ...]:
    """Of each character three pictures in each scene, of which the first is held out; of eight characters 192 and 64.

    Scene ``s`` and accessory ``a`` are held out where ``s + a`` is a multiple of six, so that no character is trained
    on in a setting in which another is asked for.

    Args:
        characters: By name the class, and which identity of it.
        first_picture: Seed of the small details of the first picture; the others have those that follow.
    """
    found: list[CastPicture] = []
    for number, (name, (class_name, place)) in enumerate(characters.items()):
        identity = cast_identity(class_name, place)
        for scene_number, scene in enumerate(SCENES):
            turn = number + scene_number
            for position, offset in enumerate((0, 1 + turn % 5, 1 + (turn + 2) % 5)):
                accessory = ACCESSORIES[(offset - scene_number) % len(ACCESSORIES)]
                found.append(
                    CastPicture(
                        name=f"{name}-{scene_number * _PICTURES_A_SCENE + position:02}",
                        character=name,
                        caption=compose(f"{name} the {class_name}", scene, accessory),
                        identity=identity,
                        setting=Setting(scene, accessory, first_picture + len(found)),
                        is_held_out=offset == 0,
                    )
                )
    return tuple(found)


def cast_identity(class_name: str, place: int) -> Identity:
    """Returns an identity that pre-training never drew.

    Args:
        place: Which of its class, from 0.
    """
    return draw_identity(
        generator(_SEED, "cast", place * len(CLASSES) + CLASSES.index(class_name)), class_name
    )
