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
from trainables.data.subjects import Subject
from trainables.evaluation import metrics, perceptual
from trainables.evaluation.anchors import AnchorTable, make_anchors
from trainables.evaluation.ceiling import ceiling
from trainables.evaluation.encoders import Clip, ImageEncoder, MetricModels
from trainables.evaluation.image_scores import ImageScore
from trainables.evaluation.metrics import Array
from trainables.evaluation.protocol import Draw, Protocol, make_protocol
from trainables.evaluation.quality import RULE
from trainables.evaluation.scoring import BaseFeatures, Drawn, Reality, embed, score
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
    """

    reality: Reality
    features: Array
    clip_features: Array
    anchors: AnchorTable


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
            "quality_rule": RULE,
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
) -> Evaluator:
    """Draws (or reads from the cache) what the base model makes of the protocol, and embeds it and the real
    images.

    Must be called while `backbone` is the base model, before a method attaches anything.

    Args:
        seed: Of the run, which with the subject fixes the noise of its images.
        resolution: Pixels to draw at: those of training; None takes the model's own.
    """
    if any(parameter.requires_grad for part in backbone.modules.values() for parameter in part.parameters()):
        raise RuntimeError(
            "prepare_evaluation needs the base model; call it before the method attaches anything"
        )
    protocol = make_protocol(subject, config, resolution or backbone.resolution, seed)
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
        ceiling=ceiling(
            subject,
            protocol.templates,
            scale.reality.references,
            scale.reality.texts,
            scale.anchors,
            lambda images: _embedded(cache, models.image_encoder, images),
            lambda images: _embedded(cache, models.clip, images),
        ),
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
    references = _embedded(cache, encoder, subject.references)
    texts = clip.embed_texts(protocol.texts)
    real = references, _embedded(cache, encoder, subject.images)
    return Scale(
        reality=Reality(
            references=references,
            references_clip=_embedded(cache, clip, subject.references),
            texts=texts,
            training=subject.images,
        ),
        features=features,
        clip_features=clip_features,
        anchors=make_anchors(
            features,
            clip_features,
            protocol.anchors.groups,
            texts,
            references,
            metrics.real_similarity(*real),
            metrics.real_similarity_error(*real),
        ),
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
        BaseFeatures(base.class_features[list(part.classes)], scale.features, scale.clip_features),
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
