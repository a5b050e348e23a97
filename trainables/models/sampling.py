"""Images from the model in memory, whatever is attached to it at the moment: batched, few steps, fixed noise.

An image depends on its prompt and on its own noise, not on the batch that it is drawn in, nor on any global
random state, which sampling leaves as it found it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from trainables.models.backbone import Backbone
from trainables.models.conditioning import Conditioning
from trainables.models.solvers import make_solver as make_solver
from trainables.randomness import stream_seed

# Pixels that pass the autoencoder at once: one image of 1024 x 1024. Its activations need far more memory than the
# denoiser's: a float32 of 128 channels at full resolution is 512 MiB for these.
_AUTOENCODER_PIXELS = 1024 * 1024


def images_at_once(side: int) -> int:
    """Returns how many images of a side, in pixels, pass the autoencoder at once."""
    return max(1, _AUTOENCODER_PIXELS // side**2)


def image_seed(seed: int, purpose: str, prompt: int, image: int) -> int:
    """Returns the noise seed of image number `image` of prompt number `prompt`; `purpose` keeps sets of
    images apart.
    """
    return stream_seed(seed, f"sampling/{purpose}/{prompt}/{image}")


def initial_noise(backbone: Backbone, seeds: Sequence[int], resolution: int | None = None) -> torch.Tensor:
    """Draws one standard normal latent a seed, each from a generator of its own on the CPU.

    Returns:
        Shape (len(seeds), channels, resolution / factor, resolution / factor), float32, on the CPU.
    """
    side = (resolution or backbone.resolution) // backbone.latent_factor
    shape = (backbone.vae.config.latent_channels, side, side)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    *,
    noise: torch.Tensor | None = None,
    seeds: Sequence[int] | None = None,
    num_inference_steps: int = 20,
    guidance_scale: float = 3.0,
    batch_size: int = 16,
    resolution: int | None = None,
    negative_prompt: str | None = None,
) -> list[Image.Image]:
    """Draws one image a prompt; without gradients, in evaluation mode, with the modules as they are.

    Parts whose frozen weights are of lower precision run under autocast of that type. Guidance of at most 1
    means no guidance and half the work, as in diffusers.

    Args:
        backbone: The model in memory, with or without adapters.
        prompts: One an image; repeat a prompt for several images of it.
        noise: Initial latents as `initial_noise` gives them. Either these or `seeds`.
        seeds: One an image; the same seed gives the same noise for any model with latents of this shape.
        num_inference_steps: Solver steps.
        guidance_scale: Weight of classifier-free guidance; a family with embedded guidance is told it instead.
        batch_size: Images at a time (with guidance, twice as many rows pass the denoiser).
        resolution: Image side in pixels; None: the model's own.
        negative_prompt: What guidance starts from in the place of no prompt, as in diffusers: an empty text is read
            like any other. Without guidance, and where guidance is an input of the denoiser, it has no effect.

    Returns:
        RGB images in the order of the prompts.
    """
    if (noise is None) == (seeds is None):
        raise ValueError("generate takes either noise or seeds")
    given = len(noise) if noise is not None else len(seeds or ())
    if given != len(prompts):
        raise ValueError(f"{len(prompts)} prompts need as many noises, got {given}")
    if not prompts:
        return []
    if noise is None:
        noise = initial_noise(backbone, seeds or (), resolution)
    side = noise.shape[-1]
    guided = guidance_scale > 1 and not backbone.family.embedded_guidance
    images: list[Image.Image] = []
    with at_rest(backbone):
        distinct = list(dict.fromkeys([negative_prompt or "", *prompts]))
        rows = _encode_with_first(backbone, distinct, is_empty=negative_prompt is None)
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start : start + batch_size]
            chosen = [distinct.index(prompt) for prompt in batch]
            if guided:
                chosen = [0] * len(batch) + chosen
            conditioning = {name: value[chosen] for name, value in rows.items()}
            latents = noise[start : start + batch_size].to(backbone.device, torch.float32)
            solver = make_solver(backbone, num_inference_steps, side)
            latents = _denoise(backbone, solver, latents, conditioning, guidance_scale)
            images += _decode(backbone, latents)
    return images


def _encode_with_first(backbone: Backbone, prompts: Sequence[str], *, is_empty: bool) -> Conditioning:
    """Encodes prompts, the first being what guidance starts from; `is_empty`: it is no prompt, not a negative one."""
    rows = backbone.encode_prompts(prompts)
    if backbone.zero_unconditional and is_empty:
        for values in rows.values():
            values[0] = 0
    return rows


def _denoise(
    backbone: Backbone,
    solver: Any,
    latents: torch.Tensor,
    conditioning: Conditioning,
    guidance_scale: float,
) -> torch.Tensor:
    guided = guidance_scale > 1 and not backbone.family.embedded_guidance
    for timestep in solver.timesteps:
        rows = torch.cat([latents, latents]) if guided else latents
        output = backbone.denoise(rows, timestep, conditioning, guidance=guidance_scale).float()
        if guided:
            unconditional, conditional = output.chunk(2)
            output = unconditional + guidance_scale * (conditional - unconditional)
        latents = solver.step(output, timestep, latents, return_dict=False)[0]
    return latents


def _decode(backbone: Backbone, latents: torch.Tensor) -> list[Image.Image]:
    side = latents.shape[-1] * backbone.latent_factor
    images = []
    for part in latents.split(images_at_once(side)):
        unscaled = part / backbone.latent_scale + backbone.latent_shift
        pixels = backbone.vae.decode(unscaled, return_dict=False)[0].float()
        values = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        # A diverged model gives NaN, which clamp lets through; its images are black, and its loss is caught
        # elsewhere.
        images += [Image.fromarray(array) for array in (np.nan_to_num(values) * 255).round().astype(np.uint8)]
    return images


@contextmanager
def at_rest(backbone: Backbone) -> Iterator[None]:
    """Lets the model be looked at: without gradients, in evaluation mode, in the precision of its weights.

    Afterwards every mode and the random state are as before.
    """
    with torch.no_grad(), _undisturbed(backbone), _autocast(backbone):
        yield


@contextmanager
def _undisturbed(backbone: Backbone) -> Iterator[None]:
    """Evaluation mode for all modules; afterwards each submodule's mode and the random state are as
    before.
    """
    modes: list[tuple[nn.Module, bool]] = [
        (module, module.training) for part in backbone.modules.values() for module in part.modules()
    ]
    devices = [backbone.device] if backbone.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            for part in backbone.modules.values():
                part.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextmanager
def _autocast(backbone: Backbone) -> Iterator[None]:
    """Autocast to the type of the lower-precision weights, so that they work beside float32 ones that
    train.
    """
    lower = {
        parameter.dtype
        for part in backbone.modules.values()
        for parameter in part.parameters()
        if parameter.dtype in (torch.float16, torch.bfloat16)
    }
    if not lower:
        yield
        return
    with torch.autocast(backbone.device.type, dtype=lower.pop()):
        yield
