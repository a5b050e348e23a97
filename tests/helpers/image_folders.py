"""Folders of captioned images for tests: pictures that differ from each other, made from a number."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """A mosaic with sharp edges that no other number gives."""
    draw = np.random.default_rng([17, number])
    small = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.NEAREST)


def write_pictures(folder: Path, names: Iterable[str], first: int = 0) -> list[str]:
    """Writes a picture under each name; sub-folders are made."""
    names = list(names)
    for number, name in enumerate(names, first):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return names


def write_lines(folder: Path, lines: Iterable[Mapping[str, Any] | str]) -> None:
    """Writes ``metadata.jsonl``; a text is a line as it is."""
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def captioned(folder: Path, count: int = 10, **columns: Iterable[Any]) -> Path:
    """A sound folder of `count` pictures, ``00.png`` and so on, with further columns of ``metadata.jsonl``."""
    names = write_pictures(folder, (f"{number:02}.png" for number in range(count)))
    rows: list[dict[str, Any]] = [
        {"file_name": name, "text": f"picture {n}, soft"} for n, name in enumerate(names)
    ]
    for column, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            row[column] = value
    write_lines(folder, rows)
    return folder
