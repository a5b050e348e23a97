"""Folders of small photographs for the tests beside this file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.config.fields import SubjectConfig


def photograph(path: Path | bytes, seed: int) -> None:
    """Writes a PNG whose pixels belong to the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with open(os.fsencode(path), "wb") as file:
        Image.fromarray(pixels).save(file, "png")


def photographs(folder: Path, names: Iterable[str]) -> SubjectConfig:
    """Makes a folder with photographs of these names, each with its own pixels, and returns it as a subject."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        photograph(folder / name, seed)
    return SubjectConfig(
        name="dog", images=str(folder), instance_prompt="a sks dog", class_prompt="a dog", holdout=2
    )
