"""Folders of tiny images with classes for tests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from tests.helpers.image_folders import picture, write_pictures
from trainables.data.labelled_images import LabelledImage, labelled


def class_folder(folder: Path, counts: Mapping[str, int]) -> Path:
    """A sub-folder for each class with that number of pictures, ``cat/00.png`` and so on, all of them different."""
    write_pictures(folder, [f"{label}/{n:02}.png" for label, count in counts.items() for n in range(count)])
    return folder


def write_table(folder: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes ``metadata.csv``."""
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def flat_folder(folder: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """Pictures ``00.png`` and so on in the folder itself, and a table of them; cells of a row follow its name."""
    names = write_pictures(folder, [f"{number:02}.png" for number in range(len(rows))])
    write_table(folder, ["file_name", *header], [[name, *row] for name, row in zip(names, rows, strict=True)])
    return folder


def pictures(counts: Mapping[str, int], groups: Sequence[str] = (), first: int = 0) -> list[LabelledImage]:
    """Images in memory with classes and groups, all of them different."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [
        labelled(image_of(first + n), f"{first + n:03}.png", label, groups[n] if groups else "")
        for n, label in enumerate(labels)
    ]


def image_of(number: int) -> Image.Image:
    """A picture of 32 x 32 pixels that no other number gives."""
    return picture(number, (32, 32))
