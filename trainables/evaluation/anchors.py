"""Where the scales of an evaluation begin and end, and how sure that is: pure functions of embeddings.

The base model's images of class prompts, many a prompt and without the rare token, give one mean a prompt. A run's
scores are measured against the mean over the prompts that its own images are of, each prompt weighted by their number:
an evaluation on the way that draws fewer prompts is measured against those. Of a data set every prompt has references
of its own, those of its character, and with them an end of its own where real images lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trainables.evaluation import metrics
from trainables.evaluation.held_out_captions import told_apart
from trainables.evaluation.metrics import Array
from trainables.evaluation.quality import SMALLEST_SPAN, AnchorErrors, Anchors


@dataclass(frozen=True)
class ReferenceSets:
    """Which held-out images of a data set the images of each prompt are compared with.

    Attributes:
        rows: Of each set, rows of the references; set 0 is all of them, the others are those of one character.
        characters: Of each set whom it shows; empty for set 0.
        of_group: Number of the set of each group of prompts: 0 the class prompt alone, 1 template 0, ...
    """

    rows: tuple[tuple[int, ...], ...]
    characters: tuple[str, ...]
    of_group: tuple[int, ...]

    def of(self, groups: Sequence[int]) -> list[tuple[int, ...]]:
        """Returns the rows of references of each image, by its group."""
        return [self.rows[self.of_group[group]] for group in groups]


@dataclass(frozen=True)
class RealEnds:
    """How similar real images are to each other, by set of references; None where a set has no pair.

    Attributes:
        of_group: As in `ReferenceSets`.
        values: One entry a set.
        errors: Their standard errors.
    """

    of_group: tuple[int, ...]
    values: tuple[float | None, ...]
    errors: tuple[float | None, ...]

    def mean(self, groups: Sequence[int]) -> float | None:
        """Returns the mean over images of these groups; None if one is not known."""
        known = [(weight, self.values[number]) for number, weight in self._weights(groups)]
        return None if any(v is None for _, v in known) else sum(w * v for w, v in known if v is not None)

    def error(self, groups: Sequence[int]) -> float | None:
        """Returns the standard error of `mean`: sets share no image but with set 0, and are taken for independent."""
        known = [(weight, self.errors[number]) for number, weight in self._weights(groups)]
        if any(error is None for _, error in known):
            return None
        return float(np.sqrt(sum((w * e) ** 2 for w, e in known if e is not None)))

    def _weights(self, groups: Sequence[int]) -> list[tuple[int, float]]:
        numbers, counts = np.unique([self.of_group[group] for group in groups], return_counts=True)
        return [
            (int(number), float(count / counts.sum())) for number, count in zip(numbers, counts, strict=True)
        ]


@dataclass(frozen=True)
class PromptEnd:
    """How similar some images are to captions, one entry a caption.

    Attributes:
        own: To the caption that they are of.
        others: To all others; empty with fewer than two captions.
    """

    own: tuple[float, ...]
    others: tuple[float, ...]

    @property
    def tells_captions(self) -> bool:
        """Whether the images are more similar to their own captions than to others, by `SMALLEST_SPAN` and by two
        standard errors over captions.
        """
        if len(self.own) < 2:
            return False
        gaps = np.subtract(self.own, self.others)
        error = gaps.std(ddof=1) / math.sqrt(len(gaps))
        return bool(gaps.mean() >= max(SMALLEST_SPAN, 2 * error))


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
        ends: Of a data set: the real ends of each group's references, in the place of `real` and `real_error`.
        class_groups: Groups of which class images can be; empty: all.
        prompt_end: Whose images `prompt` and `floor` are of; "none" where they tell no captions apart, and no floor is
            known.
    """

    subject: tuple[float, ...]
    prompt: tuple[float, ...]
    floor: tuple[float, ...]
    real: float | None
    real_error: float | None
    images: int
    ends: RealEnds | None = None
    class_groups: tuple[int, ...] = ()
    prompt_end: Literal["base model", "real images", "none"] = "base model"

    def of(self, groups: Sequence[int], class_groups: Sequence[int]) -> Anchors:
        """Returns the anchors of images of these prompts.

        Args:
            groups: Number of the template of each image of the subject.
            class_groups: Of each class image; 0: the class prompt alone, 1: template 0, ...
        """
        ends, of_templates = self.ends, [group + 1 for group in groups]
        return Anchors(
            subject_base=_mean_of(self.subject[1:], groups),
            subject_real=self.real if ends is None else ends.mean(of_templates),
            prompt_base=_mean_of(self.prompt, groups),
            prompt_floor=_mean_of(self.floor, groups) if self.floor else None,
            class_base=_mean_of(self.subject, class_groups),
            class_real=None if ends is None else ends.mean(class_groups),
        )

    def errors(self, groups: Sequence[int], class_groups: Sequence[int]) -> AnchorErrors:
        """Returns the standard errors of the anchors of images of these prompts; arguments as of `of`.

        Those of the base model's images from the means of the prompts: images of one prompt are alike and do not count
        as so many independent ones. That takes the prompts for a sample of prompts, so it is an upper bound for runs
        that are judged on the same. None with fewer than two prompts.
        """
        ends, of_templates = self.ends, [group + 1 for group in groups]
        return AnchorErrors(
            subject_base=_error_of(self.subject[1:], groups),
            subject_real=self.real_error if ends is None else ends.error(of_templates),
            prompt_base=_error_of(self.prompt, groups),
            prompt_floor=_error_of(self.floor, groups) if self.floor else None,
            class_base=_error_of(self.subject, class_groups),
            class_real=None if ends is None else ends.error(class_groups),
        )

    def provenance(self) -> dict[str, Any]:
        """What a report says of the anchors of a whole evaluation, as JSON values: each, and under its name with
        ``_error`` its standard error, in cosines.
        """
        everything = range(len(self.prompt)), self.class_groups or range(len(self.subject))
        errors = self.errors(*everything).__dict__
        found = {
            **self.of(*everything).__dict__,
            **{f"{name}_error": error for name, error in errors.items()},
            "images": self.images,
        }
        if self.ends is not None:
            return {**found, "prompt_end": self.prompt_end}
        return {name: value for name, value in found.items() if not name.startswith("class_real")}


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
    of_templates = numbers > 0
    base = prompt_end(clip_features[of_templates], (numbers[of_templates] - 1).tolist(), texts)
    return AnchorTable(
        subject=tuple(float(similarity[numbers == group].mean()) for group in range(len(texts) + 1)),
        prompt=base.own,
        floor=base.others,
        real=real,
        real_error=real_error,
        images=int(of_templates.sum()),
    )


def make_sets(
    characters: Sequence[str], shown: Sequence[str], groups: int, trained: Sequence[str] = ()
) -> ReferenceSets:
    """Returns which references the images of a data set's prompts are compared with.

    A template whose character is on no reference, or that names none, is compared with all of them; and so is one whose
    character is on a single real image (`told_apart`): how alike real images of it are is then not known, and without
    that end of its scale there would be no S, and no quality, of the whole run.

    Args:
        characters: Of the templates; empty where nobody is named.
        shown: Whom each reference shows, one entry a reference.
        groups: Of prompts: the class prompt alone, the templates, and general prompts, which are compared with all.
        trained: Whom each training image shows; empty where nobody is named.
    """
    names = sorted({name for name in characters if name} & told_apart(shown, trained))
    sets = [tuple(range(len(shown)))]
    sets += [tuple(row for row, own in enumerate(shown) if own == name) for name in names]
    numbers = {name: number for number, name in enumerate(names, start=1)}
    of_group = [0] * groups
    for template, name in enumerate(characters):
        of_group[template + 1] = numbers.get(name, 0)
    return ReferenceSets(tuple(sets), ("", *names), tuple(of_group))


def make_data_set_anchors(
    features: Array,
    clip_features: Array,
    groups: Sequence[int],
    texts: Array,
    references: Array,
    sets: ReferenceSets,
    ends: RealEnds,
    own: PromptEnd | None,
    everything: PromptEnd | None,
    class_groups: Sequence[int],
) -> AnchorTable:
    """Returns the anchors of a data set from the embeddings of the base model's images; see `make_anchors`.

    Args:
        sets: Which of the references each group is compared with.
        ends: How similar these are to each other.
        own: How similar real images are to captions; None where a template is no caption of theirs, so that the base
            model's images are the ends.
        everything: Where `own` is given: the same of all captions of real images, which decide whether CLIP reads them.
        class_groups: Groups of which class images can be.
    """
    numbers = np.asarray(groups)
    similarity = metrics.similarity_to_sets(features, references, sets.of(groups))
    means = {int(group): float(similarity[numbers == group].mean()) for group in np.unique(numbers)}
    of_captions = numbers <= len(texts)
    base = prompt_end(clip_features[of_captions], (numbers[of_captions] - 1).tolist(), texts)
    # Settled over all captions, so that evaluations of some of them are on the same scale.
    # Captions that the real images do not show, to this CLIP, are no measure of what is learnt of these images, however
    # well the base model follows them.
    by_real = own is not None and everything is not None and everything.tells_captions
    by_base = own is None and base.tells_captions
    chosen = own or base
    return AnchorTable(
        subject=tuple(means.get(group, math.nan) for group in range(len(sets.of_group))),
        prompt=chosen.own,
        floor=chosen.others if by_real or by_base else (),
        real=None,
        real_error=None,
        images=int(of_captions.sum()),
        ends=ends,
        class_groups=tuple(class_groups),
        prompt_end="real images" if by_real else "base model" if by_base else "none",
    )


def prompt_end(clip_features: Array, captions: Sequence[int], texts: Array) -> PromptEnd:
    """Returns the similarities of images to captions.

    Args:
        clip_features: Of CLIP, shape (images, features).
        captions: Number of each image's caption; every caption has an image.
        texts: CLIP's embeddings of the captions.
    """
    numbers = np.asarray(captions)
    table = metrics.cosines(clip_features, texts)
    of_caption = [table[numbers == caption] for caption in range(len(texts))]
    others: tuple[float, ...] = ()
    if len(texts) > 1:
        others = tuple(float(np.delete(rows, k, axis=1).mean()) for k, rows in enumerate(of_caption))
    return PromptEnd(tuple(float(rows[:, k].mean()) for k, rows in enumerate(of_caption)), others)


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
