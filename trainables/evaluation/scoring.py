"""From the images of one evaluation to its numbers: the only place where the measures are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trainables.evaluation import copies, metrics, perceptual
from trainables.evaluation.anchors import AnchorTable, ReferenceSets
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES, MIN_DISTRIBUTION_UNITS
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.image_scores import ImageScore
from trainables.evaluation.metrics import Array
from trainables.evaluation.metrics_table import HELD_OUT_LOSS, metric_names
from trainables.evaluation.protocol import Draw
from trainables.evaluation.quality import compute_quality, has_failed

# All that images tell of a model.
IMAGE_METRICS = tuple(name for name in metric_names("eval") if name != HELD_OUT_LOSS)

# What images of the subject's prompts tell without class images.
SUBJECT_AND_PROMPT = (
    "quality_subject_prompt",
    "subject_fidelity",
    "prompt_fidelity",
    "subject_fidelity_scaled",
    "prompt_fidelity_scaled",
)


@dataclass(frozen=True)
class Reality:
    """The real images that scores are measured against, embedded.

    Attributes:
        references: Of the image encoder, of the held-out references.
        references_clip: The same of CLIP.
        texts: CLIP's embeddings of the templates with the class, one row a template.
        training: The training images themselves, for copies.
        sets: Of a data set: with which references the images of each prompt are compared; None: with all.
        units: Of a data set: a number for each reference, the same for those that are of one group or share a caption.
        general: Prompts of class images beyond the templates, see `Protocol.general`.
        characters: Of a data set: whom each template is about, see `Protocol.characters`.
    """

    references: Array
    references_clip: Array
    texts: Array
    training: Sequence[Image.Image]
    sets: ReferenceSets | None = None
    units: tuple[int, ...] = ()
    general: tuple[str, ...] = ()
    characters: tuple[str, ...] = ()

    def shown_by(self, groups: Sequence[int]) -> list[str | None]:
        """Returns whom the images of templates show: of a subject, and of a data set without characters, all the same;
        None for a caption that names nobody beside others that do.
        """
        if not any(self.characters):
            return [""] * len(groups)
        return [self.characters[group] or None for group in groups]

    def similarities(self, features: Array, groups: Sequence[int], *, clip: bool = False) -> Array:
        """Returns the mean cosine of each image with its references, shape (images,).

        Args:
            features: Of the image encoder, or of CLIP.
            groups: Of the images: 0 the class prompt alone, 1 template 0, ...
        """
        references = self.references_clip if clip else self.references
        if self.sets is None:
            return np.asarray(metrics.cosines(features, references).mean(axis=1))
        return metrics.similarity_to_sets(features, references, self.sets.of(groups))

    def fidelity(self, features: Array, groups: Sequence[int], *, clip: bool = False) -> float | None:
        """Returns the mean of `similarities` over the images."""
        if self.sets is None:
            return metrics.subject_fidelity(features, self.references_clip if clip else self.references)
        return float(self.similarities(features, groups, clip=clip).mean())


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
    of_templates = [group + 1 for group in groups]
    anchors = table.of(groups, drawn.classes.groups)
    instance = _instance_scores(drawn, features, templates, real, table)
    classes = _class_scores(drawn, features, templates, real)
    subject = real.fidelity(features.images, of_templates)
    prompt = metrics.paired_cosine(features.images_clip, real.texts[groups])
    class_similarity = real.fidelity(features.class_images, drawn.classes.groups)
    quality = compute_quality(subject, prompt, class_similarity, anchors)
    errors = table.errors(groups, drawn.classes.groups)
    failed = [image.failed for image in instance if image.failed is not None]
    values: dict[str, float | None] = {
        **quality.__dict__,
        "subject_fidelity": subject,
        "prompt_fidelity": prompt,
        "failed_images": float(np.mean(failed)) if len(failed) == len(instance) else None,
        "consistency": metrics.consistency(features.images, groups, real.shown_by(groups)),
        "clip_i": real.fidelity(features.images_clip, of_templates, clip=True),
        "diversity": perceptual.diversity(drawn.images, groups),
        "drift": metrics.drift(features.class_images, base.classes),
        "prior_preservation": class_similarity,
        "memorisation": float(np.mean([bool(image.copy) for image in instance])),
        "subject_anchor_error": errors.of_subject(quality.subject_fidelity_scaled, anchors),
        "prompt_anchor_error": errors.of_prompt(quality.prompt_fidelity_scaled, anchors),
        "class_anchor_error": errors.of_class(quality.class_kept, anchors),
        **_class_distances(features, base, seed),
        **_data_set_distances(features, real, groups, seed),
        "worst_character": _worst_character(instance),
        **ceiling,
    }
    if set(values) != set(IMAGE_METRICS):
        raise AssertionError(
            "the evaluation and trainables/evaluation/metrics_table.py name different metrics"
        )
    return Scores({name: _finite(values[name]) for name in IMAGE_METRICS}, (*instance, *classes))


def score_subject_and_prompt(
    features: Array, clip_features: Array, groups: Sequence[int], real: Reality, table: AnchorTable
) -> dict[str, float | None]:
    """Scores images of the subject's prompts alone, without class images.

    Args:
        features: Of the image encoder; `clip_features` of CLIP.
        groups: Of the images, the numbers of their templates.

    Returns:
        The metrics of `SUBJECT_AND_PROMPT`; None where the data cannot give one, never NaN.
    """
    groups = list(groups)
    subject = real.fidelity(features, [group + 1 for group in groups])
    prompt = metrics.paired_cosine(clip_features, real.texts[groups])
    quality = compute_quality(subject, prompt, None, table.of(groups, [group + 1 for group in groups]))
    values = {**quality.__dict__, "subject_fidelity": subject, "prompt_fidelity": prompt}
    return {name: _finite(values[name]) for name in SUBJECT_AND_PROMPT}


def _instance_scores(
    drawn: Drawn, features: Features, templates: Sequence[str], real: Reality, table: AnchorTable
) -> list[ImageScore]:
    groups, classes = list(drawn.instance.groups), drawn.classes.groups
    subject = real.similarities(features.images, [group + 1 for group in groups])
    texts = real.texts[groups]
    prompt = (metrics.normalised(features.images_clip) * metrics.normalised(texts)).sum(axis=1)
    copy = copies.copied(drawn.images, real.training)
    anchors = table.of(groups, classes)
    # Real images of one character are more alike than those of another: each has its own end of the scale.
    sets = [0 if real.sets is None else real.sets.of_group[group + 1] for group in groups]
    own = {
        number: table.of([group for group, of in zip(groups, sets, strict=True) if of == number], classes)
        for number in set(sets)
    }
    draw, scores = drawn.instance, []
    for index, group in enumerate(draw.groups):
        similarities = float(subject[index]), float(prompt[index])
        ends = own[sets[index]]
        scaled = ends.scaled_subject(similarities[0]), anchors.scaled_prompt(similarities[1])
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
                character=(real.sets.characters[sets[index]] or None) if real.sets else None,
            )
        )
    return scores


def _worst_character(instance: Sequence[ImageScore]) -> float | None:
    """The lowest S over characters, of those whose scale is known."""
    found: dict[str, list[float]] = {}
    for image in instance:
        if image.character is not None and image.subject_scaled is not None:
            found.setdefault(image.character, []).append(image.subject_scaled)
    return min((float(np.mean(values)) for values in found.values()), default=None)


def _class_scores(
    drawn: Drawn, features: Features, templates: Sequence[str], real: Reality
) -> list[ImageScore]:
    draw = drawn.classes
    similarity = real.similarities(features.class_images, draw.groups)
    asked = ("{subject}", *templates, *real.general)
    return [
        ImageScore(
            "class",
            group - 1 if group else None,
            asked[group],
            draw.numbers[index],
            draw.seeds[index],
            float(similarity[index]),
        )
        for index, group in enumerate(draw.groups)
    ]


def _class_distances(features: Features, base: BaseFeatures, seed: int) -> dict[str, float | None]:
    """Distances of the distributions of class images and their intervals; None with too few images to tell."""
    if features.class_images_clip is None:
        return _no_distances("class")
    clip = features.class_images_clip, base.anchors_clip
    return _distances("class", (features.class_images, base.anchors), clip, seed)


def _data_set_distances(
    features: Features, real: Reality, groups: Sequence[int], seed: int
) -> dict[str, float | None]:
    """Distances of generated images to the held-out images of a data set; None for a subject, and with too few.

    Several images of one caption are one cluster: paired with each other they would make every model's images look less
    varied than the real ones, of which each has a caption of its own. So are held-out images of one group. What varies
    is between clusters, so that few of them tell no distance and no interval, whatever number of images they have.
    """
    if real.sets is None or min(len(features.images), len(real.references)) < MIN_DISTRIBUTION_IMAGES:
        return _no_distances("dataset")
    if min(len(set(groups)), len(set(real.units))) < MIN_DISTRIBUTION_UNITS:
        return _no_distances("dataset")
    clip = features.images_clip, real.references_clip
    return _distances("dataset", (features.images, real.references), clip, seed, (groups, real.units))


def _no_distances(of: str) -> dict[str, float | None]:
    return dict.fromkeys(f"{of}_{name}{end}" for name in ("kid", "cmmd") for end in ("", "_low", "_high"))


def _distances(
    of: str,
    kid: tuple[Array, Array],
    cmmd: tuple[Array, Array],
    seed: int,
    clusters: metrics.Clusters | None = None,
) -> dict[str, float | None]:
    """KID and CMMD of two sets of images with their intervals, each by its embeddings."""
    found = {
        **_no_distances(of),
        f"{of}_kid": metrics.kid(*kid, clusters),
        f"{of}_cmmd": metrics.cmmd(*cmmd, clusters),
    }
    intervals = {
        "kid": metrics.kid_interval(*kid, seed=seed, clusters=clusters),
        "cmmd": metrics.cmmd_interval(*cmmd, seed=seed, clusters=clusters),
    }
    for name, interval in intervals.items():
        if interval is not None:
            found |= {f"{of}_{name}_low": interval[0], f"{of}_{name}_high": interval[1]}
    return found


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
