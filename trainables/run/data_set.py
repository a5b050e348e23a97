"""What is wrong with images together, or probably not meant: leaks, duplicates, blur, sizes.

Each image by itself is looked at by ``trainables/data/subjects.py``; here it is compared with the others, and with
what will be made of it. What comes with the project has no faults of this kind, and is passed over.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from trainables.config.fields import SubjectConfig
from trainables.data.buckets import Size, enlargement, nearest_bucket
from trainables.data.data_sets import split_of
from trainables.data.images import fingerprint_of, list_images, read_image, square, thumbnail
from trainables.data.path_map import folder_of
from trainables.data.sharpness import blur_limit, blur_of
from trainables.data.subjects import hold_out
from trainables.errors import UserError
from trainables.evaluation.copies import SIDE
from trainables.evaluation.near_copies import groups_of, near_pairs
from trainables.util.text import shown, some

_LARGEST = 512  # pixels at which blur is looked at, at most: what it is calibrated up to
_COUNTS = (
    "mirrored, recompressed, brightened and slightly shifted copies count, "
    "and what is cut off along the longer side"
)
_NAMES_OF_DATA_SET = 8  # of images in one message
_KEPT = 20_000  # photographs whose looks are remembered, 15 kB each: one study is looked at several times


@dataclass(frozen=True)
class _Look:
    """A photograph as it is compared.

    Attributes:
        size: Width and height of the upright image, in pixels.
        digest: The same for two files that show the same pixels.
        small: The whole of it, its shorter side `copies.SIDE` pixels.
        blur: See `blur_of`; `limit` likewise.
    """

    path: Path
    size: tuple[int, int]
    digest: str
    small: Image.Image
    blur: float
    limit: float

    @property
    def name(self) -> str:
        """The file's name as it can be shown."""
        return shown(self.path.name)


def leaks(config: SubjectConfig, resolution: int | None = None) -> list[str]:
    """Returns which held-out photographs are nearly the same picture as one that is trained on, or cut from one (see
    `near_copies` for what is found), one message each.

    Those that show the very same pixels are told by `check_subject`, and so is what cannot be read.

    Args:
        resolution: As for `data_set_notes`, which then need not read the files again.
    """
    training, references = _looks(config, resolution)
    near = _near(references, training)
    if not config.is_data_set:
        return [
            f"subject {config.name!r}: {shown(str(reference.path))} is nearly the same picture as "
            f"{', '.join(one.name for one in alike)}, which is trained on ({_COUNTS}); references must be held out, or "
            "fidelity to them is memory: remove one of them"
            for reference, alike in near
        ]
    if not near:
        return []
    # One message for all of them, since a data set may have hundreds, and what is to be done is the same.
    found = [f"{reference.name} (as {some([one.name for one in alike], 3)})" for reference, alike in near]
    return [
        f"data set {config.name!r}: nearly the same picture is trained on and held out ({_COUNTS}): {some(found)}; "
        "fidelity to it would be memory: give both one value in a column and name that in dataset.group_column, or "
        "remove one"
    ]


def data_set_notes(config: SubjectConfig, resolution: int | None, buckets: Sequence[Size] = ()) -> list[str]:
    """Returns what is allowed of a subject's photographs, but probably not meant, one note each.

    Args:
        resolution: Pixels that runs train at; None where it is not known, which leaves sizes out.
        buckets: Of that resolution, of which every run cuts training images to the nearest; none: squares.
    """
    training, references = _looks(config, resolution)
    begin = f"{'data set' if config.is_data_set else 'subject'} {config.name!r}: "
    shown_at_most = _NAMES_OF_DATA_SET if config.is_data_set else len(training) + len(references)
    said = [
        f"{begin}{_listed(group)} are nearly the same picture, which is {what} than the others; remove all but one"
        for looks, what in (
            (training, "trained on more often"),
            (references, "counted more often in every score"),
        )
        for group in _groups(looks)
    ]
    if len(said) > shown_at_most:
        said = [*said[:shown_at_most], f"{begin}and {len(said) - shown_at_most} more groups of such pictures"]
    seen = (*training, *references)
    small = [one for one in (references if buckets else seen) if resolution and min(one.size) < resolution]
    if small:
        sizes = some([f"{one.name} ({one.size[0]} x {one.size[1]})" for one in small], shown_at_most)
        what = "held-out images are cut to" if buckets else "runs train at"
        said.append(
            f"{begin}smaller than the {resolution} pixels that {what}, so that they are enlarged, and the blur "
            f"of that {'counts' if buckets else 'is learnt'}: {sizes}; take larger photographs, or a smaller "
            "training.resolution"
        )
    said += _below_their_buckets(training, buckets, begin)
    for limit in sorted({one.limit for one in seen}):
        blurred = [f"{one.name} ({one.blur:.2f})" for one in seen if one.limit == limit and one.blur > limit]
        if blurred:
            said.append(
                f"{begin}blurred at the size that runs train at: {some(blurred, shown_at_most)}, where sharp "
                f"photographs have less than {limit:g} (Crete et al. 2007); what is trained on them draws so: take "
                "sharper ones"
            )
    return said


def _near(references: Sequence[_Look], training: Sequence[_Look]) -> list[tuple[_Look, list[_Look]]]:
    """Held-out photographs with those that are trained on and nearly the same; without those whose very pixels are."""
    alike: dict[int, list[_Look]] = {}
    for row, column in near_pairs(
        [one.small for one in references], [one.small for one in training]
    ).tolist():
        alike.setdefault(row, []).append(training[column])
    return [
        (references[row], found)
        for row, found in sorted(alike.items(), key=lambda item: item[0])
        if all(one.digest != references[row].digest for one in found)
    ]


def _groups(looks: Sequence[_Look]) -> list[list[_Look]]:
    """Photographs that are copies of each other, two and more."""
    small = [one.small for one in looks]
    pairs = near_pairs(small, small, cuts=False)  # two cuts of one picture on one side show different things
    return [[looks[number] for number in group] for group in groups_of(len(looks), pairs)]


def _listed(looks: Iterable[_Look]) -> str:
    names = [one.name for one in looks]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def training_sizes(config: SubjectConfig, resolution: int | None = None) -> tuple[tuple[int, int], ...]:
    """Returns width and height of the images that are trained on, before they are cut; without those that cannot be
    read, and without what comes with the project.

    Args:
        resolution: As for `data_set_notes`, which then need not read the files again.
    """
    return tuple(look.size for look in _looks(config, resolution)[0])


def _looks(
    config: SubjectConfig, resolution: int | None = None
) -> tuple[tuple[_Look, ...], tuple[_Look, ...]]:
    """Training photographs and references that can be read; those of the embedded world have none."""
    if config.dataset is not None:
        split, _ = split_of(config)
        training, references = (
            _looks_at([entry.path for entry in side], resolution)
            for side in (split.training, split.references)
        )
        return training, references
    if config.images is None:
        return (), ()
    paths, _ = list_images(folder_of(config.images))
    if config.references is not None:
        held_out, _ = list_images(folder_of(config.references))
    else:
        names = hold_out([path.name for path in paths], config.holdout)
        held_out = [path for path in paths if path.name in names]
        paths = [path for path in paths if path.name not in names]
    return _looks_at(paths, resolution), _looks_at(held_out, resolution)


def _below_their_buckets(looks: Sequence[_Look], buckets: Sequence[Size], begin: str) -> list[str]:
    found = [(one, nearest_bucket(one.size, buckets)) for one in looks] if buckets else []
    small = [
        f"{one.name} ({one.size[0]} x {one.size[1]}, to {bucket[0]} x {bucket[1]})"
        for one, bucket in found
        if enlargement(one.size, bucket) > 1
    ]
    if not small:
        return []
    return [
        f"{begin}smaller than the aspect-ratio buckets that runs train at, so that they are enlarged, and the blur of "
        f"that is learnt: {some(small, _NAMES_OF_DATA_SET)}; take larger photographs, or a smaller training.resolution"
    ]


def _looks_at(paths: Sequence[Path], resolution: int | None) -> tuple[_Look, ...]:
    found = []
    for path in paths:
        with suppress(UserError, OSError):  # told by `check_subject`
            state = path.stat()
            found.append(_look(path, state.st_mtime_ns, state.st_size, min(resolution or _LARGEST, _LARGEST)))
    return tuple(found)


@functools.lru_cache(maxsize=_KEPT)
def _look(path: Path, changed: int, length: int, side: int) -> _Look:
    """Looks at a photograph; time and length of the file say whether it is still that one."""
    image = read_image(path)
    # Enlarging would make it blurred, which is told as what it is.
    seen = square(image, min(side, *image.size))
    digest, small = fingerprint_of(image), thumbnail(image, SIDE)
    return _Look(path, image.size, digest, small, blur_of(seen), blur_limit(seen))
