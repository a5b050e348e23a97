"""Which images an evaluation draws: prompts, noise and solver, fixed by the study and the subject alone.

Nothing here depends on the run's method or seed, so that all runs on a subject are judged on the same prompts
with the same noise, at intermediate steps as at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainables.config import EvaluationConfig
from trainables.evaluation.prompts import evaluation_templates, fill
from trainables.sampling import image_seed
from trainables.subjects import Subject


@dataclass(frozen=True)
class Draw:
    """Images to draw; the three tuples have one entry an image.

    Attributes:
        prompts: What is drawn.
        groups: Number of the template, so that images of one prompt can be found.
        seeds: Of the noise.
    """

    prompts: tuple[str, ...]
    groups: tuple[int, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True)
class Protocol:
    """Everything that fixes the images of an evaluation.

    Attributes:
        templates: With ``{subject}``.
        texts: Templates with the class in the subject's place, which images are compared with: the rare token
            means nothing to a CLIP that has never seen it.
        instance: The templates with the subject, several images each.
        classes: The class prompt alone, then the templates with the class, in turn: for drift, for what the
            class takes over from the subject, and for KID.
        classes_again: The same prompts with other noise, twice as many. They are KID's reference, because
            images that share their noise are not independent samples.
        num_inference_steps: Solver steps.
        guidance_scale: Of classifier-free guidance.
        resolution: Side in pixels.
    """

    templates: tuple[str, ...]
    texts: tuple[str, ...]
    instance: Draw
    classes: Draw
    classes_again: Draw
    num_inference_steps: int
    guidance_scale: float
    resolution: int

    def identity(self, draw: Draw) -> dict[str, Any]:
        """Everything that determines a draw, beside the model, as JSON values."""
        return {
            "prompts": list(draw.prompts),
            "seeds": list(draw.seeds),
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "resolution": self.resolution,
        }

    def provenance(self) -> dict[str, Any]:
        """What a report says about the protocol."""
        return {
            "templates": list(self.templates),
            "images": len(self.instance),
            "class_images": len(self.classes),
            "solver": "DPM-Solver++(2M)",
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "resolution": self.resolution,
        }


def make_protocol(subject: Subject, config: EvaluationConfig, resolution: int) -> Protocol:
    """Returns the protocol of a subject under a study's evaluation settings."""
    templates = evaluation_templates(subject, config)
    texts = tuple(fill(template, subject.class_prompt) for template in templates)
    class_prompts = (subject.class_prompt, *texts)
    return Protocol(
        templates=templates,
        texts=texts,
        instance=_draw(
            tuple(fill(template, subject.instance_prompt) for template in templates),
            config.images_per_prompt * len(templates),
            config.seed,
            "instance",
        ),
        classes=_draw(class_prompts, config.num_class_images, config.seed, "class"),
        classes_again=_draw(class_prompts, 2 * config.num_class_images, config.seed, "class again"),
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        resolution=resolution,
    )


def _draw(prompts: tuple[str, ...], count: int, seed: int, purpose: str) -> Draw:
    """`count` images of the prompts in turn, grouped by prompt, so that a prefix of prompts keeps its
    noise.
    """
    pairs = sorted((number % len(prompts), number // len(prompts)) for number in range(count))
    return Draw(
        prompts=tuple(prompts[prompt] for prompt, _ in pairs),
        groups=tuple(prompt for prompt, _ in pairs),
        seeds=tuple(image_seed(seed, purpose, prompt, image) for prompt, image in pairs),
    )
