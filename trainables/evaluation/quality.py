"""The one scalar that a search may maximise, and the rule behind it.

Quality has three axes that work against each other (arXiv 2309.14859: correlation -0.95 of subject and prompt over
tuned configurations; a model tuned without prior preservation turns the whole class into its subject), and no scalar
replaces them in a comparison. A search with one objective needs one all the same, and this is it:

    quality = clip(S, 0, 1) * clip(P, 0, 1) * clip(C, 0, 1)

    S = (s - s_base) / (s_real - s_base)      subject: base model 0, real held-out images 1
    P = (p - p_floor) / (p_base - p_floor)    prompt: images of other prompts 0, base model 1
    C = (s_real - c) / (s_real - c_base)      class kept: class images as like the subject as real ones 0, as the
                                              base model's 1

A product, because a model that fails on one axis is of no use: the base model follows prompts and knows nothing of
the subject (near 0), one that repeats a training photograph shows the subject and ignores the prompt (near 0), one
that has lost the class draws its subject whenever it is asked for another of the kind. `quality_subject_prompt` is the
product without C, for whoever wants nothing else of the model.

All factors are clipped to [0, 1]. Below 0, or two failures would multiply to a success. Above 1, because
there is nothing to reward there: images more alike to the references than real photographs are among
themselves are copies (their prompts suffer, or memorisation shows it), and a tuned model that outdoes its own
base in CLIP similarity mostly repeats the prompt's objects, or is lucky in a few images. Unclipped, one axis
could pay for the other. The scaled values are reported as they are, so that nothing is hidden.

The base model's own images are measured like any run's and score about, not exactly, S = 0, P = 1, C = 1: the anchors
are means of other images, of class prompts and with other noise.

An image has failed if it shows another subject or another prompt: if its own S or its own P is below 0.6. Both
thresholds are calibrated on pictures of the sprite world whose truth is known (``python -m benchmarks.failed_images``;
32 subjects; in brackets with the search's prompts). Of perfect pictures of the subject in the prompts 1.0 % (0.2 %) are
called failed; of pictures of other identities of the class 98.5 % (98.3 %); of pictures held against prompts that they
do not show 96.9 % (94.4 %), and of those of them that lack nothing but the accessory 90.0 %.
Photographs have no such truth; there the same thresholds are a convention.

Of a data set the same three axes have other ends (`DATA_SET_RULE`). An image of a held-out caption is compared with
the held-out images of the caption's character, with all of them where nobody is named (or where a character is on one
real image alone, so that nobody knows how alike its images are): a style or a domain is then what
they share. P is measured between the real held-out images with the other captions and with their own, since the base
model is no end that a model of this data can reach: its pictures are in another style, which CLIP may read much better
than the data set's (of the cast of the sprite world drawn in ink, the real images themselves lie at .38 between the
base model's floor and its own fidelity, so that learning the style would cost most of P), and captions may be of things
that it cannot draw. Only where a study gives captions of its own, which no real image has, are the base model's images
both ends. Where CLIP does not tell the real images from those of other captions (the embedded CLIP knows no words of
emoji), P and with it quality are unknown, rather than amplified noise or a reward for not learning: an objective of
such a data set is `subject_fidelity_scaled` or `dataset_kid`. Whether it does is asked of all held-out captions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RULE = (
    "quality = clip(S, 0, 1) x clip(P, 0, 1) x clip(C, 0, 1), where S = (s - s_base) / (s_real - s_base) with s the "
    "subject fidelity, s_base that of the base model's images of the class and s_real that of real images among "
    "themselves, P = (p - p_floor) / (p_base - p_floor) with p the prompt fidelity, p_base that of the base model and "
    "p_floor the similarity of the base model's images to the other evaluation prompts, and "
    "C = (s_real - c) / (s_real - c_base) with c the similarity of class images to the subject's references and c_base "
    "that of the base model's. quality_subject_prompt = clip(S, 0, 1) x clip(P, 0, 1). Undefined where a denominator "
    "is below 0.01."
)

DATA_SET_RULE = (
    "Of a data set: quality = clip(S, 0, 1) x clip(P, 0, 1) x clip(C, 0, 1), where S = (s - s_base) / (s_real - "
    "s_base) with s the mean cosine of images of held-out captions with the held-out images of the caption's "
    "character (with all of them where no characters are named, or one real image alone shows it), s_base that of the "
    "base model's images of the same captions without the trigger and s_real that of the held-out images of one "
    "character among themselves; P = (p - p_floor) / (p_one - p_floor) with p the similarity of image and caption, "
    "the trigger left out (CLIP-T), p_one that of the real held-out images to their own captions and p_floor to the "
    "other captions (both of the base model's images where the study gives captions of its own; undefined where all "
    "held-out captions do not differ by 0.01 and by two standard errors over captions); and C = (s_real - c) / "
    "(s_real - c_base) with c the similarity of images of the captions without the trigger to the same held-out "
    "images and c_base that of the base model's. Without a trigger c is of a fixed list of general prompts, compared "
    "with all held-out images. quality_subject_prompt = clip(S, 0, 1) x clip(P, 0, 1). Undefined where a denominator "
    "is below 0.01."
)

SMALLEST_SPAN = 0.01  # cosine; below it the rescaling would amplify noise a hundredfold


FAILED_SUBJECT = 0.6  # S of one image
FAILED_PROMPT = 0.6  # P of one image


@dataclass(frozen=True)
class Anchors:
    """What similarities are measured against; None where the data cannot give it.

    Attributes:
        subject_base: Similarity of the base model's images of the class, in the evaluation's prompts, to the subject's
            references.
        subject_real: Mean cosine of real images with held-out ones.
        prompt_base: Prompt fidelity of the base model.
        prompt_floor: Mean cosine of the base model's images with the other evaluation prompts.
        class_base: As `subject_base`, over the prompts of the run's class images.
        class_real: As `subject_real`, for the class images' prompts; None: `subject_real`.
    """

    subject_base: float | None
    subject_real: float | None
    prompt_base: float | None
    prompt_floor: float | None
    class_base: float | None
    class_real: float | None = None

    @property
    def class_zero(self) -> float | None:
        """The end of the class scale at which class images are as like the references as real images are."""
        return self.subject_real if self.class_real is None else self.class_real

    def scaled_subject(self, value: float | None) -> float | None:
        """S of a similarity to the references."""
        return rescale(value, self.subject_base, self.subject_real)

    def scaled_prompt(self, value: float | None) -> float | None:
        """P of a similarity to the prompt."""
        return rescale(value, self.prompt_floor, self.prompt_base)

    def class_kept(self, value: float | None) -> float | None:
        """C of a similarity of class images to the references."""
        taken_over = rescale(value, self.class_base, self.class_zero)
        return None if taken_over is None else 1.0 - taken_over


@dataclass(frozen=True)
class AnchorErrors:
    """Standard errors of the fields of `Anchors`, in cosines; None where the data cannot give it.

    The methods say what they come to in a scaled score: an error of the end where the score stands counts in full, one
    of the other end not at all. With v = (x - z) / (o - z) the derivatives are dv/dz = -(1 - v) / (o - z) and
    dv/do = -v / (o - z). The ends are taken for independent.
    """

    subject_base: float | None
    subject_real: float | None
    prompt_base: float | None
    prompt_floor: float | None
    class_base: float | None
    class_real: float | None = None

    def of_subject(self, scaled: float | None, anchors: Anchors) -> float | None:
        """Standard error of S that comes of the ends of its scale: sqrt(((1 - S) e0)^2 + (S e1)^2)."""
        ends = anchors.subject_base, anchors.subject_real
        return scaled_error(scaled, *ends, self.subject_base, self.subject_real)

    def of_prompt(self, scaled: float | None, anchors: Anchors) -> float | None:
        """Standard error of P that comes of the ends of its scale: sqrt(((1 - P) e0)^2 + (P e1)^2)."""
        ends = anchors.prompt_floor, anchors.prompt_base
        return scaled_error(scaled, *ends, self.prompt_floor, self.prompt_base)

    def of_class(self, kept: float | None, anchors: Anchors) -> float | None:
        """Standard error of C that comes of the ends of its scale, which runs from real images (0) to the base model
        (1): sqrt(((1 - C) e0)^2 + (C e1)^2).
        """
        taken_over = None if kept is None else 1.0 - kept
        ends = anchors.class_base, anchors.class_zero
        real = self.subject_real if anchors.class_real is None else self.class_real
        return scaled_error(taken_over, *ends, self.class_base, real)


@dataclass(frozen=True)
class Quality:
    """The scalars and their factors before clipping; None where an anchor is missing or two coincide."""

    quality: float | None
    quality_subject_prompt: float | None
    subject_fidelity_scaled: float | None
    prompt_fidelity_scaled: float | None
    class_kept: float | None


def rescale(value: float | None, zero: float | None, one: float | None) -> float | None:
    """Returns where `value` lies between `zero` (0) and `one` (1).

    None if any of them is missing, or if `one` is not at least `SMALLEST_SPAN` above `zero`: then the base
    model already is as close as real images, or does not tell prompts apart, and there is no scale to measure
    on.
    """
    if value is None or zero is None or one is None or one - zero < SMALLEST_SPAN:
        return None
    return (value - zero) / (one - zero)


def scaled_error(
    scaled: float | None,
    zero: float | None,
    one: float | None,
    zero_error: float | None,
    one_error: float | None,
) -> float | None:
    """Returns the standard error of a scaled score that comes of both ends of its scale, in scaled units.

    None where there is no scale, as in `rescale`, or where an error is not known: a part would be taken for the whole.

    Args:
        scaled: What `rescale` gave.
        zero_error: Standard error of `zero`, in the unit of `zero`; likewise `one_error`.
    """
    if scaled is None or zero is None or one is None or one - zero < SMALLEST_SPAN:
        return None
    if zero_error is None or one_error is None:
        return None
    return math.hypot((1.0 - scaled) * zero_error, scaled * one_error) / (one - zero)


def compute_quality(
    subject: float | None, prompt: float | None, class_similarity: float | None, anchors: Anchors
) -> Quality:
    """Applies `RULE` to a subject fidelity, a prompt fidelity, and the similarity of class images to the references."""
    s, p = anchors.scaled_subject(subject), anchors.scaled_prompt(prompt)
    c = anchors.class_kept(class_similarity)
    return Quality(clipped_product(s, p, c), clipped_product(s, p), s, p, c)


def clipped_product(*factors: float | None) -> float | None:
    """Returns the product of factors clipped to [0, 1]; None if one is missing."""
    product = 1.0
    for factor in factors:
        if factor is None:
            return None
        product *= min(1.0, max(0.0, factor))
    return product


def has_failed(subject_scaled: float | None, prompt_scaled: float | None) -> bool | None:
    """Whether an image shows another subject or another prompt, by its own S and P; None where there is no scale."""
    known = [
        value < limit
        for value, limit in ((subject_scaled, FAILED_SUBJECT), (prompt_scaled, FAILED_PROMPT))
        if value is not None
    ]
    if any(known):
        return True
    return False if len(known) == 2 else None
