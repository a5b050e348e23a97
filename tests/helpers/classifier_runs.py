"""Runs of classifiers on tiny prepared data sets, in which each class is a colour in noise."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainables.classifier_run_config import ClassifierRunConfig
from trainables.config.class_data import ClassDataConfig
from trainables.data.cache import write_tensors
from trainables.data.generated_images import pack_pictures
from trainables.evaluation.prepared_classes import PreparedClasses, prepare_classes

CLASSES = ("red", "green", "blue")
SIDE = 16


def coloured(label: str, number: int, strength: float = 0.3) -> Image.Image:
    """A picture of noise that is a little of its class's colour; the same for the same number.

    Args:
        label: A class, or anything else for noise alone.
    """
    noise = np.random.default_rng([number, len(label)]).random((SIDE, SIDE, 3)) * (1 - strength)
    if label in CLASSES:
        noise[..., CLASSES.index(label)] += strength
    return Image.fromarray((noise * 255).round().astype(np.uint8))


def prepared(
    folder: Path, counts: Sequence[int] = (20, 20, 20), strength: float = 0.3, **fields: Any
) -> PreparedClasses:
    """A prepared data set with so many images of each class, split half, quarter, quarter."""
    for label, count in zip(CLASSES, counts, strict=True):
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(count):
            coloured(label, number, strength).save(folder / "photos" / label / f"{number:03}.png")
    usual = {"train": 0.5, "validation": 0.25, "test": 0.25}
    config = ClassDataConfig.model_validate({"path": str(folder / "photos"), **usual, **fields})
    return prepare_classes(config, folder=folder / "prepared")


def entries(
    cache: Path, pictures: Mapping[str, Sequence[Image.Image]], at_once: int = 4
) -> list[dict[str, Any]]:
    """Puts pictures of classes into the cache as a generator does, and returns what a configuration says of them."""
    found = []
    for label, some in pictures.items():
        names = []
        for first in range(0, len(some), at_once):
            name = f"generated/{label}-{first}.safetensors"
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            write_tensors(cache / name, pack_pictures(some[first : first + at_once]))
            names.append(name)
        run = f"confirm/lora/0000-{label}-s0"
        found.append({"run": run, "label": label, "entries": names, "images": len(some)})
    return found


def drawn(
    counts: Sequence[int], shown: Sequence[str] = CLASSES, first: int = 1000, strength: float = 0.3
) -> dict[str, list[Image.Image]]:
    """New pictures of each class, which no data set has.

    Args:
        shown: What those of each class show.
        first: Number of the first; pictures of one number and colour are the same.
    """
    return {
        label: [coloured(colour, first + number, strength) for number in range(count)]
        for label, colour, count in zip(CLASSES, shown, counts, strict=True)
    }


def config_of(folder: Path, data: PreparedClasses, name: str = "run", **fields: Any) -> ClassifierRunConfig:
    """A run's configuration; `training` is completed."""
    usual = {
        "network": "small_cnn",
        "max_train_steps": 6,
        "train_batch_size": 8,
        "validation_steps": 2,
        "checkpointing_steps": 2,
    }
    training = {**usual, **fields.pop("training", {})}
    content = {
        "data": str(data.folder),
        "resolution": SIDE,
        "source": "real",
        "device": "cpu",
        "output_dir": str(folder / "runs" / name),
        "cache_dir": str(folder / "cache"),
        "training": training,
        **fields,
    }
    return ClassifierRunConfig.model_validate(content)


def record_of(config: ClassifierRunConfig) -> dict[str, Any]:
    """What ``record.json`` says."""
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "record.json").read_text())
    return content


def result_of(config: ClassifierRunConfig) -> dict[str, Any]:
    """What ``result.json`` says."""
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content


def predictions_of(config: ClassifierRunConfig) -> list[dict[str, str]]:
    """The lines of ``predictions.csv``."""
    with (Path(config.output_dir) / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
