"""Where the scales of an evaluation begin and end, and how sure that is: pure functions of embeddings.

The base model's images of class prompts, many a prompt and without the rare token, give one mean a prompt. A run's
scores are measured against the mean over the prompts that its own images are of, each prompt weighted by their number:
an evaluation on the way that draws fewer prompts is measured against those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.evaluation import metrics
from trainables.evaluation.metrics import Array
from trainables.evaluation.quality import AnchorErrors, Anchors


@dataclass(frozen=True)
class AnchorTable:
    """Similarities of the base model's images of class prompts, a mean a prompt.

    Attributes:
        subject: To the subject's references; the class prompt alone first, then the templates.
        prompt: To their own prompt; one entry a template.
        floor: To the other evaluation prompts; one entry a template, empty with fewer than two templates.
        real: Mean similarity of real images of the subject with held-out ones, or None. It rests on the references
            alone, where there are four or more.
        real_error: Its standard error, or None.
        images: That the templates' means rest on: at least `EvaluationConfig.anchor_images`.
    """

    subject: tuple[float, ...]
    prompt: tuple[float, ...]
    floor: tuple[float, ...]
    real: float | None
    real_error: float | None
    images: int

    def of(self, groups: Sequence[int], class_groups: Sequence[int]) -> Anchors:
        """Returns the anchors of images of these prompts.

        Args:
            groups: Number of the template of each image of the subject.
            class_groups: Of each class image; 0: the class prompt alone, 1: template 0, ...
        """
        return Anchors(
            subject_base=_mean_of(self.subject[1:], groups),
            subject_real=self.real,
            prompt_base=_mean_of(self.prompt, groups),
            prompt_floor=_mean_of(self.floor, groups) if self.floor else None,
            class_base=_mean_of(self.subject, class_groups),
        )

    def errors(self, groups: Sequence[int], class_groups: Sequence[int]) -> AnchorErrors:
        """Returns the standard errors of the anchors of images of these prompts; arguments as of `of`.

        Those of the base model's images from the means of the prompts: images of one prompt are alike and do not count
        as so many independent ones. That takes the prompts for a sample of prompts, so it is an upper bound for runs
        that are judged on the same. None with fewer than two prompts.
        """
        return AnchorErrors(
            subject_base=_error_of(self.subject[1:], groups),
            subject_real=self.real_error,
            prompt_base=_error_of(self.prompt, groups),
            prompt_floor=_error_of(self.floor, groups) if self.floor else None,
            class_base=_error_of(self.subject, class_groups),
        )

    def provenance(self) -> dict[str, Any]:
        """What a report says of the anchors of a whole evaluation, as JSON values: each, and under its name with
        ``_error`` its standard error, in cosines.
        """
        everything = range(len(self.prompt)), range(len(self.subject))
        errors = self.errors(*everything).__dict__
        return {
            **self.of(*everything).__dict__,
            **{f"{name}_error": error for name, error in errors.items()},
            "images": self.images,
        }


def make_anchors(
    features: Array,
    clip_features: Array,
    groups: Sequence[int],
    texts: Array,
    references: Array,
    real: float | None,
    real_error: float | None,
) -> AnchorTable:
    """Returns the anchors from the embeddings of the base model's images.

    Args:
        features: Of the image encoder, shape (images, features).
        clip_features: Of CLIP, shape (images, features).
        groups: Number of each image's prompt; 0: the class prompt alone, 1: template 0, ...
        texts: CLIP's embeddings of the templates with the class, one row a template.
        references: Of the image encoder, of the held-out references.
        real: How similar real images are to held-out ones.
        real_error: Its standard error.
    """
    numbers = np.asarray(groups)
    similarity = metrics.cosines(features, references).mean(axis=1)
    table = metrics.cosines(clip_features, texts)
    of_template = [table[numbers == template + 1] for template in range(len(texts))]
    floor: tuple[float, ...] = ()
    if len(texts) > 1:
        floor = tuple(
            float(np.delete(rows, template, axis=1).mean()) for template, rows in enumerate(of_template)
        )
    return AnchorTable(
        subject=tuple(float(similarity[numbers == group].mean()) for group in range(len(texts) + 1)),
        prompt=tuple(float(rows[:, template].mean()) for template, rows in enumerate(of_template)),
        floor=floor,
        real=real,
        real_error=real_error,
        images=int((numbers > 0).sum()),
    )


def _mean_of(values: Sequence[float], groups: Sequence[int]) -> float:
    return float(np.mean([values[group] for group in groups]))


def _error_of(values: Sequence[float], groups: Sequence[int]) -> float | None:
    """Standard error of `_mean_of`; None with fewer than two prompts."""
    prompts, counts = np.unique(np.asarray(groups), return_counts=True)
    if len(prompts) < 2:
        return None
    weights = counts / counts.sum()
    means = np.asarray(values)[prompts]
    return float(np.std(means, ddof=1) * np.sqrt((weights**2).sum()))
