"""The sprite world: what can be drawn, and how its parts are drawn at random.

A picture shows one creature (an `Identity`) in one `Setting`. Captions name the class, the colour,
the scene and the accessory; everything else about an identity is never named, so only examples can
teach it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RGB = tuple[int, int, int]

CLASSES = ("cat", "dog", "rabbit", "bear", "bird", "frog", "elephant", "turtle")
COLOURS: dict[str, RGB] = {
    "red": (214, 52, 48),
    "orange": (240, 138, 36),
    "yellow": (242, 210, 56),
    "green": (64, 164, 72),
    "blue": (56, 104, 212),
    "purple": (138, 72, 186),
    "pink": (242, 140, 182),
    "white": (240, 240, 236),
}
SCENES = (
    "on grass",
    "on a beach",
    "in the snow",
    "at night",
    "in a forest",
    "in a city",
    "in a room",
    "in the desert",
)
ACCESSORIES = ("none", "hat", "crown", "scarf", "sunglasses", "balloon")

# Traits that captions never name.
SECONDARY: tuple[RGB, ...] = (
    (250, 244, 228),
    (60, 50, 56),
    (250, 206, 120),
    (150, 214, 240),
    (246, 170, 190),
    (150, 100, 60),
    (170, 226, 150),
)
PATTERNS = ("none", "spots", "stripes", "patch")
PATTERN_COLOURS: tuple[RGB, ...] = (
    (48, 40, 48),
    (252, 250, 244),
    (128, 76, 40),
    (30, 150, 160),
    (190, 40, 110),
)
MARKS = ("none", "circle", "star", "heart", "diamond", "bar")
MARK_COLOURS: tuple[RGB, ...] = (
    (220, 40, 40),
    (40, 90, 210),
    (30, 140, 60),
    (250, 190, 20),
    (130, 50, 170),
    (20, 20, 24),
)
EYE_COLOURS: tuple[RGB, ...] = ((24, 22, 26), (40, 130, 60), (40, 110, 210), (170, 90, 20))

HELD_OUT_PERCENT = 10
_SPLITS = {"pretrain": 1, "held_out": 2, "subjects": 3, "smoke": 4, "cast": 5, "lesions": 6}


@dataclass(frozen=True)
class Identity:
    """One creature; colours are RGB in 0..255, sizes are factors around 1."""

    class_name: str
    colour: str
    shade: RGB
    secondary: RGB
    pattern: str
    pattern_colour: RGB
    mark: str
    mark_colour: RGB
    eye_colour: RGB
    ear_size: float
    body_width: float
    pattern_seed: int


@dataclass(frozen=True)
class Setting:
    """Where and how a creature is shown; `seed` fixes the small details of the picture."""

    scene: str
    accessory: str
    seed: int


def generator(seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of item `index` of a split; streams of different splits never meet."""
    import numpy as np

    return np.random.default_rng([seed, _SPLITS[split], index])


def is_held_out(class_name: str, colour: str, scene: str, accessory: str) -> bool:
    """Whether pre-training never sees this combination (about 10 % of all, by a fixed hash)."""
    key = f"{class_name}|{colour}|{scene}|{accessory}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") % 100 < HELD_OUT_PERCENT


def held_out_combinations() -> list[tuple[str, str, str, str]]:
    """All (class, colour, scene, accessory) that pre-training never sees, in a fixed order."""
    return [
        (class_name, colour, scene, accessory)
        for class_name in CLASSES
        for colour in COLOURS
        for scene in SCENES
        for accessory in ACCESSORIES
        if is_held_out(class_name, colour, scene, accessory)
    ]


def _pick(rng: np.random.Generator, options: tuple) -> object:
    return options[int(rng.integers(len(options)))]


def _shade(rng: np.random.Generator, colour: RGB) -> RGB:
    light = float(rng.uniform(0.84, 1.1))
    red, green, blue = (int(min(255, max(0, channel * light + rng.uniform(-12, 12)))) for channel in colour)
    return red, green, blue


def _contrasting(rng: np.random.Generator, options: tuple[RGB, ...], against: RGB) -> RGB:
    """One of the options that stands out from `against` (L1 distance of RGB over 150)."""
    clear = [c for c in options if sum(abs(a - b) for a, b in zip(c, against, strict=True)) > 150]
    return clear[int(rng.integers(len(clear)))]


def draw_identity(
    rng: np.random.Generator, class_name: str | None = None, colour: str | None = None
) -> Identity:
    """A random creature; class and colour are drawn too unless given."""
    drawn_class = str(_pick(rng, CLASSES))
    drawn_colour = str(_pick(rng, tuple(COLOURS)))
    name, named = class_name or drawn_class, colour or drawn_colour
    shade = _shade(rng, COLOURS[named])
    secondary = _contrasting(rng, SECONDARY, shade)
    return Identity(
        class_name=name,
        colour=named,
        shade=shade,
        secondary=secondary,
        pattern=str(_pick(rng, PATTERNS)),
        pattern_colour=_contrasting(rng, PATTERN_COLOURS, shade),
        mark=str(_pick(rng, MARKS)),
        mark_colour=_contrasting(rng, MARK_COLOURS, secondary),
        eye_colour=EYE_COLOURS[int(rng.integers(len(EYE_COLOURS)))],
        ear_size=float(rng.uniform(0.8, 1.25)),
        body_width=float(rng.uniform(0.85, 1.15)),
        pattern_seed=int(rng.integers(4)),
    )


def draw_setting(rng: np.random.Generator, identity: Identity, held_out: bool = False) -> Setting:
    """A random setting in which the identity's combination is (not) a held-out one."""
    for _ in range(10_000):
        scene, accessory = str(_pick(rng, SCENES)), str(_pick(rng, ACCESSORIES))
        if is_held_out(identity.class_name, identity.colour, scene, accessory) == held_out:
            return Setting(scene, accessory, int(rng.integers(2**31)))
    raise ValueError(
        f"no {'held-out' if held_out else 'seen'} setting exists for "
        f"a {identity.colour} {identity.class_name}"
    )
