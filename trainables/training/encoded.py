"""What a run trains on, as the frozen base model encodes it: texts, images by size, examples of the class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from PIL import Image

from trainables.config.fields import TrainingConfig
from trainables.data.cache import Cache
from trainables.data.images import geometry_of
from trainables.data.stored_images import picked, sizes_of
from trainables.data.subjects import Subject
from trainables.distributed.worker_group import WorkerGroup
from trainables.methods.protocol import Method
from trainables.models.backbone import Backbone
from trainables.models.conditioning import Conditioning
from trainables.training.batches import Examples, Texts, mask_areas
from trainables.training.captions import training_captions
from trainables.training.class_images import make_class_images
from trainables.training.encoding import embed_texts, encode_images
from trainables.training.meter import Meter


@dataclass(frozen=True)
class Encoded:
    """What a run trains on.

    Attributes:
        texts: Captions, with the class prompt where the class is held and the empty prompt where captions are dropped.
        examples: Of the subject: one, or one for each size that its images have.
        priors: Of the class, or None.
        base_text: The class prompt as the base model's text encoders read it, of one row; or None.
    """

    texts: Texts
    examples: tuple[Examples, ...]
    priors: Examples | None = None
    base_text: Conditioning | None = None


def encode_data(
    backbone: Backbone,
    cache: Cache,
    subject: Subject,
    method: Method,
    training: TrainingConfig,
    meter: Meter,
) -> Encoded:
    """Returns what a run trains on: captions, images of the subject, examples of the class, and the class prompt as the
    base model reads it.

    Without class images the class has the subject's images for its examples: what they show is kept out of the class
    prompt, in noise where training has them (AI Toolkit's "differential output preservation"; there with the draws of
    the subject's own sample and without training of the text encoder, here with draws of their own, as class images
    have them, and with the base model's text encoder).
    """
    family = backbone.family
    trained = method.trained_parts(family, training)
    prompts = training_captions(subject, training)
    captions = [prompt for several in prompts for prompt in several]
    if training.with_prior_preservation:
        captions.append(subject.class_prompt)
    if training.caption_dropout:
        captions.append("")
    as_tokens, each_alone = any(part in family.texts for part in trained), subject.is_data_set
    texts = embed_texts(backbone, cache, captions, as_tokens, each_alone=each_alone)
    rows = {text: row for row, text in enumerate(texts.captions)}
    sizes = torch.tensor(subject.geometry)
    places = by_size(subject.images)
    examples = tuple(
        _examples(
            backbone,
            cache,
            picked(subject.images, numbers),
            [prompts[number] for number in numbers],
            rows,
            training,
            sizes[numbers],
            each_alone=each_alone,
        )
        for numbers in places
    )
    if training.masked_loss:
        examples = tuple(
            replace(
                one, areas=mask_areas(picked(subject.masks, numbers), training.background_weight, one.mean)
            )
            for one, numbers in zip(examples, places, strict=True)
        )
    if not training.with_prior_preservation:
        return Encoded(texts, examples)
    class_row = rows[subject.class_prompt]
    if training.trains_on_base:
        row, alone = class_row, texts
        if texts.are_tokens:
            alone, row = embed_texts(backbone, cache, [subject.class_prompt], as_tokens=False), 0
        base_text = {name: values[row : row + 1] for name, values in alone.rows.items()}
        of_class = torch.full((len(examples[0]),), class_row)
        priors = replace(examples[0], captions=of_class.to(backbone.device), areas=None)
        return Encoded(texts, examples, priors, base_text)
    with meter.measure("class_images"):
        made = make_class_images(backbone, cache, subject.class_prompt, training, subject.resolution)
    meter.class_image_seconds, meter.class_image_flops = made.seconds, made.flops
    prompts = [(subject.class_prompt,)] * len(made.images)
    sizes = torch.tensor([geometry_of(image.size, image.width) for image in made.images])
    return Encoded(texts, examples, _examples(backbone, cache, made.images, prompts, rows, training, sizes))


def by_size(images: Sequence[Image.Image]) -> list[list[int]]:
    """Returns the numbers of images of each size, by width and height: the buckets that are not empty."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, size in enumerate(sizes_of(images)):
        found.setdefault(size, []).append(number)
    return [found[size] for size in sorted(found)]


def share_encoded(worker_group: WorkerGroup, encoded: Encoded | None, device: torch.device) -> Encoded:
    """Returns what the leader of a worker group has encoded; `encoded` is None in the other ranks."""
    if worker_group.size == 1:
        assert encoded is not None
        return encoded
    tensors: dict[str, torch.Tensor] = {}
    known: Any = None
    if encoded is not None:
        tensors = {f"text.{name}": rows for name, rows in encoded.texts.rows.items()}
        tensors |= {f"base_text.{name}": rows for name, rows in (encoded.base_text or {}).items()}
        sources = {f"{number}.": source for number, source in enumerate(encoded.examples)}
        if encoded.priors is not None:
            sources["prior."] = encoded.priors
        for prefix, source in sources.items():
            columns = {column.name: getattr(source, column.name) for column in fields(source)}
            tensors |= {prefix + name: value for name, value in columns.items() if value is not None}
        known = (encoded.texts.captions, encoded.texts.are_tokens, len(encoded.examples))
    tensors, known = worker_group.broadcast_tensors(tensors, known)
    tensors = {name: value.to(device) for name, value in tensors.items()}
    if encoded is not None:
        return encoded
    captions, are_tokens, buckets = known
    return Encoded(
        Texts(tuple(captions), _with_prefix(tensors, "text."), are_tokens),
        tuple(Examples(**_with_prefix(tensors, f"{number}.")) for number in range(buckets)),
        Examples(**_with_prefix(tensors, "prior.")) if "prior.mean" in tensors else None,
        _with_prefix(tensors, "base_text.") or None,
    )


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _examples(
    backbone: Backbone,
    cache: Cache,
    images: Sequence[Image.Image],
    prompts: Sequence[Sequence[str]],
    text_rows: Mapping[str, int],
    training: TrainingConfig,
    geometry: torch.Tensor,
    *,
    each_alone: bool = False,
) -> Examples:
    """Returns images of one size as a step takes them; each has as many prompts as any other.

    Args:
        text_rows: Prompt -> its row of `Texts`.
    """
    mean, std = encode_images(backbone, cache, images, training.random_flip, each_alone=each_alone)
    rows = [[text_rows[prompt] for prompt in several] for several in prompts]
    captions = torch.tensor(rows, device=backbone.device)
    return Examples(
        mean,
        std,
        captions.squeeze(1) if captions.shape[1] == 1 else captions,
        geometry=geometry.to(backbone.device, torch.float32),
    )
