"""Which generated images a classifier learns from: so many of each class, of which a filter may leave some out.

A filter drops among those that the ratio takes and nothing takes their place, so that its effect on their number shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from trainables.classifier_run_config import ClassifierRunConfig, GeneratedEntries
from trainables.classifiers.images import TensorImages, TrainingData
from trainables.classifiers.prediction import predict
from trainables.classifiers.training import train_classifier
from trainables.config.classifiers import ClassifierConfig
from trainables.config.generation import Ratio, images_of_class
from trainables.data.cache import Cache
from trainables.data.generated_images import read_entry
from trainables.data.labelled_images import LabelledImage, labelled
from trainables.errors import UserError
from trainables.evaluation.near_copies import near_pairs
from trainables.randomness import stream_seed
from trainables.util.text import some

FILTER = "filter"  # random stream of the filter's classifier, and kind of what it says in the cache


@dataclass(frozen=True)
class FilterCost:
    """What a filter's classifier took, whoever trained it."""

    seconds: float = 0.0
    flops: int = 0


def generated_images(
    config: ClassifierRunConfig, cache: Cache, counts: Mapping[str, int]
) -> tuple[LabelledImage, ...]:
    """Returns the images that the ratio takes: of each class the first ones of its generator, in order.

    Args:
        counts: Real training images of each class.

    Raises:
        UserError: The generator's run has failed, images are gone from the cache, or are fewer than the ratio takes.
    """
    if config.ratio is None:
        return ()
    problems: list[str] = []
    found: list[LabelledImage] = []
    by_class = {one.label: one for one in config.generated}
    for label, wanted in wanted_images(config.ratio, counts).items():
        if not wanted:
            continue
        if label not in by_class:
            problems.append(
                f"{wanted} generated images of class {label!r} are asked for, and no run draws any"
            )
            continue
        try:
            found += _first(by_class[label], wanted, cache)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return tuple(found)


def wanted_images(ratio: Ratio, counts: Mapping[str, int]) -> dict[str, int]:
    """Returns how many generated images of each class a ratio takes, given the real ones for training."""
    largest = max(counts.values())
    return {label: images_of_class(ratio, count, largest) for label, count in counts.items()}


def _first(source: GeneratedEntries, wanted: int, cache: Cache) -> list[LabelledImage]:
    again = f"repeat run {source.run}"
    if source.missing is not None:
        raise UserError(
            f"run {source.run} drew no images of class {source.label!r}: {source.missing}; {again}"
        )
    found: list[LabelledImage] = []
    for name in source.entries:
        if len(found) >= wanted:
            break
        try:
            pictures = read_entry(cache, name)
        except UserError as error:
            raise UserError(
                *(f"images of class {source.label!r}: {problem}: {again}" for problem in error.problems)
            ) from None
        begin = len(found)
        found += [
            labelled(picture, f"{source.run}/{source.label}/{begin + number:05d}", source.label)
            for number, picture in enumerate(pictures)
        ]
    there = min(len(found), source.images)
    if there < wanted:
        raise UserError(
            f"run {source.run} drew {there} images of class {source.label!r}, and {wanted} are asked for; {again} with "
            "more images"
        )
    return found[:wanted]


def near_training(generated: Sequence[LabelledImage], training: Sequence[LabelledImage]) -> list[bool]:
    """Returns for each generated image whether it nearly shows a training image."""
    pairs = near_pairs([one.look().small for one in generated], [one.look().small for one in training])
    found = {row for row, _ in pairs.tolist()}
    return [number in found for number in range(len(generated))]


def confidences(
    config: ClassifierConfig,
    seed: int,
    device: torch.device,
    data: TrainingData,
    generated: TensorImages,
    cache: Cache,
) -> tuple[torch.Tensor, FilterCost]:
    """Returns the probability of its own class for each generated image, [images], by a classifier of real images.

    It is trained as the run's own is, from other random numbers, once for all runs that would train the same.

    Args:
        seed: Of the run.
        data: Real images alone.
    """
    own = config.model_copy(update={"generated_probability": 0.0})

    def compute() -> dict[str, torch.Tensor]:
        trained = train_classifier(own, data, stream_seed(seed, FILTER), device=device)
        probabilities = torch.from_numpy(predict(trained.classifier, generated))
        record = trained.record
        return {
            "probabilities": probabilities,
            "seconds": torch.tensor(record.train_seconds + record.validation_seconds, dtype=torch.float64),
            "flops": torch.tensor(record.train_flops),
        }

    identity = {
        "training": own.model_dump(mode="json", exclude={"checkpointing_steps"}),
        "seed": seed,
        "real": data.digest,
        "generated": generated.digest,
        "device": device.type,
    }
    found = cache.tensors(FILTER, identity, compute)
    of_own = found["probabilities"][torch.arange(len(generated.labels)), generated.labels]
    return of_own, FilterCost(float(found["seconds"]), int(found["flops"]))


def require_left(
    kept: Mapping[str, int], taken: Mapping[str, int], real: Mapping[str, int], filter_kind: str
) -> None:
    """Raises UserError where a filter has left nothing of a class that has no real images, or nothing at all.

    Args:
        kept: Generated images of each class that are left; `taken`: that there were.
        real: Real images of each class.
    """
    bare = [label for label, count in taken.items() if count and not kept[label] and not real[label]]
    if bare:
        raise UserError(
            f"filter {filter_kind} leaves out all generated images of {some(list(map(repr, bare)))}, of which nothing "
            "real is learnt from either; take a lower threshold or no filter, or draw more images"
        )
    if any(taken.values()) and not any(kept.values()):
        raise UserError(
            f"filter {filter_kind} leaves out all {sum(taken.values())} generated images; take a lower threshold or no "
            "filter"
        )
