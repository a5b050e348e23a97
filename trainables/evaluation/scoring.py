"""From the images of one evaluation to its numbers: the only place where the measures are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainables.evaluation import copies, metrics, perceptual
from trainables.evaluation.anchors import AnchorTable
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.image_scores import ImageScore
from trainables.evaluation.metrics import Array
from trainables.evaluation.metrics_table import HELD_OUT_LOSS, metric_names
from trainables.evaluation.protocol import Draw
from trainables.evaluation.quality import Anchors, compute_quality, has_failed

# All that images tell of a model.
IMAGE_METRICS = tuple(name for name in metric_names("eval") if name != HELD_OUT_LOSS)


@dataclass(frozen=True)
class Reality:
    """The real images that scores are measured against, embedded.

    Attributes:
        references: Of the image encoder, of the held-out references.
        references_clip: The same of CLIP.
        texts: CLIP's embeddings of the templates with the class, one row a template.
        training: The training images themselves, for copies.
    """

    references: Array
    references_clip: Array
    texts: Array
    training: tuple[Image.Image, ...]


@dataclass(frozen=True)
class BaseFeatures:
    """What the base model's images are compared with the run's by; of the image encoder, and of CLIP.

    Attributes:
        classes: Of its images of the run's class images, with the same noise: row i belongs to class image i.
        anchors: Of its images of the same prompts with noise of their own.
        anchors_clip: The same of CLIP.
    """

    classes: Array
    anchors: Array
    anchors_clip: Array


@dataclass(frozen=True)
class Drawn:
    """The images of one evaluation, with what they are images of."""

    images: tuple[Image.Image, ...]
    instance: Draw
    class_images: tuple[Image.Image, ...]
    classes: Draw


@dataclass(frozen=True)
class Features:
    """Embeddings of `Drawn`: of the image encoder and of CLIP."""

    images: Array
    images_clip: Array
    class_images: Array
    class_images_clip: Array | None


@dataclass(frozen=True)
class Scores:
    """The numbers of one evaluation.

    Attributes:
        metrics: Every metric of kind "eval" by its bare name; None where the data cannot give it, never NaN.
        images: One entry an image: those of the subject's prompts, then the class images.
    """

    metrics: dict[str, float | None]
    images: tuple[ImageScore, ...]


def embed(models: MetricModels, drawn: Drawn) -> Features:
    """Embeds the images of an evaluation; CLIP's of the class images only where there are enough to be used."""
    both = [*drawn.images, *drawn.class_images]
    count = len(drawn.images)
    features = models.image_encoder.embed(both)
    enough = len(drawn.class_images) >= MIN_DISTRIBUTION_IMAGES
    clip_features = models.clip.embed_images(both if enough else drawn.images)
    return Features(
        images=features[:count],
        images_clip=clip_features[:count],
        class_images=features[count:],
        class_images_clip=clip_features[count:] if enough else None,
    )


def score(
    drawn: Drawn,
    features: Features,
    templates: Sequence[str],
    real: Reality,
    base: BaseFeatures,
    table: AnchorTable,
    ceiling: dict[str, float | None],
    seed: int,
) -> Scores:
    """Scores the images of one evaluation.

    Args:
        templates: With ``{subject}``.
        base: Its `classes` are those of `drawn.classes`.
        ceiling: The metrics of `trainables.evaluation.ceiling`.
        seed: Of the resampling behind intervals.
    """
    groups = list(drawn.instance.groups)
    anchors = table.of(groups, drawn.classes.groups)
    instance = _instance_scores(drawn, features, templates, real, anchors)
    classes = _class_scores(drawn, features, templates, real)
    subject = metrics.subject_fidelity(features.images, real.references)
    prompt = metrics.paired_cosine(features.images_clip, real.texts[groups])
    class_similarity = metrics.subject_fidelity(features.class_images, real.references)
    quality = compute_quality(subject, prompt, class_similarity, anchors)
    errors = table.errors(groups, drawn.classes.groups)
    failed = [image.failed for image in instance if image.failed is not None]
    values: dict[str, float | None] = {
        **quality.__dict__,
        "subject_fidelity": subject,
        "prompt_fidelity": prompt,
        "failed_images": float(np.mean(failed)) if len(failed) == len(instance) else None,
        "clip_i": metrics.subject_fidelity(features.images_clip, real.references_clip),
        "diversity": perceptual.diversity(drawn.images, groups),
        "drift": metrics.drift(features.class_images, base.classes),
        "prior_preservation": class_similarity,
        "memorisation": float(np.mean([bool(image.copy) for image in instance])),
        "subject_anchor_error": errors.of_subject(quality.subject_fidelity_scaled, anchors),
        "prompt_anchor_error": errors.of_prompt(quality.prompt_fidelity_scaled, anchors),
        "class_anchor_error": errors.of_class(quality.class_kept, anchors),
        **_distances(features, base, seed),
        **ceiling,
    }
    if set(values) != set(IMAGE_METRICS):
        raise AssertionError(
            "the evaluation and trainables/evaluation/metrics_table.py name different metrics"
        )
    return Scores({name: _finite(values[name]) for name in IMAGE_METRICS}, (*instance, *classes))


def _instance_scores(
    drawn: Drawn, features: Features, templates: Sequence[str], real: Reality, anchors: Anchors
) -> list[ImageScore]:
    subject = metrics.cosines(features.images, real.references).mean(axis=1)
    texts = real.texts[list(drawn.instance.groups)]
    prompt = (metrics.normalised(features.images_clip) * metrics.normalised(texts)).sum(axis=1)
    copy = copies.copied(drawn.images, real.training)
    draw, scores = drawn.instance, []
    for index, group in enumerate(draw.groups):
        similarities = float(subject[index]), float(prompt[index])
        scaled = anchors.scaled_subject(similarities[0]), anchors.scaled_prompt(similarities[1])
        scores.append(
            ImageScore(
                "instance",
                group,
                templates[group],
                draw.numbers[index],
                draw.seeds[index],
                *similarities,
                *scaled,
                failed=has_failed(*scaled),
                copy=bool(copy[index]),
            )
        )
    return scores


def _class_scores(
    drawn: Drawn, features: Features, templates: Sequence[str], real: Reality
) -> list[ImageScore]:
    similarity = metrics.cosines(features.class_images, real.references).mean(axis=1)
    draw = drawn.classes
    return [
        ImageScore(
            "class",
            group - 1 if group else None,
            templates[group - 1] if group else "{subject}",
            draw.numbers[index],
            draw.seeds[index],
            float(similarity[index]),
        )
        for index, group in enumerate(draw.groups)
    ]


def _distances(features: Features, base: BaseFeatures, seed: int) -> dict[str, float | None]:
    """Distances of the distributions of class images and their intervals; None with too few images to tell."""
    found: dict[str, float | None] = dict.fromkeys(
        (f"class_{name}{end}" for name in ("kid", "cmmd") for end in ("", "_low", "_high")), None
    )
    clip_features = features.class_images_clip
    if clip_features is None:
        return found
    kid = features.class_images, base.anchors
    cmmd = clip_features, base.anchors_clip
    found |= {"class_kid": metrics.kid(*kid), "class_cmmd": metrics.cmmd(*cmmd)}
    intervals = {
        "kid": metrics.kid_interval(*kid, seed=seed),
        "cmmd": metrics.cmmd_interval(*cmmd, seed=seed),
    }
    for name, interval in intervals.items():
        if interval is not None:
            found |= {f"class_{name}_low": interval[0], f"class_{name}_high": interval[1]}
    return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
