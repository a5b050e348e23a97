"""Images of the class for prior preservation: made by the base model, shared by runs, charged to each of them.

What making them took is kept beside them, so that a run which finds them is charged as much as the one that made them:
what a run costs must not depend on which run came first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from PIL import Image

from trainables.config.fields import CLASS_IMAGES_AT_ONCE, TrainingConfig
from trainables.data.cache import Cache, Tensors
from trainables.models.backbone import Backbone
from trainables.models.sampling import generate
from trainables.randomness import stream_seed
from trainables.training.meter import device_name
from trainables.util.flops import count_flops

# Of the entries: from 2 on they hold what making them took, from 3 on each prompt has its own noise, from 4 on models
# that predict velocity draw in other steps.
_VERSION = 4


@dataclass(frozen=True)
class ClassImages:
    """Images of a class, and what making them took.

    Attributes:
        seconds: Wall seconds as measured by whoever made them.
        flops: Counted floating-point operations of text encoders, denoiser and decoder.
    """

    images: list[Image.Image]
    seconds: float
    flops: int


def make_class_images(
    backbone: Backbone, cache: Cache, prompt: str, training: TrainingConfig, resolution: int
) -> ClassImages:
    """Returns images of the class made by the base model, from the cache where another run has made them.

    They are made `CLASS_IMAGES_AT_ONCE` at a time, an entry of the cache each, so that asking for more reuses those
    that are there; of those that a run takes not all, it is charged its part.
    """
    images: list[Image.Image] = []
    seconds, flops = 0.0, 0
    for start in range(0, training.num_class_images, CLASS_IMAGES_AT_ONCE):
        found = _chunk(backbone, cache, prompt, training, resolution, start)
        taken = min(CLASS_IMAGES_AT_ONCE, training.num_class_images - start)
        images += [Image.fromarray(array) for array in found["pixels"].numpy()[:taken]]
        seconds += float(found["seconds"]) * taken / CLASS_IMAGES_AT_ONCE
        flops += int(found["flops"]) * taken // CLASS_IMAGES_AT_ONCE
    return ClassImages(images, seconds, flops)


def _chunk(
    backbone: Backbone, cache: Cache, prompt: str, training: TrainingConfig, resolution: int, start: int
) -> Tensors:
    identity = {
        "version": _VERSION,
        "model": backbone.digest(prompts=[prompt]),
        "prompt": prompt,
        "resolution": resolution,
        "steps": training.class_num_inference_steps,
        "guidance": training.class_guidance_scale,
        "start": start,
        "count": CLASS_IMAGES_AT_ONCE,
        # Their seconds are charged, and are those of this device.
        "device": device_name(backbone.device),
    }

    def draw(count: int, steps: int) -> list[Image.Image]:
        return generate(
            backbone,
            [prompt] * count,
            seeds=[stream_seed(index, f"class_images/{prompt}") for index in range(start, start + count)],
            num_inference_steps=steps,
            guidance_scale=training.class_guidance_scale,
            batch_size=CLASS_IMAGES_AT_ONCE,
            resolution=resolution,
        )

    def compute() -> Tensors:
        begin = time.perf_counter()
        made = draw(CLASS_IMAGES_AT_ONCE, training.class_num_inference_steps)
        seconds = time.perf_counter() - begin
        steps = training.class_num_inference_steps
        flops = count_drawing(backbone, ["", prompt], draw, steps, CLASS_IMAGES_AT_ONCE)
        return {
            "pixels": torch.from_numpy(numpy.stack([numpy.asarray(image) for image in made])),
            "seconds": torch.tensor(seconds, dtype=torch.float64),
            "flops": torch.tensor(flops, dtype=torch.int64),
        }

    return cache.tensors("class_images", identity, compute)


def count_drawing(
    backbone: Backbone, prompts: Sequence[str], draw: Callable[[int, int], Any], steps: int, count: int
) -> int:
    """Returns the operations of drawing `count` images in `steps` solver steps, counted on one image and one step.

    Captions are encoded once for all, the denoiser runs once an image and step (twice with guidance), and the decoder
    once an image.

    Args:
        prompts: The texts that are encoded, each once.
        draw: Draws a number of images in a number of steps.
    """
    texts = count_flops(lambda: backbone.encode_prompts(prompts))
    one, two = count_flops(lambda: draw(1, 1)), count_flops(lambda: draw(1, 2))
    step = two - one
    return texts + count * (steps * step + one - step - texts)
