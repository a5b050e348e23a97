"""Fewer images of each class, chosen by the hash of their pixels: stated imbalances, and subsets for learning curves.

Images of a class have one order, so that fewer are always a part of more, and what an imbalance leaves out comes back
in the order of larger subsets: "what k further real images are worth" is read off one row of nested sets.
Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

from trainables.data.labelled_images import LabelledImage, counts_of

#: Number of images of a class (int), or share of those that there are (float in (0, 1]).
Amount = int | float


def ranked(images: Iterable[LabelledImage], seed: int) -> list[LabelledImage]:
    """Returns images in the order in which smaller sets are filled: that of the hashes of seed and pixels."""
    return sorted(images, key=lambda image: (_hash(seed, image), image.name))


def thinned(
    images: Sequence[LabelledImage], amounts: Mapping[str, Amount], seed: int
) -> tuple[tuple[LabelledImage, ...], list[str]]:
    """Returns the images that a stated imbalance keeps, in their order, and what is wrong with it.

    Args:
        images: To train on; no others may be dropped.
        amounts: Of each class that is to have fewer; the others keep all.
    """
    counts = counts_of(images, sorted({image.label for image in images}))
    unknown = [repr(label) for label in amounts if label not in counts]
    problems = [f"imbalance: no class {label}; it has {', '.join(map(repr, counts))}" for label in unknown]
    known = {label: amount for label, amount in amounts.items() if label in counts}
    problems += [
        f"imbalance of {label!r}: {problem}"
        for label, amount in known.items()
        if (problem := _amount_problem(amount, counts[label])) is not None
    ]
    if problems:
        return tuple(images), problems
    wanted = {label: _count(known.get(label, 1.0), count) for label, count in counts.items()}
    return _first_of_each(images, wanted, seed), []


def nested_subsets(
    images: Sequence[LabelledImage], amounts: Sequence[Amount], seed: int
) -> tuple[tuple[tuple[LabelledImage, ...], ...], list[str]]:
    """Returns a subset for each amount, each of which holds the ones of smaller amounts, and what is wrong with these.

    Args:
        images: To train on.
        amounts: Of every class: that number of images, or that share.
    """
    counts = counts_of(images, sorted({image.label for image in images}))
    problems = [
        f"subset of {amount} of each class: {problem}" + (f" (class {label!r})" if count else "")
        for amount in amounts
        for label, count in [min(counts.items(), key=lambda item: item[1])]
        if (problem := _amount_problem(amount, count)) is not None
    ]
    if problems:
        return (), problems
    return tuple(
        _first_of_each(images, {label: _count(amount, count) for label, count in counts.items()}, seed)
        for amount in amounts
    ), []


def _first_of_each(
    images: Sequence[LabelledImage], wanted: Mapping[str, int], seed: int
) -> tuple[LabelledImage, ...]:
    """The first images of each class in the order of `ranked`; they are returned in the order given."""
    left, kept = dict(wanted), set()
    for number in sorted(range(len(images)), key=lambda n: (_hash(seed, images[n]), images[n].name)):
        if left[images[number].label] > 0:
            left[images[number].label] -= 1
            kept.add(number)
    return tuple(image for number, image in enumerate(images) if number in kept)


def _count(amount: Amount, there: int) -> int:
    """How many of a class's images an amount is; of a share the nearest number, the larger of two, one at least."""
    return amount if isinstance(amount, int) else max(1, math.floor(amount * there + 0.5))


def _amount_problem(amount: Amount, there: int) -> str | None:
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return f"{amount!r} is neither a number of images nor a share"
    if isinstance(amount, float):
        return None if 0 < amount <= 1 else f"{amount:g} is no share; it must be above 0 and at most 1"
    if amount < 1:
        return f"{amount} images; at least one of each class is needed"
    return None if amount <= there else f"{amount} images; there are {there} to train on"


def _hash(seed: int, image: LabelledImage) -> str:
    return hashlib.sha256(f"{seed}/subset/{image.digest}".encode()).hexdigest()
