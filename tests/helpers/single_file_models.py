"""Single-file checkpoints in the publishers' layout, written from tiny pipelines in diffusers' layout.

The names are those of the original repositories (CompVis' latent-diffusion, OpenCLIP), put together here by themselves:
diffusers has a reader of them, whose result is compared with what they were made of.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def write_single_file(pipeline: Any, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a Stable Diffusion (1.x: CLIP, 2.x: OpenCLIP) or SDXL pipeline as one file."""
    tensors = {f"model.diffusion_model.{_unet(name, 1)}": value for name, value in _state(pipeline.unet)}
    tensors |= {f"first_stage_model.{_vae(name)}": value for name, value in _state(pipeline.vae)}
    if hasattr(pipeline, "text_encoder_2"):
        tensors |= _clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= _open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipeline.unet.config.cross_attention_dim == 1024:
        tensors |= _open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= _clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    save_file({name: value.to(dtype).contiguous() for name, value in tensors.items()}, path)
    return path


def _state(module: Any) -> list[tuple[str, torch.Tensor]]:
    return [(name, value.detach().clone()) for name, value in module.state_dict().items()]


def _unet(name: str, layers: int) -> str:
    """One level has `layers` blocks and one that changes the size, of which the last of all is missing."""
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    name = name.replace("mid_block.resnets.0", "middle_block.0").replace(
        "mid_block.attentions.0", "middle_block.1"
    )
    name = name.replace("mid_block.resnets.1", "middle_block.2")
    for kind, place in (("resnets", 0), ("attentions", 1)):
        name = re.sub(
            rf"down_blocks\.(\d)\.{kind}\.(\d)",
            lambda found, place=place: (  # type: ignore[misc]
                f"input_blocks.{1 + int(found[1]) * (layers + 1) + int(found[2])}.{place}"
            ),
            name,
        )
        name = re.sub(
            rf"up_blocks\.(\d)\.{kind}\.(\d)",
            lambda found, place=place: (  # type: ignore[misc]
                f"output_blocks.{int(found[1]) * (layers + 1) + int(found[2])}.{place}"
            ),
            name,
        )
    name = re.sub(
        r"down_blocks\.(\d)\.downsamplers\.0\.conv",
        lambda found: f"input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op",
        name,
    )
    # The first level on the way up has no attention in the tiny models, so that its upsampler is the second module.
    name = re.sub(
        r"up_blocks\.(\d)\.upsamplers\.0\.conv",
        lambda found: f"output_blocks.{(int(found[1]) + 1) * (layers + 1) - 1}.1.conv",
        name,
    )
    if "transformer_blocks" not in name:
        for ours, theirs in _RESNET.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def _vae(name: str) -> str:
    levels = 3
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    for kind, theirs in (("resnets", "block"), ("upsamplers", "upsample")):
        name = re.sub(
            rf"up_blocks\.(\d)\.{kind}\.(\d)",
            lambda found, theirs=theirs: (  # type: ignore[misc]
                f"up.{levels - 1 - int(found[1])}.{theirs}" + (f".{found[2]}" if theirs == "block" else "")
            ),
            name,
        )
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _clip(encoder: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}text_model.{name}": value for name, value in _state(encoder)}


def _open_clip(encoder: Any, prefix: str) -> dict[str, torch.Tensor]:
    state = {name.removeprefix("text_model."): value for name, value in _state(encoder)}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    if "text_projection.weight" in state:
        found["text_projection"] = state["text_projection.weight"].T
    for name, value in state.items():
        match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
        if match is None or ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            continue
        layer, module, kind = match.groups()
        if module == "self_attn.q_proj":
            three = [state[name.replace("q_proj", other)] for other in ("q_proj", "k_proj", "v_proj")]
            found[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(three)
        else:
            found[f"transformer.resblocks.{layer}.{_OPEN_CLIP[module]}.{kind}"] = value
    return {f"{prefix}{name}": value for name, value in found.items()}
