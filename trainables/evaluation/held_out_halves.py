"""Which held-out images of a run choose its step, and which judge its result, where it restores its best step.

The halves of a data set share no group and no caption: takes of one picture, and pictures that are asked for by one
caption, are no independent samples. What is alike in either way is one unit. Units are dealt out one by one, those of a
character together, large ones first and those of one size in the order of the hashes of their captions. Each goes to
the half that has less of what it shows, so that every character with two units is in both halves, and both have
captions of the search and of the confirm phase wherever there are enough. Needs no torch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.evaluation.held_out_captions import caption_key, phases_of
from trainables.util.text import same_name


@dataclass(frozen=True)
class Halves:
    """Numbers of held-out images, ascending.

    Attributes:
        judging: Those that judge the result; not empty, unless there are no images.
        choosing: Those that choose the step; empty where there is one unit alone.
    """

    judging: tuple[int, ...]
    choosing: tuple[int, ...]


def every_second(count: int) -> Halves:
    """Returns the halves of a subject's references: every second one chooses, from the second on."""
    return Halves(tuple(range(0, count, 2)), tuple(range(1, count, 2)))


def deal_out(captions: Sequence[str], characters: Sequence[str], groups: Sequence[str]) -> Halves:
    """Returns the halves of a data set's held-out images, the same whatever their order and the names of groups.

    Args:
        captions: Of all of its held-out images, without the trigger.
        characters: Whom each shows; empty where nobody is named.
        groups: To which each belongs; empty where each is by itself.
    """
    keys, phases = [caption_key(caption) for caption in captions], phases_of(captions, characters)
    shown = characters or ("",) * len(keys)
    units = [(_order(rows, keys, shown), rows) for rows in _units(keys, groups)]
    halves: tuple[list[int], list[int]] = ([], [])
    images: tuple[Counter[str], Counter[str]] = (Counter(), Counter())  # of characters
    asked: tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]] = (Counter(), Counter())  # captions
    for _, rows in sorted(units):
        who = {shown[row] for row in rows}
        spoken = {keys[row]: phases[row] for row in rows}
        cells = Counter((name, phase) for name in who for phase in spoken.values())
        least = min(
            range(2),
            key=lambda half: (
                sum(asked[half][cell] for cell in cells),
                sum(images[half][name] for name in who),
                sum(number for (_, phase), number in asked[half].items() if phase in spoken.values()),
                len(halves[half]),
                half,
            ),
        )
        halves[least].extend(rows)
        images[least].update(shown[row] for row in rows)
        asked[least].update(cells)
    return Halves(*(tuple(sorted(rows)) for rows in halves))


def unit_numbers(captions: Sequence[str], groups: Sequence[str]) -> tuple[int, ...]:
    """Returns a number for each held-out image, the same for those that are no independent samples.

    Args:
        captions: Of all of them, without the trigger.
        groups: To which each belongs; empty where each is by itself.
    """
    numbers = [0] * len(captions)
    for number, rows in enumerate(_units([caption_key(caption) for caption in captions], groups)):
        for row in rows:
            numbers[row] = number
    return tuple(numbers)


def _units(keys: Sequence[str], groups: Sequence[str]) -> list[list[int]]:
    """Images that are of one group or have one caption, directly or through others."""
    above = list(range(len(keys)))

    def root(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for names in (keys, [same_name(group) for group in groups]):
        first: dict[str, int] = {}
        for row, name in enumerate(names):
            above[root(row)] = root(first.setdefault(name, row))
    units: dict[int, list[int]] = {}
    for row in range(len(keys)):
        units.setdefault(root(row), []).append(row)
    return list(units.values())


def _order(rows: Sequence[int], keys: Sequence[str], shown: Sequence[str]) -> tuple[list[str], int, str]:
    # Small ones after the large ones even the halves out.
    return sorted({shown[row] for row in rows}), -len(rows), _hash(sorted({keys[row] for row in rows}))


def _hash(captions: Sequence[str]) -> str:
    # Not the hash by which captions are dealt out to search and confirm: the two must not go together.
    return hashlib.sha256("\n".join(("held-out half", *captions)).encode()).hexdigest()
