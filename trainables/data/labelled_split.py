"""Splits images with classes into those that are trained on, validated and tested with.

A split is drawn by groups, alike for all classes as far as groups allow, and by the pixels of the images and a seed:
names and order of files do not count, so that it is the same on every machine. Or a file gives it, and it is checked.
Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from trainables.data.labelled_images import LabelledImage, LabelledSet, counts_of
from trainables.data.labelled_metadata import PARTS
from trainables.util.text import shown, some

_SAME = 1e-6  # by how much shares may miss 1
_NEAR_ENOUGH = 0.05  # by how much a part's share of the images may miss what is asked for without a note


@dataclass(frozen=True)
class Shares:
    """Shares of all images that the parts of a split have; each above 0, together 1."""

    train: float = 0.7
    validation: float = 0.15
    test: float = 0.15

    def problems(self) -> list[str]:
        """Returns what is wrong with them."""
        shares = {each.name: getattr(self, each.name) for each in fields(self)}
        found = [
            f"split: the share of {name} is {share}; it must be above 0, since each part is needed"
            for name, share in shares.items()
            if not share > 0
        ]
        total = sum(shares.values())
        if not found and not abs(total - 1) <= _SAME:
            listed = ", ".join(f"{name} {share:g}" for name, share in shares.items())
            found.append(f"split: the shares come to {total:g} ({listed}); they must come to 1")
        return found


@dataclass(frozen=True)
class Parts:
    """The images of each part of a split, in the order of their names."""

    train: tuple[LabelledImage, ...] = ()
    validation: tuple[LabelledImage, ...] = ()
    test: tuple[LabelledImage, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, tuple[LabelledImage, ...]]]:
        return ((name, getattr(self, name)) for name in PARTS)


def split_images(
    found: LabelledSet, shares: Shares | None, seed: int, groups: Sequence[str] | None = None
) -> tuple[Parts, list[str], list[str]]:
    """Splits images, and returns the parts, what is wrong with them, and what is to be known of them.

    Where images have parts already, these are taken, and shares and seed change nothing. Every part has every class, or
    that is a problem; so is a group that a given split divides.

    Args:
        shares: Asked for; None: those of `Shares`.
        groups: For each image, in place of its own group; empty text: it is by itself.
    """
    images = found.images
    shares = shares or Shares()
    names = list(groups) if groups is not None else [image.group for image in images]
    if any(image.part for image in images):
        parts = _by_part(images, [image.part for image in images])
        problems = _undecided(images) + _divided_groups(images)
        return parts, problems + _classes_missing(parts, found), []
    problems = shares.problems() + _too_few(found, names)
    if problems or not images:
        return Parts(), problems, []
    keys = _content_keys(images, names, seed)
    members: dict[str, Counter[str]] = {}
    for key, image in zip(keys, images, strict=True):
        members.setdefault(key, Counter())[image.label] += 1
    where = _deal(members, found.classes, [getattr(shares, name) for name in PARTS])
    parts = _by_part(images, [PARTS[where[key]] for key in keys])
    return parts, _classes_missing(parts, found), _share_notes(parts, shares)


def _by_part(images: Sequence[LabelledImage], where: Sequence[str]) -> Parts:
    pairs = list(zip(images, where, strict=True))
    return Parts(*(tuple(image for image, part in pairs if part == name) for name in PARTS))


def _content_keys(images: Sequence[LabelledImage], groups: Sequence[str], seed: int) -> list[str]:
    """A hash for each image, from the pixels of all images that must stay with it, and the seed.

    Images without a group stay with those that have the same pixels.
    """
    units = [
        ("group", group) if group else ("pixels", image.digest)
        for image, group in zip(images, groups, strict=True)
    ]
    digests: dict[tuple[str, str], list[str]] = {}
    for unit, image in zip(units, images, strict=True):
        digests.setdefault(unit, []).append(image.digest)
    keys = {
        unit: hashlib.sha256("/".join([str(seed), "split", *sorted(members)]).encode()).hexdigest()
        for unit, members in digests.items()
    }
    return [keys[unit] for unit in units]


def _deal(
    members: Mapping[str, Counter[str]], classes: Sequence[str], shares: Sequence[float]
) -> dict[str, int]:
    """The number of the part that each group gets.

    Large groups come first, those of about one size by their hashes, and each goes where it brings the numbers of
    images, of each class and of all, nearest to what they should be: the sum of ``(number - target)^2 / target`` grows
    least (for single images this is Webster's method of apportionment, class by class). A target is one image at least.
    Then groups that are alike change places, so that those with the smallest hashes are tested with, the next ones
    validated with: an added image hardly changes a split.

    Args:
        members: Number of images of each class, by the hash of the group.
        shares: Of the parts; the first one is trained on.
    """
    sizes = {key: np.array([who[label] for label in classes] + [who.total()]) for key, who in members.items()}
    total = np.sum(list(sizes.values()), axis=0)
    held_out = np.maximum(1.0, np.outer(shares[1:], total))
    targets = np.concatenate([np.maximum(1.0, total - held_out.sum(axis=0))[None], held_out])
    got = np.zeros_like(targets)
    dealt: dict[bytes, Counter[int]] = {}
    for key in sorted(members, key=lambda key: (-members[key].total().bit_length(), key)):
        size = sizes[key]
        growth = size * (2 * (got - targets) + size) / targets
        # Exact sums, since the order of additions is not the same on all processors.
        part = min(range(len(shares)), key=[math.fsum(row) for row in growth.tolist()].__getitem__)
        got[part] += size
        dealt.setdefault(size.tobytes(), Counter())[part] += 1
    places = {
        size: iter([part for part in reversed(range(len(shares))) for _ in range(counts[part])])
        for size, counts in dealt.items()
    }
    return {key: next(places[sizes[key].tobytes()]) for key in sorted(members)}


def _too_few(found: LabelledSet, groups: Sequence[str]) -> list[str]:
    """Classes that cannot be in all three parts."""
    units: dict[str, set[str]] = {}
    for image, group in zip(found.images, groups, strict=True):
        units.setdefault(image.label, set()).add(f"group {group}" if group else image.digest)
    problems = []
    for label, count in found.counts.items():
        groups_there = len(units.get(label, ()))
        if not 0 < groups_there < len(PARTS):
            continue
        images = "1 image" if count == 1 else f"{count} images"
        of = (
            ""
            if groups_there == count
            else f" of {groups_there} group{'s' * (groups_there != 1)} or different pictures"
        )
        problems.append(
            f"class {label!r} has {images}{of}; each of {', '.join(PARTS)} needs one that is in no other: add images, "
            "or take the class out"
        )
    return problems


def _undecided(images: Sequence[LabelledImage]) -> list[str]:
    bare = [shown(image.name) for image in images if image.part not in PARTS]
    return (
        [f"images without a split: {some(bare)}; say {', '.join(PARTS[:-1])} or {PARTS[-1]} of each"]
        if bare
        else []
    )


def _divided_groups(images: Sequence[LabelledImage]) -> list[str]:
    """Groups of which a given split has images in several parts."""
    where: dict[str, dict[str, str]] = {}
    for image in images:
        if image.group:
            where.setdefault(image.group, {}).setdefault(image.part, image.name)
    divided = [
        f"{group!r} ({', '.join(f'{part}: {shown(name)}' for part, name in parts.items())})"
        for group, parts in sorted(where.items())
        if len(parts) > 1
    ]
    if not divided:
        return []
    return [
        f"groups that span several parts of the split: {some(divided)}; images of a group are alike, so that what is "
        "learnt of one tells of another: put all of a group into one part"
    ]


def _classes_missing(parts: Parts, found: LabelledSet) -> list[str]:
    problems = []
    for name, images in parts:
        missing = [repr(label) for label, count in counts_of(images, found.classes).items() if not count]
        if missing:
            problems.append(
                f"classes without an image in {name}: {some(missing)}; put some there, or where the split is drawn, "
                "add images or groups of these classes"
            )
    return problems


def _share_notes(parts: Parts, shares: Shares) -> list[str]:
    total = sum(len(images) for _, images in parts)
    got = {name: len(images) / total for name, images in parts}
    wanted = {name: getattr(shares, name) for name in PARTS}
    off = [name for name in PARTS if abs(got[name] - wanted[name]) > _NEAR_ENOUGH]
    if not off:
        return []
    listed = ", ".join(f"{name} {got[name]:.0%} (asked for: {wanted[name]:.0%})" for name in off)
    return [
        f"the split has other shares than asked for, since groups stay whole and every part has every class: {listed}"
    ]
