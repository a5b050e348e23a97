"""Loads a base model of any family into memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.backbone import Backbone
from trainables.models.families import family_in
from trainables.models.family import Family, Part
from trainables.models.folder_faults import noise_faults
from trainables.models.folders import check_model, check_quantization, native_resolution, resolve_model
from trainables.models.model_files import tensor_headers
from trainables.models.quantization import is_quantized, plain_parameters, quantize, quantized_parts

_NO_END = 2  # what configurations of CLIP said of the end token before transformers 4.31
_HALF = {"F16": torch.float16, "BF16": torch.bfloat16}  # as files of safetensors call them
FLOW = "flow"  # what a flow-matching model predicts: noise minus image


def load_backbone(model: ModelConfig, device: torch.device | str = "cpu") -> Backbone:
    """Loads a base model in float32, frozen, from safetensors only, and quantises layers if that is asked for.

    Raises:
        UserError: With every problem that `check_model` and `check_quantization` would find.
    """
    _quiet()
    problems = check_model(model) + check_quantization(model)
    if problems:
        raise UserError(*problems)
    folder = resolve_model(model)
    family = family_in(folder)
    # Of a model that has just been fetched nothing else has been looked at yet.
    if faults := noise_faults(folder, family):
        raise UserError(*(f"model {model.path!r} {fault}" for fault in faults))
    bits = model.quantization
    quantized = quantized_parts(family) if bits is not None else ()
    stored = {part.name: _stored_type(folder / part.name) for part in quantized}
    pipeline = family.stock_pipeline().from_pretrained(
        str(folder),
        variant=model.variant,
        dtype={"default": torch.float32, **stored} if stored else torch.float32,
        use_safetensors=True,
        local_files_only=True,
        **family.load_options,
    )
    options = dict(family.options)
    if family.zero_option:
        options[family.zero_option] = pipeline.config.get(family.zero_option, family.zero_unconditional)
    parts = pipeline.components
    if unknown := list(_words_without_embeddings(family, parts)):
        raise UserError(*(f"model {model.path!r} {fault}" for fault in unknown))
    for tokenizer, part in zip(family.tokenizers, family.text_encoders, strict=True):
        _limit_tokenizer(parts[tokenizer], parts[part.name], part)
        _pool_at_the_end(parts[part.name], parts[tokenizer])
    modules = {}
    for part in family.modules:
        module = parts.pop(part.name)
        if bits is not None and part in quantized:
            quantize(module, bits, device)
            module.to(torch.float32)
        modules[part.name] = module.to(device)
    for part in (family.denoiser, family.autoencoder):
        modules[part.name].to(memory_format=torch.channels_last)
    alphas_cumprod, prediction_type = _noise(family, pipeline.scheduler)
    backbone = Backbone(
        family=family,
        folder=folder,
        modules=modules,
        others={**parts, **options},
        device=torch.device(device),
        alphas_cumprod=alphas_cumprod.to(device, torch.float32),
        prediction_type=prediction_type,
        resolution=native_resolution(folder),
        quantized={part.name: str(bits) for part in quantized if is_quantized(modules[part.name])},
        _parameters={name: plain_parameters(module) for name, module in modules.items()},
    )
    backbone.restore()
    # transformers hooks modules in the first call that asks for hidden states, and leaves the hooks there.
    backbone.encode_prompts([""])
    backbone.note_loaded()
    return backbone


def _stored_type(folder: Path) -> torch.dtype:
    """The type of all weights in a part's folder, if it is one; float32 holds what others do.

    As such they are loaded before they are quantised: of a model in bfloat16 that takes half the memory of the machine.
    """
    kinds = {
        entry["dtype"] for path in folder.glob("*.safetensors") for entry in tensor_headers(path).values()
    }
    return _HALF.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


def _noise(family: Family, scheduler: Any) -> tuple[torch.Tensor, str]:
    """Returns the noise schedule of training, as the model's sampler states it, and what the model predicts."""
    import diffusers

    if family.flow:
        return torch.empty(0), FLOW
    noise = diffusers.DDPMScheduler.from_config(scheduler.config)
    return noise.alphas_cumprod, noise.config.prediction_type


def _quiet() -> None:
    """Keeps the libraries' progress bars and advice out of workers' logs."""
    import diffusers
    import transformers

    # It names a kernel for CPUs of its own, which nothing here calls.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def _words_without_embeddings(family: Family, parts: Mapping[str, Any]) -> Iterator[str]:
    """Yields which tokenizers end every prompt with a token that their text encoder has no embedding of.

    They are of another model. Further tokens without an embedding, which no prompt need hold, are left alone.
    """
    for name, part in zip(family.tokenizers, family.text_encoders, strict=True):
        tokenizer, embedded = parts[name], parts[part.name].get_input_embeddings().num_embeddings
        used = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        highest = max((number for number in used if number is not None), default=0)
        if highest >= embedded:
            yield (
                f"has parts that do not fit: {name}/ uses token {highest} in every prompt, {part.name}/ has {embedded} "
                "embeddings; take parts of one model"
            )


def _limit_tokenizer(tokenizer: Any, encoder: Any, part: Part) -> None:
    """Gives a tokenizer that knows no limit, or too large a one, that of the text encoder: its positions.

    The stock pipeline, and what is saved of it, take the limit from the tokenizer.
    """
    limit = part.reads or encoder.config.max_position_embeddings
    tokenizer.model_max_length = min(tokenizer.model_max_length, limit)


def _pool_at_the_end(encoder: Any, tokenizer: Any) -> None:
    """Lets a CLIP take its pooled state at the end token.

    With the old value transformers takes it at the token with the largest number. That is the same place, unless words
    have been added: their numbers are larger.
    """
    clip = getattr(encoder, "text_model", encoder)
    if getattr(clip, "eos_token_id", None) == _NO_END:
        clip.eos_token_id = tokenizer.eos_token_id
