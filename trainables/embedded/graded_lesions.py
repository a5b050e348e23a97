"""The data sets ``graded-lesions``: creatures of one class with a lesion of score 1 to 4, few of the high scores.

``graded-lesions`` shows cats, ``graded-lesions-2`` dogs, and so on to ``graded-lesions-8``, which shows turtles.
Everything is drawn from fixed seeds. Animals are groups: each appears in several pictures, and its scores are alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainables.embedded.captions import full_caption
from trainables.embedded.lesions import SCORES, THRESHOLDS, WORST, Lesion, draw_look, picture, score_of
from trainables.embedded.world import (
    ACCESSORIES,
    CLASSES,
    RGB,
    SCENES,
    Identity,
    Setting,
    draw_identity,
    generator,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

#: Name -> class of its animals.
GRADED_LESIONS = {
    "graded-lesions" + ("" if number == 1 else f"-{number}"): class_name
    for number, class_name in enumerate(CLASSES, 1)
}
#: Shares of the scores 1 to 4: imbalanced as medical sets are, though of none in particular.
SHARES = (0.55, 0.25, 0.14, 0.06)
IMAGES, ANIMALS = 600, 60
#: Correlation of what two pictures of one animal are scored by, before it is cut into scores.
ALIKE = 0.3
#: Bellies on which the palest lesion is seen.
SKINS: tuple[RGB, ...] = ((250, 244, 228), (250, 206, 120), (150, 214, 240), (170, 226, 150))
_WORN = tuple(one for one in ACCESSORIES if one != "scarf")  # which hangs over the belly
_SEED = 2024
_MOST_ANIMALS, _MOST_PICTURES = 10_000, 1_000  # of a set, of an animal: streams of two sets never meet
_FURTHER = 5_000  # first animal of `further_pictures`


@dataclass(frozen=True)
class LesionPicture:
    """One picture, known without drawing it.

    Attributes:
        name: The animal and which of its pictures it is, e.g. "animal-007-03".
        animal: The group, e.g. "animal-007".
        severity: 0 to 4; `lesions.THRESHOLDS` cut it into scores.
    """

    name: str
    animal: str
    severity: float
    identity: Identity
    setting: Setting
    lesion: Lesion

    @property
    def score(self) -> int:
        """1 to 4."""
        return score_of(self.severity)

    @property
    def caption(self) -> str:
        """All that captions name, e.g. "a white cat in the snow wearing a hat"; never the lesion."""
        who = self.identity
        return full_caption(who.class_name, who.colour, self.setting.scene, self.setting.accessory)

    def draw(self) -> Image.Image:
        """The picture, 64x64 RGB."""
        return picture(self.identity, self.setting, self.lesion)


def lesion_pictures(
    name: str = "graded-lesions",
    images: int = IMAGES,
    animals: int = ANIMALS,
    shares: Sequence[float] = SHARES,
) -> tuple[LesionPicture, ...]:
    """The pictures of a set, the first of each animal, then the second of each, and so on.

    How ill an animal's part is, is partly the animal's (`ALIKE`) and partly the picture's, both normal. The pictures
    are ranked by it, and cut into scores so that each has its share to the picture (largest remainders). Within a
    score severities are spread evenly, in the order of the ranks.

    Args:
        name: Of `GRADED_LESIONS`.
        images: At most 1,000 an animal.
        animals: At most 5,000, no more than images. A set of more begins with the same animals in the same settings,
            whose severities are others.
        shares: Of the scores 1 to 4; they add up to 1.

    Raises:
        ValueError: An argument is none of these; the message names all of them.
    """
    import numpy as np

    _check(name, images, animals, shares)
    drafts = [_Draft(name, number % animals, number // animals) for number in range(images)]
    illness = np.array([one.illness for one in drafts])
    severities = np.empty(images)
    bounds, first = (0.0, *THRESHOLDS, WORST), 0
    ranked = np.argsort(illness, kind="stable")
    for score, count in zip(SCORES, counts_of(images, shares), strict=True):
        low, high = bounds[score - 1 : score + 1]
        for place, number in enumerate(ranked[first : first + count]):
            severities[number] = low + (high - low) * (place + drafts[number].within) / count
        first += count
    return tuple(draft.picture(float(value)) for draft, value in zip(drafts, severities, strict=True))


def further_pictures(name: str, score: int, count: int) -> tuple[LesionPicture, ...]:
    """Pictures of one score, as a perfect generator of it would make them: each of another animal, none of the set's.

    Args:
        name: Of `GRADED_LESIONS`.
        score: 1 to 4.
        count: At most 5,000. More begin with the same ones.

    Raises:
        ValueError: An argument is none of these; the message names all of them.
    """
    problems = _name_problems(name)
    if score not in SCORES:
        problems.append(f"the score must be {SCORES[0]} to {SCORES[-1]}, not {score}")
    if not 0 <= count <= _MOST_ANIMALS - _FURTHER:
        problems.append(f"the count must be 0 to {_MOST_ANIMALS - _FURTHER}, not {count}")
    if problems:
        raise ValueError("\n".join(problems))
    low, high = (0.0, *THRESHOLDS, WORST)[score - 1 : score + 1]
    drafts = [_Draft(name, _FURTHER + number, score) for number in range(count)]
    return tuple(draft.picture(low + (high - low) * draft.within) for draft in drafts)


def counts_of(images: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Pictures of each score: by shares, the remaining ones to the largest remainders, of equal ones to the first."""
    # Rounded, so that .14 of 600 is 84 and not 84.00000000000001.
    exact = [round(share * images, 9) for share in shares]
    counts = [math.floor(one) for one in exact]
    order = sorted(range(len(exact)), key=lambda place: (counts[place] - exact[place], place))
    for place in order[: images - sum(counts)]:
        counts[place] += 1
    return tuple(counts)


class _Draft:
    """All of a picture but its severity."""

    def __init__(self, name: str, animal: int, number: int) -> None:
        first = (tuple(GRADED_LESIONS).index(name) * _MOST_ANIMALS + animal) * (_MOST_PICTURES + 1)
        of_animal = generator(_SEED, "lesions", first)
        self.rng = generator(_SEED, "lesions", first + 1 + number)
        tendency = float(of_animal.standard_normal())
        self.illness = math.sqrt(ALIKE) * tendency + math.sqrt(1 - ALIKE) * float(self.rng.standard_normal())
        self.within = float(self.rng.uniform())
        self.identity = _draw_animal(of_animal, GRADED_LESIONS[name])
        self.setting = _draw_setting(self.rng)
        self.animal = f"animal-{animal:03}"
        self.name = f"{self.animal}-{number:02}"

    def picture(self, severity: float) -> LesionPicture:
        lesion = draw_look(self.rng, severity)
        return LesionPicture(self.name, self.animal, severity, self.identity, self.setting, lesion)


def _draw_animal(rng: np.random.Generator, class_name: str) -> Identity:
    """A creature without a mark, whose place the lesion takes, and with a belly of `SKINS`."""
    while True:
        identity = draw_identity(rng, class_name)
        if identity.secondary in SKINS:
            return replace(identity, mark="none")


def _draw_setting(rng: np.random.Generator) -> Setting:
    scene, worn = (options[int(rng.integers(len(options)))] for options in (SCENES, _WORN))
    return Setting(scene, worn, int(rng.integers(2**31)))


def _name_problems(name: str) -> list[str]:
    if name in GRADED_LESIONS:
        return []
    return [f"no data set {name!r} has graded lesions; there are: {', '.join(GRADED_LESIONS)}"]


def _check(name: str, images: int, animals: int, shares: Sequence[float]) -> None:
    problems = _name_problems(name)
    if not 1 <= animals <= _FURTHER:
        problems.append(f"animals must be 1 to {_FURTHER}, not {animals}")
    elif not animals <= images <= animals * _MOST_PICTURES:
        problems.append(
            f"images must be {animals} to {animals * _MOST_PICTURES} for {animals} animals, not {images}"
        )
    if len(shares) != len(SCORES) or not math.isclose(sum(shares), 1, abs_tol=1e-6) or min(shares) < 0:
        problems.append(
            f"shares must be {len(SCORES)} numbers, none below 0, that add up to 1, not {tuple(shares)}"
        )
    elif images > 0 and 0 in (counts := counts_of(images, shares)):
        without = ", ".join(str(score) for score, count in zip(SCORES, counts, strict=True) if count == 0)
        problems.append(
            f"of {images} images none would have the score {without}; ask for more images or another share"
        )
    if problems:
        raise ValueError("\n".join(problems))
