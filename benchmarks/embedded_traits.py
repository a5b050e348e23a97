"""Reads the traits of a creature off a picture by drawing it again: analysis by synthesis.

The renderer is known, so no network is needed to say which eyes, mark, pattern and colours a picture shows: of all
values of a trait, the one is read whose rendering is nearest in the pixels of the creature. Class and accessory are
read by the judge (right on all renders); place and size of the creature are fitted along with the traits.
`python -m benchmarks.embedded_traits` prints how much of random creatures it reads rightly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.pretraining.grading import WEIGHTS, shared, trait_table
from benchmarks.pretraining.judge import read
from benchmarks.pretraining.pool import PARTS
from trainables import embedded
from trainables.embedded import creatures, world
from trainables.embedded.canvas import Canvas

SWEEPS = 2  # over all traits; the second corrects what the first read beside wrong neighbours
TRAITS = ("secondary", "pattern", "mark", "eye_colour", "ear_size", "body_width")  # the largest first
EARS, WIDTHS = (0.85, 0.95, 1.05, 1.15, 1.22), (0.88, 0.94, 1.0, 1.06, 1.12)  # over the ranges that are drawn
PURE = 0.95  # share of a pixel that must be shade for it to say what the shade is
GREY = (128, 128, 128)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
_PLAIN = world.Identity(
    "cat", "red", GREY, GREY, "none", GREY, "none", GREY, world.EYE_COLOURS[0], 1.0, 1.0, 0
)


@dataclass(frozen=True)
class Pose:
    """Where the creature stands, as `render` draws it: shifts in pixels, size as a factor."""

    right: float = 0.0
    down: float = 0.0
    scale: float = 0.99
    mirror: bool = False


def read_identities(images: Sequence[Image.Image]) -> list[world.Identity]:
    """Returns the identity that each 64x64 picture shows."""
    from transformers import AutoModelForImageClassification

    judge = AutoModelForImageClassification.from_pretrained(embedded.JUDGE).eval()
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    found = []
    for picture, row in zip(pixels, read(judge, pixels), strict=True):
        class_name, colour, _, accessory = (part[int(v)] for part, v in zip(PARTS, row, strict=True))
        found.append(_Fit(picture.astype(np.float32), class_name, colour, accessory).identity())
    return found


def shared_traits(found: Sequence[world.Identity], true: world.Identity) -> tuple[np.ndarray, np.ndarray]:
    """How much each identity has of the traits of a true one, in 0..1.

    Returns:
        With each trait weighed by how much of a picture it makes up (what grading pulls the encoder to), and with each
        of the ten weighed the same.
    """
    alike = shared(trait_table([*found, true]), np.arange(len(found) + 1))
    columns = {name: table[:-1, -1] for name, table in alike.items()}
    visible = np.sum([weight * columns[name] for name, weight in WEIGHTS.items()], axis=0)
    return visible, np.mean(list(columns.values()), axis=0)


class _Fit:
    """Coordinate descent over pose and traits of one picture, by the mean absolute difference in the pixels that the
    creature covers.
    """

    def __init__(self, picture: np.ndarray, class_name: str, colour: str, accessory: str) -> None:
        self.picture = picture
        self.accessory = accessory
        self.pose = Pose()
        self.who = replace(_PLAIN, class_name=class_name, colour=colour, shade=world.COLOURS[colour])

    def identity(self) -> world.Identity:
        """Returns the identity whose rendering is nearest."""
        self._place((-1.5, 0.0, 1.5), (-0.025, 0.025), (False, True))
        for _ in range(SWEEPS):
            self._place((-0.7, 0.0, 0.7), (-0.02, 0.0, 0.02), (self.pose.mirror,))
            self._read_shade()
            for trait in TRAITS:
                # Colours leave the outline as it is, so that it is drawn once.
                outline = None if trait in ("ear_size", "body_width") else self._covered(self.who, self.pose)
                errors = [self._error(one, self.pose, outline) for one in _options(self.who, trait)]
                self.who = _options(self.who, trait)[int(np.argmin(errors))]
            self._read_shade()
        return self.who

    def _place(self, steps: Sequence[float], sizes: Sequence[float], mirrors: Sequence[bool]) -> None:
        at = self.pose
        options = [
            Pose(at.right + x, at.down + y, at.scale + size, mirror)
            for x in steps
            for y in steps
            for size in sizes
            for mirror in mirrors
        ]
        self.pose = min(options, key=lambda pose: self._error(self.who, pose))

    def _read_shade(self) -> None:
        """Reads the shade off the pixels that are nothing else: those that change fully with it."""
        dark, bright = (self._drawn(replace(self.who, shade=one), self.pose, BLACK) for one in (BLACK, WHITE))
        pure = (bright - dark).mean(axis=-1) > PURE * 255
        if pure.any():
            red, green, blue = (round(float(value)) for value in np.median(self.picture[pure], axis=0))
            self.who = replace(self.who, shade=(red, green, blue))

    def _error(self, who: world.Identity, pose: Pose, covered: np.ndarray | None = None) -> float:
        covered = self._covered(who, pose) if covered is None else covered
        behind = (1 - covered)[..., None] * self.picture
        gaps = np.abs(self._drawn(who, pose, BLACK) + behind - self.picture).mean(axis=-1)
        return float((gaps * covered).sum() / covered.sum())

    def _covered(self, who: world.Identity, pose: Pose) -> np.ndarray:
        """How much of each pixel is creature or accessory, in 0..1."""
        share: np.ndarray = (
            1 - (self._drawn(who, pose, WHITE) - self._drawn(who, pose, BLACK)).mean(axis=-1) / 255
        )
        return share

    def _drawn(self, who: world.Identity, pose: Pose, ground: world.RGB) -> np.ndarray:
        canvas = Canvas()
        canvas.rect(0, 0, 64, 64, ground)
        canvas.shift, canvas.scale, canvas.mirror = (pose.right, pose.down), pose.scale, pose.mirror
        creatures.draw_creature(canvas, who)
        creatures.draw_accessory(canvas, self.accessory, who.class_name)
        return np.asarray(canvas.finish(), dtype=np.float32)


def _options(who: world.Identity, trait: str) -> list[world.Identity]:
    """The identities that differ in one trait; a pattern or mark together with its colour."""

    def changed(**values: Any) -> world.Identity:
        return replace(who, **values)

    if trait == "secondary":
        return [changed(secondary=value) for value in world.SECONDARY]
    if trait == "pattern":
        return [changed(pattern="none")] + [
            changed(pattern=pattern, pattern_colour=colour, pattern_seed=seed)
            for pattern in world.PATTERNS[1:]
            for colour in world.PATTERN_COLOURS
            for seed in (0, 1)  # what is drawn depends on whether it is odd
        ]
    if trait == "mark":
        return [changed(mark="none")] + [
            changed(mark=mark, mark_colour=colour)
            for mark in world.MARKS[1:]
            for colour in world.MARK_COLOURS
        ]
    if trait == "eye_colour":
        return [changed(eye_colour=value) for value in world.EYE_COLOURS]
    return [changed(**{trait: value}) for value in (EARS if trait == "ear_size" else WIDTHS)]


def measure(count: int = 40, seed: int = 5) -> list[tuple[str, float, float]]:
    """Reads renders of creatures that pre-training never saw, and what the autoencoder makes of them.

    Returns:
        For each kind of picture the mean share of traits read rightly: as visible, and all alike.
    """
    from benchmarks.measures import decoded
    from trainables.embedded.render import render

    rng = np.random.default_rng(seed)
    drawn = [world.draw_identity(rng, world.CLASSES[number % 8]) for number in range(count)]
    images = [render(who, world.draw_setting(rng, who)) for who in drawn]
    lines = []
    for kind, pictures in (("renders", images), ("renders through the autoencoder", decoded(images))):
        found = read_identities(pictures)
        shares = [shared_traits([one], who) for one, who in zip(found, drawn, strict=True)]
        visible, alike = np.mean(shares, axis=0).ravel()
        lines.append((kind, float(visible), float(alike)))
    return lines


if __name__ == "__main__":
    for kind_, visible_, alike_ in measure():
        print(f"{kind_}: {visible_:.3f} of the visible traits, {alike_:.3f} of all alike")
