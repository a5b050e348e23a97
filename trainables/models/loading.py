"""Loads a base model of any family into memory."""

from __future__ import annotations

from typing import Any

import torch

from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.backbone import Backbone
from trainables.models.families import family_in
from trainables.models.folders import check_model, native_resolution, resolve_model


def load_backbone(model: ModelConfig, device: torch.device | str = "cpu") -> Backbone:
    """Loads a base model in float32, frozen, from safetensors only.

    Raises:
        UserError: With every problem that `check_model` would find.
    """
    import diffusers

    _quiet()
    problems = check_model(model)
    if problems:
        raise UserError(*problems)
    folder = resolve_model(model)
    family = family_in(folder)
    pipeline = family.stock_pipeline().from_pretrained(
        str(folder),
        variant=model.variant,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        **family.load_options,
    )
    parts = pipeline.components
    for tokenizer, text_encoder in zip(family.tokenizers, family.text_encoders, strict=True):
        _limit_tokenizer(parts[tokenizer], parts[text_encoder.name])
    modules = {part.name: parts.pop(part.name).to(device) for part in family.modules}
    for part in (family.denoiser, family.autoencoder):
        modules[part.name].to(memory_format=torch.channels_last)
    noise = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
    backbone = Backbone(
        family=family,
        folder=folder,
        modules=modules,
        others={**parts, **family.options},
        device=torch.device(device),
        alphas_cumprod=noise.alphas_cumprod.to(device, torch.float32),
        prediction_type=noise.config.prediction_type,
        resolution=native_resolution(folder),
        _parameters={name: list(module.parameters()) for name, module in modules.items()},
    )
    backbone.restore()
    backbone.note_loaded()
    return backbone


def _quiet() -> None:
    """Keeps the libraries' progress bars and advice out of workers' logs."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _limit_tokenizer(tokenizer: Any, text_encoder: Any) -> None:
    """Gives a tokenizer that knows no limit, or too large a one, that of the text encoder: its positions.

    The stock pipeline, and what is saved of it, take the limit from the tokenizer.
    """
    tokenizer.model_max_length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
