"""Tiny random models in the standard layouts, made from configurations alone: seeded, small, made at once.

They have the shape of Stable Diffusion 1.x, of a CLIP and of a ViT, so that every line of code that runs on
those runs on them. Their images are noise: nothing about quality can be tested with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

#: Words that the tiny tokenizer knows as single tokens; everything else falls apart into bytes.
_TEXT = "a sks cat dog bird teapot in the snow with red hat photo of on"
WORDS = tuple(_TEXT.split())


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's byte-level BPE, which CLIP's tokenizer uses."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [256 + index for index in range(256 - len(printable))]
    return [chr(code) for code in printable + others]


def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Returns a byte-level vocabulary and the merges that build `WORDS`."""
    alphabet = _byte_alphabet()
    tokens = alphabet + [letter + "</w>" for letter in alphabet]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            pair = (pieces[0], pieces[1])
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
            pieces = ["".join(pair), *pieces[2:]]
    tokens = list(dict.fromkeys([*tokens, "<|startoftext|>", "<|endoftext|>"]))
    return {token: number for number, token in enumerate(tokens)}, merges


def make_tokenizer() -> Any:
    """Returns a CLIPTokenizer that knows bytes and `WORDS`; padded and truncated to 77 tokens."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _text_config(width: int) -> dict[str, Any]:
    vocabulary, _ = _vocabulary()
    return {
        "vocab_size": len(vocabulary),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "projection_dim": width,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }


def make_tiny_model(
    folder: str | Path,
    *,
    seed: int = 0,
    resolution: int = 32,
    prediction_type: str = "epsilon",
    width: int = 32,
) -> Path:
    """Writes a Stable Diffusion 1.x pipeline with random weights and returns its folder.

    Args:
        folder: Where to write; made if missing.
        seed: Of the weights.
        resolution: Native image size in pixels; the autoencoder's factor is 4.
        prediction_type: "epsilon", "v_prediction" or "sample".
        width: Channels of the UNet's first block and of the text encoder.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=resolution // 4,
            in_channels=4,
            out_channels=4,
            block_out_channels=(width, 2 * width),
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=width,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        vae = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(16, 16, 32),
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=resolution,
            scaling_factor=0.5,
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            mid_block_add_attention=False,
        )
        text_encoder = CLIPTextModel(CLIPTextConfig(**_text_config(width)))
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=make_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return Path(folder)


def make_tiny_clip(folder: str | Path, *, seed: int = 0, resolution: int = 32) -> Path:
    """Writes a CLIP with image and text towers, its tokenizer and image processor, and returns its folder."""
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vision = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": resolution,
            "patch_size": 8,
            "projection_dim": 32,
        }
        model = CLIPModel(CLIPConfig(text_config=_text_config(32), vision_config=vision, projection_dim=32))
    model.save_pretrained(folder, safe_serialization=True)
    make_tokenizer().save_pretrained(folder)
    _write_processor(Path(folder), "CLIPImageProcessor", resolution)
    return Path(folder)


def make_tiny_vit(folder: str | Path, *, seed: int = 0, resolution: int = 32) -> Path:
    """Writes a ViT image encoder (DINO's architecture) with its image processor and returns its folder."""
    from transformers import ViTConfig, ViTModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViTModel(
            ViTConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=resolution,
                patch_size=8,
            )
        )
    model.save_pretrained(folder, safe_serialization=True)
    _write_processor(Path(folder), "ViTImageProcessor", resolution)
    return Path(folder)


def _write_processor(folder: Path, kind: str, resolution: int) -> None:
    """Writes a preprocessor_config.json as hub models have it."""
    size: dict[str, int] = (
        {"shortest_edge": resolution}
        if kind.startswith("CLIP")
        else {
            "height": resolution,
            "width": resolution,
        }
    )
    content = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": size,
        "resample": 3,
        "do_center_crop": kind.startswith("CLIP"),
        "crop_size": {"height": resolution, "width": resolution},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "do_convert_rgb": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(content, indent=2))


def make_photos(
    folder: str | Path, *, count: int = 4, size: tuple[int, int] = (48, 40), seed: int = 0
) -> Path:
    """Writes `count` distinct random PNGs (coarse colour patches) and returns the folder."""
    import numpy
    from PIL import Image

    Path(folder).mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(seed)
    for number in range(count):
        patches = generator.integers(0, 256, (6, 6, 3), dtype=numpy.uint8)
        Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).save(Path(folder) / f"{number}.png")
    return Path(folder)
