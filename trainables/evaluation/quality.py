"""The one scalar that a search may maximise, and the rule behind it.

Quality has two axes that work against each other (arXiv 2309.14859: correlation -0.95 over tuned
configurations), and no scalar replaces them in a comparison. A search with one objective needs one all the
same, and this is it:

    quality = clip(subject_scaled, 0, 1) * clip(prompt_scaled, 0, 1)

    subject_scaled = (s - s_base) / (s_real - s_base)      base model 0, real held-out images 1
    prompt_scaled  = (p - p_floor) / (p_base - p_floor)    images of other prompts 0, base model 1

A product, because a model that fails on either axis is of no use: the base model follows prompts and knows
nothing of the subject (0), one that repeats a training photograph shows the subject and ignores the prompt
(near 0).

Both factors are clipped to [0, 1]. Below 0, or two failures would multiply to a success. Above 1, because
there is nothing to reward there: images more alike to the references than real photographs are among
themselves are copies (their prompts suffer, or memorisation shows it), and a tuned model that outdoes its own
base in CLIP similarity mostly repeats the prompt's objects, or is lucky in a few images. Unclipped, one axis
could pay for the other. The scaled values are reported as they are, so that nothing is hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

RULE = (
    "quality = clip(S, 0, 1) x clip(P, 0, 1), where S = (s - s_base) / (s_real - s_base) with s the subject "
    "fidelity, s_base that of the base model and s_real that of real images among themselves, and "
    "P = (p - p_floor) / (p_base - p_floor) with p the prompt fidelity, p_base that of the base model and "
    "p_floor the similarity of the base model's images to the other evaluation prompts. Undefined where a "
    "denominator is below 0.01."
)

RESOLUTION = 1e-6  # cosine; means of float32 cosines that come of the same images another way differ by less
SMALLEST_SPAN = 0.01  # cosine; below it the rescaling would amplify noise a hundredfold


@dataclass(frozen=True)
class Anchors:
    """What the two fidelities are measured against; None where the data cannot give it.

    Attributes:
        subject_base: Subject fidelity of the base model (same prompts and noise).
        subject_real: Mean cosine of real images with held-out ones.
        prompt_base: Prompt fidelity of the base model.
        prompt_floor: Mean cosine of the base model's images with the other evaluation prompts.
    """

    subject_base: float | None
    subject_real: float | None
    prompt_base: float | None
    prompt_floor: float | None


@dataclass(frozen=True)
class Quality:
    """The scalar and its two factors before clipping; None where an anchor is missing or two coincide."""

    quality: float | None
    subject_fidelity_scaled: float | None
    prompt_fidelity_scaled: float | None


def rescale(value: float | None, zero: float | None, one: float | None) -> float | None:
    """Returns where `value` lies between `zero` (0) and `one` (1); exactly 0 or 1 where only rounding is between.

    None if any of them is missing, or if `one` is not at least `SMALLEST_SPAN` above `zero`: then the base
    model already is as close as real images, or does not tell prompts apart, and there is no scale to measure
    on.
    """
    if value is None or zero is None or one is None or one - zero < SMALLEST_SPAN:
        return None
    for anchor, position in ((zero, 0.0), (one, 1.0)):
        if abs(value - anchor) < RESOLUTION:
            return position
    return (value - zero) / (one - zero)


def compute_quality(subject: float | None, prompt: float | None, anchors: Anchors) -> Quality:
    """Applies `RULE` to a subject fidelity and a prompt fidelity."""
    subject_scaled = rescale(subject, anchors.subject_base, anchors.subject_real)
    prompt_scaled = rescale(prompt, anchors.prompt_floor, anchors.prompt_base)
    if subject_scaled is None or prompt_scaled is None:
        return Quality(None, subject_scaled, prompt_scaled)
    return Quality(_clip(subject_scaled) * _clip(prompt_scaled), subject_scaled, prompt_scaled)


def _clip(value: float) -> float:
    return min(1.0, max(0.0, value))
