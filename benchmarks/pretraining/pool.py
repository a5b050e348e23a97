"""The pool of pre-rendered pictures that every stage of pre-training reads."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.embedded import world
from trainables.embedded.render import render

VIEWS = 4
PARTS = (world.CLASSES, tuple(world.COLOURS), world.SCENES, world.ACCESSORIES)
PART_NAMES = ("class", "colour", "scene", "accessory")


@dataclass(frozen=True)
class Pool:
    """`images` uint8 [n, 64, 64, 3]; `labels` int64 [n, 4], indices into `PARTS`.

    Consecutive `VIEWS` pictures show one identity in different settings.
    """

    images: np.ndarray
    labels: np.ndarray

    def names(self, index: int) -> tuple[str, str, str, str]:
        """Class, colour, scene and accessory of one picture."""
        a, b, c, d = (part[int(i)] for part, i in zip(PARTS, self.labels[index], strict=True))
        return a, b, c, d


def pool_identity(seed: int, index: int, split: str = "pretrain") -> world.Identity:
    """The identity of pictures `index * VIEWS` and following; classes and colours go in turn."""
    colours = tuple(world.COLOURS)
    rng = world.generator(seed, split, index)
    return world.draw_identity(rng, world.CLASSES[index % 8], colours[index // 8 % 8])


def draw_pool(identities: int, seed: int, split: str, held_out: bool = False) -> Pool:
    """`identities * VIEWS` pictures; classes and colours in turn, settings at random.

    With `held_out` the settings complete combinations that pre-training never sees (where the
    identity's class and colour have one).
    """
    images = np.empty((identities * VIEWS, 64, 64, 3), np.uint8)
    labels = np.empty((identities * VIEWS, 4), np.int64)
    colours = tuple(world.COLOURS)
    for index in range(identities):
        rng = world.generator(seed, split, index)
        class_name = world.CLASSES[index % 8]
        colour = colours[index // 8 % 8]
        identity = world.draw_identity(rng, class_name, colour)
        for view in range(VIEWS):
            setting = world.draw_setting(rng, identity, held_out)
            row = index * VIEWS + view
            images[row] = np.asarray(render(identity, setting))
            values = (class_name, colour, setting.scene, setting.accessory)
            labels[row] = [part.index(v) for part, v in zip(PARTS, values, strict=True)]
    return Pool(images, labels)


def load_pool(folder: Path, identities: int, seed: int) -> Pool:
    """The pool of pre-training, drawn once and kept in `folder` (about 12 kB a picture)."""
    path = folder / f"pool-{identities}-{seed}"
    if not path.exists():
        pool = draw_pool(identities, seed, "pretrain")
        part = path.with_suffix(f".part{os.getpid()}")
        part.mkdir(parents=True)
        np.save(part / "images.npy", pool.images)
        np.save(part / "labels.npy", pool.labels)
        with contextlib.suppress(OSError):  # another stage may have drawn the same pool meanwhile
            part.rename(path)
    return Pool(np.load(path / "images.npy", mmap_mode="r"), np.load(path / "labels.npy"))
