"""Images from stock pipelines of each family, in the way in which sampling of this project asks for them."""

from __future__ import annotations

from typing import Any

import torch

from tests.helpers.tiny_families import RESOLUTION
from trainables.models.conditioning import pack

STEPS, GUIDANCE, TOKENS = 3, 3.0, 24  # the tiny T5 reads so many tokens


def draw_stock(
    pipeline: Any,
    prompts: list[str],
    noise: torch.Tensor,
    guidance_scale: float = GUIDANCE,
    negative_prompt: str | None = None,
) -> torch.Tensor:
    """Returns images in [0, 1], [prompts, 3, h, w], drawn by the pipeline's own code.

    UNets get the solver that the project draws with.
    """
    from diffusers import DPMSolverMultistepScheduler

    pipeline.set_progress_bar_config(disable=True)
    kind = type(pipeline).__name__
    options: dict[str, Any] = {"latents": noise.clone()}
    if hasattr(pipeline, "unet"):
        config = pipeline.scheduler.config
        spacing = {"timestep_spacing": "trailing"} if config.prediction_type == "v_prediction" else {}
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config, **spacing)
    else:
        options["max_sequence_length"] = TOKENS
    if negative_prompt is not None:
        options["negative_prompt"] = [negative_prompt] * len(prompts)
    if kind == "FluxPipeline":
        options["latents"] = pack(noise)
    images = pipeline(
        prompts,
        height=RESOLUTION,
        width=RESOLUTION,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        output_type="pt",
        **options,
    ).images
    return torch.as_tensor(images).float().cpu()
