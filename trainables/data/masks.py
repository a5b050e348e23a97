"""Masks: where training images show what is taught, from a folder or from the images' own transparency.

Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainables.config.fields import ALPHA
from trainables.data.buckets import Size, cut
from trainables.data.images import read_mask
from trainables.data.stored_images import ImageStore, StoredImage
from trainables.errors import UserError
from trainables.util.text import same_name, shown, some

_RULE = "masked_loss: true needs to know where each training image shows the subject"


@dataclass(frozen=True)
class Masked:
    """An image that needs a mask.

    Attributes:
        name: Of its file below its folder; the mask bears it too, whatever its suffix.
        size: Width and height of the upright image.
        bucket: To which it is cut, and its mask with it.
    """

    path: Path
    name: str
    size: Size
    bucket: Size


@dataclass(frozen=True)
class MaskFolder:
    """What lies in a folder of masks.

    Attributes:
        files: By their names below the folder.
        problems: What is wrong with the folder itself.
    """

    place: str
    files: Mapping[str, Path]
    problems: Sequence[str] = ()

    def without_image(self, images: Iterable[str]) -> list[str]:
        """Names masks beside which no image lies, trained on or held out: of an image that was lost or renamed.

        Args:
            images: Names of all images' files below their folders.
        """
        known = set(map(_stem, images))
        alone = [shown(name) for name in self.files if _stem(name) not in known]
        if not alone:
            return []
        return [
            f"in {self.place} {some(alone)}: a mask without its image; add the image, or take the mask out of the "
            "folder"
        ]


def read_masks(
    folder: MaskFolder | None, images: Sequence[Masked]
) -> tuple[tuple[StoredImage, ...], list[str]]:
    """Returns the mask of each image, cut and resized like it, and everything that is wrong with masks.

    Args:
        folder: None: the images' own transparency.
    """
    files: dict[str, list[Path]] = {}
    for name, path in (folder.files if folder is not None else {}).items():
        files.setdefault(_stem(name), []).append(path)
    masks: list[StoredImage] = []
    missing: list[str] = []
    problems: list[str] = []
    store = ImageStore()
    for image in images:
        found = files.get(_stem(image.name), []) if folder is not None else [image.path]
        if len(found) != 1:
            missing.append(shown(_stem(image.name)) + (f" ({len(found)} files)" if found else ""))
            continue
        try:
            mask = cut(read_mask(found[0], image.size, alpha=folder is None), image.bucket)
        except UserError as error:
            problems += error.problems
            continue
        if not mask.getextrema()[1]:
            part = "central square" if image.bucket[0] == image.bucket[1] else "part that is trained on"
            problems.append(
                f"{shown(str(found[0]))}: marks nothing of the {part}; white (255) is the subject"
            )
        masks.append(store.keep(mask))
    if folder is not None and missing and not folder.problems:
        problems.append(
            f"{_RULE}; in {folder.place} there is not one mask of the name of: {', '.join(missing)}"
        )
    return tuple(masks), problems


def no_masks(field: str) -> str:
    """Says that masks are needed and none are named.

    Args:
        field: What names them.
    """
    return f"{_RULE}; give a folder of masks ({field}: PATH), or {field}: {ALPHA}"


def _stem(name: str) -> str:
    return same_name(str(PurePosixPath(name).with_suffix("")))
