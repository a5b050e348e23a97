"""A lesion that pre-training never saw: its severity, the scores that severities make, and how it is drawn.

Scores follow those of teat ends (hyperkeratosis, 1 to 4): from a small pale spot to a large, dark, ragged ring around
a crust.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from trainables.embedded.creatures import ANATOMY
from trainables.embedded.world import RGB, Identity, Setting

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from trainables.embedded.canvas import Canvas

SCORES = (1, 2, 3, 4)
#: Severity from which on a lesion has the scores 2, 3 and 4. Severities go from 0 to `WORST`.
THRESHOLDS = (1.0, 2.0, 3.0)
WORST = 4.0
#: Standard deviation of what each of size, colour and raggedness shows beside the severity, in its units: by the mean
#: of the three, about one lesion in twenty looks like one of a neighbouring score.
NOISE = 0.15
SPIKES = 7
CRUST: RGB = (236, 204, 128)
# Colours at severity 0, 2 and 4.
_RAMP: tuple[RGB, ...] = ((232, 120, 112), (196, 40, 44), (84, 8, 30))
_BELLY = 8.2  # half the width of the belly (pixels) in which radii are as below; others are in proportion
_RADIUS = (1.9, 1.3)  # pixels at severity 0, and more with each unit of severity
_RAGGED = (0.02, 0.09)  # share of the radius by which spikes stand out, likewise
_CORE = (0.1, 0.1)  # share of the radius that is crust, likewise
_RIM = 0.9  # pixels of darker rim


@dataclass(frozen=True)
class Lesion:
    """What a lesion looks like; the first three in units of severity (0 to `WORST`), each as if it alone told it."""

    size: float
    colour: float
    raggedness: float
    spikes: tuple[float, ...] = (0.0,) * (2 * SPIKES)  # in -1..1: how much each corner of the outline is off


def score_of(severity: float) -> int:
    """The score of a severity, of `SCORES`; one that is a threshold has the higher score."""
    return 1 + sum(severity >= threshold for threshold in THRESHOLDS)


def draw_look(rng: np.random.Generator, severity: float, noise: float = NOISE) -> Lesion:
    """A lesion of this severity: what it shows is off by `noise` (standard deviation) in each respect."""
    size, colour, raggedness = (
        min(WORST, max(0.0, severity + noise * float(rng.standard_normal()))) for _ in range(3)
    )
    return Lesion(size, colour, raggedness, tuple(float(rng.uniform(-1, 1)) for _ in range(2 * SPIKES)))


def draw_lesion(canvas: Canvas, lesion: Lesion, class_name: str) -> None:
    """Draws the lesion where creatures of this class have their belly, in the canvas' transform."""
    draw_parts(canvas, lesion, class_name, colours_of(lesion.colour))


def draw_parts(canvas: Canvas, lesion: Lesion, class_name: str, colours: tuple[RGB, RGB, RGB]) -> None:
    """Draws rim, middle and crust in colours of one's own."""
    x, y = place_of(class_name)
    unit = size_of(class_name)
    radius = (_RADIUS[0] + _RADIUS[1] * lesion.size) * unit
    ragged = _RAGGED[0] + _RAGGED[1] * lesion.raggedness
    core = radius * (_CORE[0] + _CORE[1] * lesion.raggedness)
    rim, middle, crust = colours
    canvas.polygon(_outline(x, y, radius, ragged, lesion.spikes), rim)
    canvas.polygon(_outline(x, y, radius - _RIM * unit, ragged, lesion.spikes), middle)
    canvas.polygon(_outline(x, y, core, 2 * ragged, lesion.spikes[::-1]), crust)


def colours_of(severity: float) -> tuple[RGB, RGB, RGB]:
    """Colours of rim, middle and crust."""
    place = severity / WORST * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - low)) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True)
    )
    return (int(red * 0.6), int(green * 0.6), int(blue * 0.6)), (red, green, blue), CRUST


def place_of(class_name: str) -> tuple[float, float]:
    """The middle of a lesion in units of `Canvas`."""
    x, y, _, _ = ANATOMY[class_name].belly
    return x, y + (2.5 if class_name == "elephant" else 0.0)  # below the trunk


def size_of(class_name: str) -> float:
    """How large lesions are, as a factor: bellies differ between classes."""
    return min(ANATOMY[class_name].belly[2:]) / _BELLY


def picture(identity: Identity, setting: Setting, lesion: Lesion) -> Image.Image:
    """What `render` shows, with the lesion; equal arguments give equal pixels."""
    from trainables.embedded.render import draw

    canvas = draw(identity, setting)
    draw_lesion(canvas, lesion, identity.class_name)
    return canvas.finish()


def _outline(
    x: float, y: float, radius: float, ragged: float, spikes: tuple[float, ...]
) -> list[tuple[float, float]]:
    """Corners, in turn further out and further in; `spikes` makes them unequal."""
    points = []
    for (cosine, sine), spike, side in zip(_directions(), spikes, (1, -1) * SPIKES, strict=True):
        reach = radius * (1 + ragged * (0.6 * side + 0.9 * spike))
        points.append((x + reach * cosine, y + reach * sine))
    return points


@cache
def _directions() -> tuple[tuple[float, float], ...]:
    angles = [math.pi * corner / SPIKES for corner in range(2 * SPIKES)]
    return tuple((math.cos(angle), math.sin(angle)) for angle in angles)
