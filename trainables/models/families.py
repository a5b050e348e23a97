"""What differs between families of models, as a table of small functions.

A family knows how prompts become conditioning and how the UNet takes it; everything else of a run is the same for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainables.models.backbone import Backbone, Conditioning, Family


def _tokenize_clip(backbone: Backbone, prompts: Sequence[str]) -> Conditioning:
    tokens = backbone.tokenizer(
        list(prompts),
        padding="max_length",
        max_length=backbone.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return {"input_ids": tokens.input_ids.to(backbone.device)}


def _encode_clip(backbone: Backbone, tokens: Conditioning) -> Conditioning:
    return {"encoder_hidden_states": backbone.text_encoder(tokens["input_ids"])[0]}


def _unet_arguments(conditioning: Conditioning) -> dict[str, Any]:
    return {"encoder_hidden_states": conditioning["encoder_hidden_states"]}


#: Families by pipeline class. SD 1.x and 2.x share a layout; they differ in prediction type and sizes, which the
#: model's own configuration states.
FAMILIES = {
    "StableDiffusionPipeline": Family(
        pipeline_class="StableDiffusionPipeline",
        modules=("unet", "vae", "text_encoder"),
        text_parts=("text_encoder", "tokenizer"),
        tokenize=_tokenize_clip,
        encode=_encode_clip,
        unet_arguments=_unet_arguments,
    )
}
