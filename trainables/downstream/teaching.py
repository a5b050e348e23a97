"""What a classifier's run learns from and is judged by: images that were read, checked for leaks, counted, filtered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.classifier_run_config import ClassifierRunConfig
from trainables.classifiers.images import TensorImages, TrainingData
from trainables.config.classifiers import ClassifierConfig
from trainables.data.cache import Cache
from trainables.data.labelled_images import LabelledImage, counts_of
from trainables.data.labelled_tensors import load_labelled
from trainables.downstream.generated import (
    FilterCost,
    confidences,
    generated_images,
    near_training,
    require_left,
)
from trainables.downstream.leaks import check_leaks
from trainables.downstream.real_images import real_images
from trainables.evaluation.class_data_sets import ClassDataSet
from trainables.evaluation.prepared_classes import PreparedClasses, prepared_at, read_prepared
from trainables.training.meter import Meter


@dataclass(frozen=True)
class Teaching:
    """Everything that a classifier's run needs of its data set.

    Attributes:
        training: The configuration with the chance of generated images as it is drawn by.
        data: To train on and to choose by.
        split: The data set, for names and groups of held-out images.
        test: None in runs of a search: their test images are not even resized.
        counted: What ``record.json`` says of the images.
        filter_cost: Of a filter's own classifier.
    """

    prepared: PreparedClasses
    training: ClassifierConfig
    data: TrainingData
    split: ClassDataSet
    test: TensorImages | None
    counted: dict[str, Any]
    filter_cost: FilterCost


def prepare_teaching(config: ClassifierRunConfig, device: torch.device, meter: Meter) -> Teaching:
    """Reads and checks all images of a run.

    Args:
        meter: Is told what waiting for a filter's classifier took, which is charged by what training it took, whoever
            trained it.

    Raises:
        UserError: Held-out images would be learnt from, generated ones are gone, or files cannot be read.
        InputsChanged: Files are not those that were split.
    """
    prepared = prepared_at(Path(config.data))
    split = read_prepared(prepared)
    cache = Cache(config.cache_dir)
    real = real_images(split, config.real_share)
    # By the counts of the whole training set, so that a ratio means the same whatever share is learnt from.
    drawn = generated_images(config, cache, counts_of(split.train, split.classes))
    checked = check_leaks(
        (*split.train, *split.left_out), drawn, split.held_out, near=prepared.near_copies != "allow"
    )
    validation = _tensors(split.validation, split, config)
    # Of a run that learns from generated images alone no real one is drawn, but its filter knows what they came from.
    train = _tensors(real or split.train, split, config)
    with meter.measure("class_images"):
        alone = TrainingData(split.classes, train, validation)
        generated, cost = _filtered(config, split, alone, drawn, device)
    real_counts, taken, left = (counts_of(images, split.classes) for images in (real, drawn, generated))
    if config.filter is not None:
        require_left(left, taken, real_counts, config.filter.kind)
    data = TrainingData(
        split.classes, train, validation, _tensors(generated, split, config) if generated else None
    )
    counted = {
        "classes": list(split.classes),
        "real_images": real_counts,
        "generated_images": left,
        "filtered_out": {label: taken[label] - left[label] for label in split.classes},
        "counts": split.counts,
        "data": split.digest,
        "leak_checked": checked,
        "filter": None
        if config.filter is None
        else {**config.filter.model_dump(), "train_seconds": cost.seconds, "train_flops": cost.flops},
    }
    test = _tensors(split.test, split, config) if config.judged else None
    training = config.training
    if config.proportional:
        chance = len(generated) / (len(generated) + len(real))
        training = training.model_copy(update={"generated_probability": chance})
    return Teaching(prepared, training, data, split, test, counted, cost)


def _filtered(
    config: ClassifierRunConfig,
    split: ClassDataSet,
    real: TrainingData,
    drawn: Sequence[LabelledImage],
    device: torch.device,
) -> tuple[tuple[LabelledImage, ...], FilterCost]:
    """The generated images that are learnt from, in order."""
    if config.filter is None or not drawn:
        return tuple(drawn), FilterCost()
    if config.filter.kind == "near_copies":
        left_out = near_training(drawn, split.train)
        return tuple(one for one, out in zip(drawn, left_out, strict=True) if not out), FilterCost()
    found, cost = confidences(
        config.training, config.seed, device, real, _tensors(drawn, split, config), Cache(config.cache_dir)
    )
    sure = (found >= config.filter.threshold).tolist()
    return tuple(one for one, is_sure in zip(drawn, sure, strict=True) if is_sure), cost


def _tensors(
    images: Sequence[LabelledImage], split: ClassDataSet, config: ClassifierRunConfig
) -> TensorImages:
    found = load_labelled(images, split.classes, config.resolution)
    return TensorImages(found.pixels, found.labels)
