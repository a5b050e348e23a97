"""Data sets that come with the project, known by their names as embedded subjects are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from trainables.embedded.sprite_cast import FURTHER_CASTS

if TYPE_CHECKING:
    from PIL import Image

DATA_SETS = {
    "sprite-cast": "eight named characters of the sprite world, drawn in ink",
    "emoji": "animals, food and objects of Twemoji (CC BY 4.0)",
    **dict.fromkeys(FURTHER_CASTS, "eight other characters, likewise"),
}


@dataclass(frozen=True)
class ShippedPicture:
    """What is known of one picture without looking at it.

    Attributes:
        caption: Without the trigger.
        group: Of pictures that are all trained on, or all held out.
        character: Whom it shows; empty where nobody has a name.
        is_held_out: None: the hash of its group decides, as in a folder.
    """

    name: str
    caption: str
    group: str
    character: str = ""
    is_held_out: bool | None = None


@dataclass(frozen=True)
class ShippedSet:
    """A data set that comes with the project; `images` gives its pictures, 64x64 RGB, in the order of `pictures`."""

    name: str
    trigger: str
    pictures: tuple[ShippedPicture, ...]
    images: Callable[[], tuple[Image.Image, ...]]


@cache
def load_data_set(name: str) -> ShippedSet:
    """Returns the data set of this name; draws and reads no picture.

    Raises:
        ValueError: There is none; the message tells which names there are.
    """
    if name == "sprite-cast" or name in FURTHER_CASTS:
        from trainables.embedded import sprite_cast

        cast = sprite_cast.cast_pictures(name)
        return ShippedSet(
            name,
            sprite_cast.TRIGGER,
            tuple(
                ShippedPicture(one.name, one.caption, one.name, one.character, one.is_held_out)
                for one in cast
            ),
            partial(_cast_images, name),
        )
    if name == "emoji":
        from trainables.embedded import emoji_set

        emoji = emoji_set.emoji_list()
        pictures = tuple(ShippedPicture(one.name, one.caption, one.group) for one in emoji)
        return ShippedSet(name, emoji_set.TRIGGER, pictures, _emoji_images)
    raise ValueError(f"no data set {name!r} comes with the project; there are: {', '.join(DATA_SETS)}")


@cache
def _cast_images(name: str) -> tuple[Image.Image, ...]:
    from trainables.embedded.sprite_cast import cast_pictures

    return tuple(picture.draw() for picture in cast_pictures(name))  # two seconds: once a process


@cache
def _emoji_images() -> tuple[Image.Image, ...]:
    from trainables.embedded.emoji_set import emoji_images

    return tuple(emoji_images())
