"""Tiny random pipelines of each family, made from configurations alone, with tokenizers of a small vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from benchmarks.support.tiny_models import WORDS, make_tokenizer

RESOLUTION = 16  # pixels; the autoencoder's factor is 4
T5_WIDTH, FIRST_WIDTH, SECOND_WIDTH, SD2_WIDTH = 48, 16, 24, 1024
CONTRAST = 3.0
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

#: Names of tiny models -> the pipeline's class.
TINY = {
    "sd1": "StableDiffusionPipeline",
    "sd2": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


def make_tiny(name: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Writes a pipeline of `TINY` with random weights and returns its folder.

    Args:
        changes: To the scheduler's configuration.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _MAKERS[name](changes)
        pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder


def add_contrast(folder: Path, factor: float = CONTRAST) -> Path:
    """Multiplies what the decoder of a model gives: images of random weights are almost grey, so almost the same."""
    file, name = folder / "vae" / "diffusion_pytorch_model.safetensors", "decoder.conv_out.weight"
    tensors = load_file(file)
    save_file({**tensors, name: factor * tensors[name]}, file, {"format": "pt"})
    return folder


def change_json(path: Path, **values: Any) -> None:
    """Changes values in a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def make_t5_tokenizer() -> Any:
    """Returns a T5 tokenizer that knows letters and the words of the tiny CLIP."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS)]
    pieces += [chr(code) for code in range(ord("a"), ord("z") + 1) if chr(code) not in WORDS]
    vocabulary = [(piece, -float(number > 3)) for number, piece in enumerate(dict.fromkeys(pieces))]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=24)


def _vae(**fields: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        **({"scaling_factor": 0.5, "mid_block_add_attention": False} | fields),
    )


def _unet(width: int, **fields: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=RESOLUTION // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=width,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **({"attention_head_dim": 4} | fields),
    )


def _clip(width: int, *, projected: bool = False, layers: int = 2, old_end: bool = False) -> Any:
    tokenizer = make_tokenizer()
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=2 if old_end else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(make_t5_tokenizer()),
        d_model=T5_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def _sd1(changes: dict[str, Any]) -> Any:
    return _stable_diffusion(_unet(FIRST_WIDTH), _clip(FIRST_WIDTH), {"prediction_type": "epsilon"} | changes)


def _sd2(changes: dict[str, Any]) -> Any:
    """As 2.1: wide text embeddings, linear projections, heads of one width, velocity."""
    unet = _unet(SD2_WIDTH, use_linear_projection=True, attention_head_dim=(2, 4))
    return _stable_diffusion(unet, _clip(SD2_WIDTH, layers=1), {"prediction_type": "v_prediction"} | changes)


def _stable_diffusion(unet: Any, text_encoder: Any, scheduler: dict[str, Any]) -> Any:
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=text_encoder,
        tokenizer=make_tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(
            **_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **scheduler
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sdxl(changes: dict[str, Any]) -> Any:
    unet = _unet(
        FIRST_WIDTH + SECOND_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + SECOND_WIDTH,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=_clip(FIRST_WIDTH, old_end=True),
        text_encoder_2=_clip(SECOND_WIDTH, projected=True, old_end=True),
        tokenizer=make_tokenizer(),
        tokenizer_2=make_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**_BETAS, steps_offset=1, **changes),
        add_watermarker=False,
    )


def _sd3(changes: dict[str, Any]) -> Any:
    transformer = SD3Transformer2DModel(
        sample_size=RESOLUTION // 4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=FIRST_WIDTH + SECOND_WIDTH,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | changes)),
        vae=_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(FIRST_WIDTH, projected=True),
        tokenizer=make_tokenizer(),
        text_encoder_2=_clip(SECOND_WIDTH, projected=True),
        tokenizer_2=make_tokenizer(),
        text_encoder_3=_t5(),
        tokenizer_3=make_t5_tokenizer(),
    )


def _flux(changes: dict[str, Any]) -> Any:
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=FIRST_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 2, 2),
    )
    dynamic = {"use_dynamic_shifting": True, "shift": 3.0}
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**(dynamic | changes)),
        vae=_vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(FIRST_WIDTH, old_end=True),
        tokenizer=make_tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=make_t5_tokenizer(),
    )


_MAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sd1": _sd1,
    "sd2": _sd2,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
}
