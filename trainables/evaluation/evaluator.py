"""One run's evaluation: prepared once while the model is the base model, then applied at any step of
training.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainables.cache import Cache
from trainables.config import EvaluationConfig
from trainables.evaluation import metrics
from trainables.evaluation.encoders import Clip, ImageEncoder, MetricModels
from trainables.evaluation.metrics import Array
from trainables.evaluation.protocol import Draw, Protocol, make_protocol
from trainables.evaluation.quality import RULE, Anchors, compute_quality
from trainables.families import Backbone
from trainables.metrics_table import metric_names
from trainables.sampling import generate
from trainables.subjects import Subject, image_digest

_VERSION = 1  # of what is cached; raised when sampling or embedding changes its results


@dataclass(frozen=True)
class Base:
    """What the base model makes of the protocol.

    Attributes:
        images: Of the subject's prompts, in the protocol's order.
        class_images: Of the class prompts.
        class_features: Embeddings of the class images.
        kid_features: Embeddings of the class prompts' images with other noise.
    """

    images: tuple[Image.Image, ...]
    class_images: tuple[Image.Image, ...]
    class_features: Array
    kid_features: Array


@dataclass(frozen=True)
class Evaluator:
    """Everything that an evaluation needs beside the model in memory; made by `prepare_evaluation`."""

    subject: Subject
    protocol: Protocol
    models: MetricModels
    base: Base
    anchors: Anchors
    text_features: Array
    reference_features: Array
    reference_clip: Array
    training_features: Array
    batch_size: int
    seed: int

    def provenance(self) -> dict[str, Any]:
        """What every number of this evaluation rests on, as JSON values: models, preprocessing, versions,
        anchors.
        """
        return {
            "metric_models": self.models.provenance(),
            "protocol": {**self.protocol.provenance(), "seed": self.seed},
            "references": len(self.subject.references),
            "training_images": len(self.subject.images),
            "anchors": dict(self.anchors.__dict__),
            "quality_rule": RULE,
        }


@dataclass(frozen=True)
class Evaluation:
    """The result of one evaluation.

    Attributes:
        metrics: Every metric of kind "eval" by its bare name; None where the data cannot give it, never NaN.
        images: Of the subject's prompts, in the protocol's order.
        class_images: Of the class prompts.
        image_latency_seconds: Wall seconds an image, sampled in the evaluation's batches.
        seconds: Of the whole evaluation.
    """

    metrics: dict[str, float | None]
    images: tuple[Image.Image, ...]
    class_images: tuple[Image.Image, ...]
    image_latency_seconds: float
    seconds: float


def prepare_evaluation(
    backbone: Backbone,
    subject: Subject,
    config: EvaluationConfig,
    models: MetricModels,
    cache: Cache,
    resolution: int | None = None,
) -> Evaluator:
    """Draws (or reads from the cache) what the base model makes of the protocol, and embeds it and the real
    images.

    Must be called while `backbone` is the base model, before a method attaches anything.

    Args:
        resolution: Pixels to draw at: those of training; None takes the model's own.
    """
    if any(parameter.requires_grad for part in backbone.modules.values() for parameter in part.parameters()):
        raise RuntimeError(
            "prepare_evaluation needs the base model; call it before the method attaches anything"
        )
    protocol = make_protocol(subject, config, resolution or backbone.resolution)
    images, class_images, kid_images = (
        _base_images(backbone, protocol, draw, cache, config.batch_size)
        for draw in (protocol.instance, protocol.classes, protocol.classes_again)
    )
    encoder, clip = models.image_encoder, models.clip
    references = _embedded(cache, encoder, subject.references)
    training = _embedded(cache, encoder, subject.images)
    features, clip_features = _embedded(cache, encoder, images), _embedded(cache, clip, images)
    texts = clip.embed_texts(protocol.texts)
    groups = list(protocol.instance.groups)
    anchors = Anchors(
        subject_base=metrics.subject_fidelity(features, references),
        subject_real=metrics.real_similarity(references, training),
        prompt_base=metrics.paired_cosine(clip_features, texts[groups]),
        prompt_floor=metrics.mismatched_prompt_fidelity(clip_features, texts, groups),
    )
    return Evaluator(
        subject=subject,
        protocol=protocol,
        models=models,
        base=Base(
            images=tuple(images),
            class_images=tuple(class_images),
            class_features=_embedded(cache, encoder, class_images),
            kid_features=_embedded(cache, encoder, kid_images),
        ),
        anchors=anchors,
        text_features=texts,
        reference_features=references,
        reference_clip=_embedded(cache, clip, subject.references),
        training_features=training,
        batch_size=config.batch_size,
        seed=config.seed,
    )


def evaluate(evaluator: Evaluator, backbone: Backbone, *, is_base: bool = False) -> Evaluation:
    """Draws the protocol's images with the model as it is now and scores them.

    Changes neither weights, modes nor any random state.

    Args:
        is_base: The model is the base model, whose images are known: those are scored, and drawing only measures the
            latency. In batches of other sizes they would differ in their last bits, and the base model from itself.
    """
    started = time.perf_counter()
    protocol = evaluator.protocol
    count = len(protocol.instance)
    drawn = _draw(backbone, protocol, (protocol.instance, protocol.classes), evaluator.batch_size)
    latency = (time.perf_counter() - started) / len(drawn)
    if is_base:
        drawn = [*evaluator.base.images, *evaluator.base.class_images]
    features = evaluator.models.image_encoder.embed(drawn)
    clip_features = evaluator.models.clip.embed_images(drawn[:count])
    values = _score(evaluator, features[:count], features[count:], clip_features)
    return Evaluation(
        metrics=values,
        images=tuple(drawn[:count]),
        class_images=tuple(drawn[count:]),
        image_latency_seconds=latency,
        seconds=time.perf_counter() - started,
    )


def _score(
    evaluator: Evaluator, features: Array, class_features: Array, clip_features: Array
) -> dict[str, float | None]:
    groups = list(evaluator.protocol.instance.groups)
    references = evaluator.reference_features
    subject = metrics.subject_fidelity(features, references)
    prompt = metrics.paired_cosine(clip_features, evaluator.text_features[groups])
    scaled = compute_quality(subject, prompt, evaluator.anchors)
    kid_features = evaluator.base.kid_features
    interval = metrics.kid_interval(class_features, kid_features, seed=evaluator.seed)
    values: dict[str, float | None] = {
        "quality": scaled.quality,
        "subject_fidelity": subject,
        "prompt_fidelity": prompt,
        "subject_fidelity_scaled": scaled.subject_fidelity_scaled,
        "prompt_fidelity_scaled": scaled.prompt_fidelity_scaled,
        "clip_i": metrics.subject_fidelity(clip_features, evaluator.reference_clip),
        "diversity": metrics.diversity(features, groups),
        "drift": metrics.drift(class_features, evaluator.base.class_features),
        "prior_preservation": metrics.subject_fidelity(class_features, references),
        "memorisation": metrics.memorisation(features, evaluator.training_features, references),
        "class_kid": metrics.kid(class_features, kid_features),
        "class_kid_low": interval[0] if interval else None,
        "class_kid_high": interval[1] if interval else None,
    }
    if set(values) != set(metric_names("eval")):
        raise AssertionError("the evaluation and trainables/metrics_table.py name different metrics")
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _draw(
    backbone: Backbone, protocol: Protocol, draws: Sequence[Draw], batch_size: int
) -> list[Image.Image]:
    """Draws several sets together, so that batches are full."""
    return generate(
        backbone,
        [prompt for draw in draws for prompt in draw.prompts],
        seeds=[seed for draw in draws for seed in draw.seeds],
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
        images = _draw(backbone, protocol, (draw,), batch_size)
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
