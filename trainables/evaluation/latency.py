"""How fast the result of a run draws: with adapters beside the weights, and merged into them, as it would be used.

Both figures are measured here and in the same way, for every method and for the base model: their difference, and that
of two methods, is then one of what is computed, and not of batches or of what the process did before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from trainables.config.fields import LATENCY_IMAGES, LATENCY_REPEATS
from trainables.evaluation.protocol import Protocol
from trainables.methods.protocol import Method
from trainables.models.backbone import Backbone
from trainables.models.sampling import generate


@dataclass(frozen=True)
class Latency:
    """Wall seconds per image.

    Attributes:
        beside: With adapters beside the weights.
        fused: With adapters merged into them; the same figure where there is nothing to merge, and None where weights
            are quantised, so that nothing can be merged into them.
    """

    beside: float
    fused: float | None


def measure_latency(backbone: Backbone, method: Method, protocol: Protocol) -> Latency:
    """Times sampling with the model as it is now, and with adapters merged.

    One batch of `LATENCY_IMAGES` images of the evaluation's first prompts, at its number of solver steps; each time
    after a solver step that is not timed, since the first use of weights is slower. The two figures are taken in turn,
    `LATENCY_REPEATS` times, and the smaller of each counts. Base weights are afterwards what they were before, bit by
    bit.
    """
    beside, fused, merges = [], [], True
    for _ in range(LATENCY_REPEATS):
        beside.append(_seconds_per_image(backbone, protocol))
        with method.fused(backbone) as merged:
            merges = merged is not None
            if merged:
                fused.append(_seconds_per_image(backbone, protocol))
    return Latency(min(beside), min(fused or beside) if merges else None)


def _seconds_per_image(backbone: Backbone, protocol: Protocol) -> float:
    templates = protocol.beside
    chosen = templates.chosen([index % len(templates) for index in range(LATENCY_IMAGES)])

    def draw(steps: int) -> None:
        generate(
            backbone,
            chosen.prompts,
            seeds=chosen.seeds,
            num_inference_steps=steps,
            guidance_scale=protocol.guidance_scale,
            batch_size=LATENCY_IMAGES,
            resolution=protocol.resolution,
        )

    draw(1)
    begin = time.perf_counter()
    draw(protocol.num_inference_steps)
    return (time.perf_counter() - begin) / LATENCY_IMAGES
