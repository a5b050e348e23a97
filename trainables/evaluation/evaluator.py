"""One run's evaluation: prepared once while the model is the base model, then applied at any step of
training.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainables.config.fields import EvaluationConfig
from trainables.data.cache import Cache
from trainables.data.images import image_digest
from trainables.data.stored_images import picked
from trainables.data.subjects import Subject
from trainables.evaluation import metrics, perceptual
from trainables.evaluation.anchors import (
    AnchorTable,
    RealEnds,
    ReferenceSets,
    make_anchors,
    make_data_set_anchors,
    make_sets,
)
from trainables.evaluation.ceiling import Embed, ceiling, no_ceiling
from trainables.evaluation.encoders import Clip, ImageEncoder, MetricModels
from trainables.evaluation.held_out_captions import bare_captions
from trainables.evaluation.held_out_halves import unit_numbers
from trainables.evaluation.image_scores import ImageScore
from trainables.evaluation.metrics import Array
from trainables.evaluation.protocol import Draw, Protocol, make_protocol
from trainables.evaluation.quality import DATA_SET_RULE, RULE
from trainables.evaluation.real_captions import end_of_all, end_of_asked
from trainables.evaluation.scoring import (
    BaseFeatures,
    Drawn,
    Reality,
    embed,
    score,
    score_subject_and_prompt,
)
from trainables.models.backbone import Backbone
from trainables.models.sampling import generate

_VERSION = 4  # of what is cached; raised when sampling or embedding changes its results


@dataclass(frozen=True)
class Base:
    """What the base model makes of the protocol.

    Attributes:
        beside: Of the first image of each of the subject's prompts, for grids.
        class_images: Of the class prompts, with the noise of the run's.
        class_features: Embeddings of the class images.
    """

    beside: tuple[Image.Image, ...]
    class_images: tuple[Image.Image, ...]
    class_features: Array


@dataclass(frozen=True)
class Scale:
    """What similarities are measured against.

    Attributes:
        reality: The real images and the prompts.
        features: Of the base model's images for the anchors, of the image encoder.
        clip_features: The same of CLIP.
        anchors: Where the scales begin and end.
        class_rows: Of the base model's images, those of prompts of which class images can be.
    """

    reality: Reality
    features: Array
    clip_features: Array
    anchors: AnchorTable
    class_rows: tuple[int, ...]

    def base_features(self, classes: Array) -> BaseFeatures:
        """What class images are compared with; `classes`: of the base model's with the noise of theirs."""
        rows = list(self.class_rows)
        return BaseFeatures(classes, self.features[rows], self.clip_features[rows])


@dataclass(frozen=True)
class Evaluator:
    """Everything that an evaluation needs beside the model in memory; made by `prepare_evaluation`."""

    subject: Subject
    protocol: Protocol
    models: MetricModels
    base: Base
    scale: Scale
    ceiling: dict[str, float | None]
    batch_size: int
    seed: int

    @property
    def anchors(self) -> AnchorTable:
        """Where the scales begin and end."""
        return self.scale.anchors

    def spoken_of(self, instance_prompt: str) -> Evaluator:
        """Returns the evaluator for a model that knows the subject by other words than those of the study file.

        What the base model has drawn stays: it is shown, and judged, by the study's own words.
        """
        return replace(self, protocol=self.protocol.spoken_of(instance_prompt))

    def provenance(self) -> dict[str, Any]:
        """What every number of this evaluation rests on, as JSON values: models, preprocessing, versions,
        anchors with their errors.
        """
        return {
            "metric_models": self.models.provenance(),
            "protocol": {**self.protocol.provenance(), "seed": self.seed},
            "references": len(self.subject.references),
            "training_images": len(self.subject.images),
            "anchors": self.anchors.provenance(),
            "perceptual": perceptual.provenance(),
            "quality_rule": DATA_SET_RULE if self.subject.is_data_set else RULE,
        }


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        metrics: Every metric of kind "eval" by its bare name; None where the data cannot give it, never NaN.
        images: Of the subject's prompts, in the order of `instance`.
        class_images: Of the class prompts, in the order of `classes`.
        image_scores: One entry an image: `images`, then `class_images`.
        seconds: Of the whole evaluation.
        instance: What `images` are of.
        classes: What `class_images` are of.
    """

    metrics: dict[str, float | None]
    images: tuple[Image.Image, ...]
    class_images: tuple[Image.Image, ...]
    image_scores: tuple[ImageScore, ...]
    seconds: float
    instance: Draw
    classes: Draw


def prepare_evaluation(
    backbone: Backbone,
    subject: Subject,
    config: EvaluationConfig,
    models: MetricModels,
    cache: Cache,
    seed: int,
    resolution: int | None = None,
    stream: str = "evaluation",
) -> Evaluator:
    """Draws (or reads from the cache) what the base model makes of the protocol, and embeds it and the real
    images.

    Must be called while `backbone` is the base model, before a method attaches anything.

    Args:
        seed: Of the run, which with the subject fixes the noise of its images.
        resolution: Pixels to draw at: those of training; None takes the model's own.
        stream: Of the noise of the run's images (`make_protocol`).
    """
    if any(parameter.requires_grad for part in backbone.modules.values() for parameter in part.parameters()):
        raise RuntimeError(
            "prepare_evaluation needs the base model; call it before the method attaches anything"
        )
    protocol = make_protocol(subject, config, resolution or backbone.resolution, seed, stream)
    beside = protocol.beside
    same_noise = _base_images(backbone, protocol, beside + protocol.classes, cache, config.batch_size)
    class_images = same_noise[len(beside) :]
    scale = make_scale(backbone, subject, protocol, models, cache, config.batch_size)
    return Evaluator(
        subject=subject,
        protocol=protocol,
        models=models,
        base=Base(
            beside=tuple(same_noise[: len(beside)]),
            class_images=tuple(class_images),
            class_features=_embedded(cache, models.image_encoder, class_images),
        ),
        scale=scale,
        ceiling=_ceiling(subject, protocol, scale, models, cache),
        batch_size=config.batch_size,
        seed=config.seed,
    )


def make_scale(
    backbone: Backbone,
    subject: Subject,
    protocol: Protocol,
    models: MetricModels,
    cache: Cache,
    batch_size: int,
) -> Scale:
    """Draws (or reads from the cache) the base model's images for the anchors, and embeds them and the real images."""
    encoder, clip = models.image_encoder, models.clip
    images = _base_images(backbone, protocol, protocol.anchors, cache, batch_size)
    features, clip_features = _embedded(cache, encoder, images), _embedded(cache, clip, images)
    reality = Reality(
        references=_embedded(cache, encoder, subject.references),
        references_clip=_embedded(cache, clip, subject.references),
        texts=clip.embed_texts(protocol.texts),
        training=subject.images,
    )
    groups = protocol.anchors.groups
    made = features, clip_features, groups, reality.texts, reality.references
    if not subject.is_data_set:
        real = reality.references, _embedded(cache, encoder, subject.images)
        anchors = make_anchors(*made, metrics.real_similarity(*real), metrics.real_similarity_error(*real))
        return Scale(reality, features, clip_features, anchors, tuple(range(len(groups))))
    shown = subject.reference_characters or ("",) * len(subject.references)
    sets = make_sets(protocol.characters, shown, len(protocol.class_templates), subject.characters)
    own = end_of_asked(subject, protocol.texts, reality.references_clip, reality.texts)
    everything = None if own is None else end_of_all(subject, reality.references_clip, clip)
    ends = _real_ends(subject, sets, reality.references, lambda few: _embedded(cache, encoder, few))
    anchors = make_data_set_anchors(*made, sets, ends, own, everything, protocol.class_groups)
    units = unit_numbers(bare_captions(subject), subject.reference_groups)
    return Scale(
        replace(reality, sets=sets, units=units, general=protocol.general, characters=protocol.characters),
        features,
        clip_features,
        anchors,
        tuple(row for row, group in enumerate(groups) if group in protocol.class_groups),
    )


def _real_ends(subject: Subject, sets: ReferenceSets, references: Array, embed: Embed) -> RealEnds:
    """How similar held-out images are to each other; with few of a character its training images count as well: as
    squares, so that arms with buckets and arms without have one scale.
    """
    pairs = []
    squares = subject.squares or subject.images
    shown = subject.characters or ("",) * len(squares)  # held-out images may name somebody, and no other does
    for rows, name in zip(sets.rows, sets.characters, strict=True):
        own = references[list(rows)]
        numbers = [row for row, own_name in enumerate(shown) if name in ("", own_name)]
        training = picked(squares, numbers)
        # Embedded only where they count: a data set may have thousands.
        few = len(own) < metrics.ENOUGH_REFERENCES and bool(training)
        pairs.append((own, embed(training) if few else own[:0]))
    return RealEnds(
        sets.of_group,
        tuple(metrics.real_similarity(*pair) for pair in pairs),
        tuple(metrics.real_similarity_error(*pair) for pair in pairs),
    )


def _ceiling(
    subject: Subject, protocol: Protocol, scale: Scale, models: MetricModels, cache: Cache
) -> dict[str, float | None]:
    if subject.is_data_set:
        return no_ceiling()
    return ceiling(
        subject,
        protocol.templates,
        scale.reality.references,
        scale.reality.texts,
        scale.anchors,
        lambda images: _embedded(cache, models.image_encoder, images),
        lambda images: _embedded(cache, models.clip, images),
    )


def evaluate(
    evaluator: Evaluator, backbone: Backbone, *, is_base: bool = False, final: bool = True
) -> Evaluation:
    """Draws the protocol's images with the model as it is now and scores them.

    Changes neither weights, modes nor any random state.

    Args:
        is_base: The model is the base model, whose class images are known: drawn in batches of other sizes they would
            differ in their last bits, and the base model from itself.
        final: Draw everything; else what the protocol has for evaluations on the way.
    """
    started = time.perf_counter()
    protocol, base, scale = evaluator.protocol, evaluator.base, evaluator.scale
    part = protocol.part(final=final)
    instance, classes = protocol.instance.chosen(part.instance), protocol.classes.chosen(part.classes)
    count = len(instance)
    made = _draw(backbone, protocol, instance if is_base else instance + classes, evaluator.batch_size)
    class_images = [base.class_images[index] for index in part.classes] if is_base else made[count:]
    drawn = Drawn(tuple(made[:count]), instance, tuple(class_images), classes)
    scores = score(
        drawn,
        embed(evaluator.models, drawn),
        protocol.templates,
        scale.reality,
        scale.base_features(base.class_features[list(part.classes)]),
        scale.anchors,
        evaluator.ceiling,
        evaluator.seed,
    )
    return Evaluation(
        metrics=scores.metrics,
        images=drawn.images,
        class_images=drawn.class_images,
        image_scores=scores.images,
        seconds=time.perf_counter() - started,
        instance=instance,
        classes=classes,
    )


def evaluate_at_steps(evaluator: Evaluator, backbone: Backbone, steps: int) -> dict[str, float | None]:
    """Draws some images of the result (`Protocol.at_other_steps`) in another number of solver steps, and scores them.

    The noise and the scales are those of the result. Changes neither weights, modes nor any random state.
    """
    protocol, models = evaluator.protocol, evaluator.models
    draw, reality = protocol.at_other_steps, evaluator.scale.reality
    images = _draw(backbone, replace(protocol, num_inference_steps=steps), draw, evaluator.batch_size)
    features = models.image_encoder.embed(images), models.clip.embed_images(images)
    return score_subject_and_prompt(*features, draw.groups, reality, evaluator.anchors)


def _draw(backbone: Backbone, protocol: Protocol, draw: Draw, batch_size: int) -> list[Image.Image]:
    return generate(
        backbone,
        draw.prompts,
        seeds=draw.seeds,
        num_inference_steps=protocol.num_inference_steps,
        guidance_scale=protocol.guidance_scale,
        batch_size=batch_size,
        resolution=protocol.resolution,
    )


def _base_images(
    backbone: Backbone, protocol: Protocol, draw: Draw, cache: Cache, batch_size: int
) -> list[Image.Image]:
    identity = {
        "version": _VERSION,
        "model": backbone.digest(),
        "device": backbone.device.type,
        **protocol.identity(draw),
    }

    def compute() -> dict[str, torch.Tensor]:
        images = _draw(backbone, protocol, draw, batch_size)
        return {"images": torch.from_numpy(np.stack([np.asarray(image) for image in images]))}

    pixels = cache.tensors("base_images", identity, compute)["images"].numpy()
    return [Image.fromarray(array) for array in pixels]


def _embedded(cache: Cache, encoder: ImageEncoder | Clip, images: Sequence[Image.Image]) -> Array:
    """Embeddings of images that many runs share, from the cache; shape (images, features)."""
    content = hashlib.sha256("".join(image_digest(image) for image in images).encode()).hexdigest()
    identity = {
        "version": _VERSION,
        "encoder": encoder.digest,
        "images": content,
        "kind": type(encoder).__name__,
    }
    embed = encoder.embed if isinstance(encoder, ImageEncoder) else encoder.embed_images
    stored = cache.tensors("embeddings", identity, lambda: {"features": torch.from_numpy(embed(images))})
    return stored["features"].numpy()
