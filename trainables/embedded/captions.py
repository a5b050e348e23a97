"""Captions of the sprite world: complete ones, and ones with parts dropped at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.embedded.world import ACCESSORIES, CLASSES, COLOURS, SCENES

if TYPE_CHECKING:
    import numpy as np

PREFIXES = ("", "a photo of ", "a picture of ", "an image of ")
VOCABULARY = tuple(
    dict.fromkeys(
        " ".join(
            [*CLASSES, *COLOURS, *SCENES, *ACCESSORIES, *PREFIXES, "a an the with wearing of and"]
        ).split()
    )
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def article(noun_phrase: str) -> str:
    """`an orange cat`, `a cat`."""
    return f"{'an' if noun_phrase[0] in 'aeiou' else 'a'} {noun_phrase}"


def accessory_phrase(accessory: str) -> str:
    """`wearing a hat`, `wearing sunglasses`, `with a balloon`; empty for none."""
    if accessory == "none":
        return ""
    if accessory == "sunglasses":
        return "wearing sunglasses"
    return f"{'with' if accessory == 'balloon' else 'wearing'} a {accessory}"


def compose(subject: str, scene: str = "", accessory: str = "none") -> str:
    """`{subject} {scene} {accessory phrase}`, parts that are empty left out."""
    return " ".join(part for part in (subject, scene, accessory_phrase(accessory)) if part)


def full_caption(class_name: str, colour: str, scene: str, accessory: str) -> str:
    """The caption that names everything, such as `a red cat in the snow wearing a hat`."""
    return compose(article(f"{colour} {class_name}"), scene, accessory)


def nonsense(rng: np.random.Generator) -> str:
    """A word of 2-5 random letters that is no word of the world."""
    while True:
        letters = rng.integers(len(_LETTERS), size=int(rng.integers(2, 6)))
        word = "".join(_LETTERS[int(i)] for i in letters)
        if word not in VOCABULARY:
            return word


def random_caption(
    rng: np.random.Generator,
    class_name: str,
    colour: str,
    scene: str,
    accessory: str,
    p_empty: float = 0.1,
) -> str:
    """A true caption with parts left out, sometimes with a nonsense word, sometimes empty.

    The nonsense word teaches the model that unknown words say nothing, so that the base model
    reads `a sks cat` as `a cat`.
    """
    if rng.random() < p_empty:
        return ""
    words = [class_name]
    if rng.random() < 0.65:
        words.insert(0, colour)
    if rng.random() < 0.15:
        words.insert(int(rng.integers(len(words))), nonsense(rng))
    keep_scene, keep_accessory = rng.random() < 0.75, rng.random() < 0.8
    text = compose(
        article(" ".join(words)),
        scene if keep_scene else "",
        accessory if keep_accessory else "none",
    )
    if rng.random() < 0.2:
        text = PREFIXES[int(rng.integers(1, len(PREFIXES)))] + text
    return text


def attributes(text: str) -> dict[str, str]:
    """What a caption names, by kind: `class`, `colour`, `scene`, `accessory`; unnamed kinds absent.

    A caption that names no accessory says nothing about it (`none` never appears).
    """
    words = text.lower().replace(",", " ").replace(".", " ").split()
    spaced = f" {' '.join(words)} "
    found: dict[str, str] = {}
    for kind, names in (("class", CLASSES), ("colour", tuple(COLOURS)), ("scene", SCENES)):
        for name in names:
            if f" {name} " in spaced:
                found[kind] = name
    for name in ACCESSORIES[1:]:
        if f" {name} " in spaced:
            found["accessory"] = name
    return found
