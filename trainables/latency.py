"""How fast the result of a run draws when it is used as it would be: with adapters merged into the weights."""

from __future__ import annotations

import time

from trainables.evaluation.protocol import Protocol
from trainables.families import Backbone
from trainables.methods.protocol import Method
from trainables.sampling import generate

_MOST_IMAGES = 8  # one small batch: it is measured once a run


def fused_latency(
    backbone: Backbone, method: Method, protocol: Protocol, batch_size: int, unfused: float
) -> float:
    """Returns wall seconds per image, at the evaluation's number of solver steps, with adapters merged.

    Measured on one batch of at most 8 of the evaluation's images, after a solver step that is not timed. Base weights
    are afterwards what they were before, bit by bit.

    Args:
        batch_size: The evaluation's.
        unfused: The evaluation's own figure, which stands for methods that have nothing to merge.
    """
    draw = protocol.instance
    count = min(_MOST_IMAGES, batch_size, len(draw.prompts))

    def seconds(steps: int) -> float:
        begin = time.perf_counter()
        generate(
            backbone,
            draw.prompts[:count],
            seeds=draw.seeds[:count],
            num_inference_steps=steps,
            guidance_scale=protocol.guidance_scale,
            batch_size=count,
            resolution=protocol.resolution,
        )
        return time.perf_counter() - begin

    with method.fused(backbone) as merged:
        if not merged:
            return unfused
        seconds(1)  # the first use of merged weights is slower
        return seconds(protocol.num_inference_steps) / count
