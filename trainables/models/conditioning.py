"""How the families read prompts, and how their denoisers take what was read; the table of families names the functions.

Nothing here needs torch to be imported: the table is read where model folders are checked, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: What the denoiser is told of prompts: tensors whose rows belong to prompts, so that any family's can be cached and
#: indexed. Tokens of prompts come in the same form.
Conditioning = dict[str, "torch.Tensor"]

#: The steps of noise that all these models count, whatever they are trained with.
_TIMES = 1000.0


@dataclass(frozen=True)
class Aside:
    """What some denoisers are told beside noisy latents, noise level and prompts.

    Attributes:
        side: Of the images that the latents stand for, in pixels.
        geometry: Of each image [rows, 6], float32: height and width of its file, top and left of the crop in the
            resized image, height and width of the crop (SDXL's time ids, arXiv 2307.01952, sec. 2.2). None: images of
            `side` pixels, not cropped.
        guidance: Scale for models that are distilled to take it as an input; 1.0 in training.
    """

    side: int
    geometry: torch.Tensor | None = None
    guidance: float = 1.0


def tokenize_padded(tokenizers: Sequence[Any], prompts: Sequence[str]) -> Conditioning:
    """Tokens of each tokenizer, padded and cut to the length that its text encoder reads."""
    return {
        f"input_ids_{number}" if number > 1 else "input_ids": tokenizer(
            list(prompts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for number, tokenizer in enumerate(tokenizers, 1)
    }


def encode_clip(text_encoders: Sequence[Any], tokens: Conditioning) -> Conditioning:
    """Last hidden states of one CLIP, after its final norm [rows, tokens, width]."""
    return {"encoder_hidden_states": text_encoders[0](tokens["input_ids"])[0]}


def encode_two_clips(text_encoders: Sequence[Any], tokens: Conditioning) -> Conditioning:
    """Penultimate hidden states of two CLIPs side by side, without a final norm, and the pooled state of the second."""
    import torch

    first = text_encoders[0](tokens["input_ids"], output_hidden_states=True)
    second = text_encoders[1](tokens["input_ids_2"], output_hidden_states=True)
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    return {"encoder_hidden_states": states, "pooled": second.text_embeds}


def encode_clips_and_t5(text_encoders: Sequence[Any], tokens: Conditioning) -> Conditioning:
    """Two CLIPs side by side as of SDXL, with zeros up to the width of T5; then T5's states. Both pooled states."""
    import torch

    first = text_encoders[0](tokens["input_ids"], output_hidden_states=True)
    second = text_encoders[1](tokens["input_ids_2"], output_hidden_states=True)
    long = _t5_states(text_encoders[2], tokens["input_ids_3"])
    short = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
    short = torch.nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
    pooled = torch.cat([first.text_embeds, second.text_embeds], -1)
    return {"encoder_hidden_states": torch.cat([short, long], 1), "pooled": pooled}


def encode_t5_and_pooled_clip(text_encoders: Sequence[Any], tokens: Conditioning) -> Conditioning:
    """T5's states, and the pooled state of a CLIP."""
    pooled = text_encoders[0](tokens["input_ids"]).pooler_output
    return {
        "encoder_hidden_states": _t5_states(text_encoders[1], tokens["input_ids_2"]),
        "pooled": pooled,
    }


def _t5_states(text_encoder: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Last hidden states of a T5 [rows, tokens, width]; under autocast to float16 in the precision of its weights.

    What its feed-forward layers give is beyond float16 (huggingface/transformers issue 4586); transformers clamps it
    there, and the states are other ones.
    """
    import torch

    kind = tokens.device.type
    half = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.float16
    with torch.autocast(kind, enabled=False) if half else nullcontext():
        states: torch.Tensor = text_encoder(tokens)[0]
    return states


def denoise_unet(
    denoiser: Any, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning, aside: Aside
) -> torch.Tensor:
    """The UNet of Stable Diffusion 1.x and 2.x."""
    states = conditioning["encoder_hidden_states"]
    prediction: torch.Tensor = denoiser(latents, times, encoder_hidden_states=states, return_dict=False)[0]
    return prediction


def denoise_unet_with_sizes(
    denoiser: Any, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning, aside: Aside
) -> torch.Tensor:
    """The UNet of SDXL. Sizes stay float32 in every precision: bfloat16 rounds those above 256."""
    geometry = aside.geometry
    if geometry is None:
        side = float(aside.side)
        geometry = latents.new_tensor([[side, side, 0.0, 0.0, side, side]]).float()
    added = {"text_embeds": conditioning["pooled"], "time_ids": geometry.expand(len(latents), -1)}
    prediction: torch.Tensor = denoiser(
        latents,
        times,
        encoder_hidden_states=conditioning["encoder_hidden_states"],
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    return prediction


def denoise_joint(
    denoiser: Any, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning, aside: Aside
) -> torch.Tensor:
    """The transformer of Stable Diffusion 3, which takes sigma times 1000."""
    prediction: torch.Tensor = denoiser(
        hidden_states=latents,
        timestep=times.expand(len(latents)),
        encoder_hidden_states=conditioning["encoder_hidden_states"],
        pooled_projections=conditioning["pooled"],
        return_dict=False,
    )[0]
    return prediction


def denoise_packed(
    denoiser: Any, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning, aside: Aside
) -> torch.Tensor:
    """The transformer of FLUX.1, which takes sigma, and squares of 2 x 2 latents as tokens."""
    states, (height, width) = conditioning["encoder_hidden_states"], latents.shape[-2:]
    guidance = None
    if denoiser.config.guidance_embeds:
        guidance = latents.new_full((len(latents),), aside.guidance).float()
    prediction: torch.Tensor = denoiser(
        hidden_states=pack(latents),
        timestep=times.expand(len(latents)) / _TIMES,
        guidance=guidance,
        encoder_hidden_states=states,
        pooled_projections=conditioning["pooled"],
        txt_ids=latents.new_zeros((states.shape[1], 3)),
        img_ids=_positions(latents, height // 2, width // 2),
        return_dict=False,
    )[0]
    return unpack(prediction, height, width)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents [rows, c, h, w] as tokens [rows, h / 2 * w / 2, 4 c]: one for each square of 2 x 2."""
    rows, channels, height, width = latents.shape
    squares = latents.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(rows, height // 2 * width // 2, 4 * channels)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Inverse of `pack`."""
    rows, _, channels = tokens.shape
    squares = tokens.reshape(rows, height // 2, width // 2, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(rows, channels // 4, height, width)


def _positions(latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Row and column of each token, after a zero [height * width, 3]."""
    import torch

    rows = torch.arange(height, device=latents.device, dtype=latents.dtype)
    columns = torch.arange(width, device=latents.device, dtype=latents.dtype)
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
    return torch.nn.functional.pad(grid, (1, 0))
