"""The denoiser and its text encoder, trained together on latents of the pool.

Epsilon prediction on the noise schedule of Stable Diffusion 1.x (Rombach et al. 2022) with min-SNR
weighting (Hang et al. 2023); captions are dropped for classifier-free guidance.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.pretraining.common import Budget, Stage, stream, warmup_stable_decay
from benchmarks.pretraining.latents import Latents
from benchmarks.pretraining.norms import speed_up_group_norms
from benchmarks.pretraining.pool import load_pool
from benchmarks.pretraining.tokens import MAX_LENGTH, write_tokenizer
from trainables.embedded.captions import random_caption

TEXT_WIDTH = 160
SNR_GAMMA = 5.0
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}


def build_unet(tiny: bool = False) -> UNet2DConditionModel:
    """An untrained denoiser on [n, 16, 8, 8] latents, attention on both levels."""
    model = UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(16, 16) if tiny else (128, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type=None,
        cross_attention_dim=32 if tiny else TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads it as the number of heads
        norm_num_groups=16,
    )
    return model.to(memory_format=torch.channels_last)


def build_text_encoder(vocabulary: int, tiny: bool = False) -> CLIPTextModel:
    """An untrained CLIP text encoder; its last hidden states condition the denoiser."""
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=32 if tiny else TEXT_WIDTH,
        intermediate_size=64 if tiny else 480,
        num_hidden_layers=1 if tiny else 3,
        num_attention_heads=2 if tiny else 5,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )
    return CLIPTextModel(config)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """int64 [n, 32] token ids, padded as Stable Diffusion's pipeline pads them."""
    batch = tokenizer(
        texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="pt"
    )
    return torch.as_tensor(batch.input_ids)


def train(budget: Budget, vae: AutoencoderKL) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """Train denoiser and text encoder; the averaged weights are what is returned."""
    torch.manual_seed(budget.seed + 4)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    tokenizer = write_tokenizer(budget.work / "tokenizer")
    unet = build_unet(budget.tiny)
    text_encoder = build_text_encoder(len(tokenizer), budget.tiny)
    speed_up_group_norms(unet)
    # Plain attention: on 64 tokens the fused kernel's backward pass takes a quarter of a step.
    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")
    latents = Latents(vae.eval(), pool)
    scheduler = DDPMScheduler(**NOISE)
    signal = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    stage = Stage(
        "unet", {"unet": unet, "text_encoder": text_encoder}, budget, 1e-3, warmup_stable_decay,
        ema=0.998, muon_rate=0.02,
        not_matrices=("embed", "conv_in", "conv_out", "time_emb"),
    )  # fmt: skip

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "unet", step)
        rows = rng.integers(len(pool.images), size=budget.batch)
        z = latents.sample(rows, rng)
        noise = torch.from_numpy(rng.standard_normal(tuple(z.shape), dtype="float32"))
        # Stratified timesteps: the same uniform distribution with less variance between batches.
        strata = (np.arange(budget.batch) + rng.random(budget.batch)) / budget.batch
        t = torch.from_numpy((strata * 1000).astype(np.int64))
        texts = [random_caption(rng, *pool.names(int(row))) for row in rows]
        noisy = scheduler.add_noise(z, noise, t)
        with torch.autocast("cpu", torch.bfloat16):
            states = text_encoder(tokenize(tokenizer, texts)).last_hidden_state
            predicted = unet(noisy, t, states).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        weight = (SNR_GAMMA / signal[t]).clamp(max=1)
        return (error * weight).mean(), {"mse": float(error.detach().mean())}

    stage.run(loss)
    stage.use_ema()
    return unet.eval(), text_encoder.eval(), tokenizer


def save_generator(
    folder: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
) -> None:
    """Write the standard Stable Diffusion folder, weights in float16 safetensors."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=write_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**NOISE, timestep_spacing="trailing", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    write_tokenizer(folder / "tokenizer")
    declare_float32(folder / "text_encoder")


def declare_float32(folder: Path) -> None:
    """Let transformers load float16 files as float32, as diffusers does unasked.

    Without this the stock pipeline would mix a float16 text encoder with a float32 denoiser.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if part is not None:
            part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
