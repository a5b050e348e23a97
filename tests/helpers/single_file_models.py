"""Single-file checkpoints in the publishers' layout, written from tiny pipelines in diffusers' layout.

The names are those of the original repositories (CompVis' latent-diffusion, OpenCLIP, Stability AI's SD 3, Black Forest
Labs' FLUX, with ComfyUI's for text encoders), put together here by themselves:
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
_SD3 = {
    "x_embedder.proj": "pos_embed.proj", "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
}  # fmt: skip
_SD3_BLOCK = {
    "x_block.attn.proj": "attn.to_out.0", "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.mlp.fc1": "ff.net.0.proj", "x_block.mlp.fc2": "ff.net.2",
    "context_block.attn.proj": "attn.to_add_out", "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.mlp.fc1": "ff_context.net.0.proj", "context_block.mlp.fc2": "ff_context.net.2",
}  # fmt: skip
_FLUX = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder", "img_in": "x_embedder",
}  # fmt: skip
_FLUX_DOUBLE = {
    "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
    "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
    "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
}  # fmt: skip
_IMAGE, _TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip


def write_single_file(pipeline: Any, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Writes a pipeline as one file: Stable Diffusion (1.x: CLIP, 2.x: OpenCLIP), SDXL, SD 3 or FLUX.1."""
    tensors = _joint_model(pipeline) if hasattr(pipeline, "transformer") else _unet_model(pipeline)
    save_file({name: value.to(dtype).contiguous() for name, value in tensors.items()}, path)
    return path


def _unet_model(pipeline: Any) -> dict[str, torch.Tensor]:
    tensors = {f"model.diffusion_model.{_unet(name, 1)}": value for name, value in _state(pipeline.unet)}
    for name, value in _state(pipeline.vae):
        attention = (
            ".attentions." in name and value.dim() == 2
        )  # convolutions of one pixel in the published files
        tensors[f"first_stage_model.{_vae(name)}"] = value[:, :, None, None] if attention else value
    if hasattr(pipeline, "text_encoder_2"):
        tensors |= _clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
        tensors |= _open_clip(pipeline.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipeline.unet.config.cross_attention_dim == 1024:
        tensors |= _open_clip(pipeline.text_encoder, "cond_stage_model.model.")
    else:
        tensors |= _clip(pipeline.text_encoder, "cond_stage_model.transformer.")
    return tensors


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
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
    for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = name.replace(f"attn_1.{ours}", f"attn_1.{theirs}")
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


def _joint_model(pipeline: Any) -> dict[str, torch.Tensor]:
    """As ComfyUI saves it. A T5's table, which it has twice, is there once."""
    flux = type(pipeline).__name__ == "FluxPipeline"
    state = dict(_state(pipeline.transformer))
    tensors = {
        f"model.diffusion_model.{name}": value for name, value in (_flux if flux else _sd3)(state).items()
    }
    vae, t5 = ("vae.", "text_encoder_2") if flux else ("first_stage_model.", "text_encoder_3")
    tensors |= {f"{vae}{_vae(name)}": value for name, value in _state(pipeline.vae)}
    clips = {"clip_l": pipeline.text_encoder} | ({} if flux else {"clip_g": pipeline.text_encoder_2})
    for name, encoder in clips.items():
        root = "" if hasattr(encoder, "text_model") else "text_model."
        tensors |= {f"text_encoders.{name}.transformer.{root}{key}": value for key, value in _state(encoder)}
    table = "encoder.embed_tokens.weight"
    states = [(key, value) for key, value in _state(getattr(pipeline, t5)) if key != table]
    return tensors | {f"text_encoders.t5xxl.transformer.{key}": value for key, value in states}


def _layers(
    state: dict[str, torch.Tensor], names: dict[str, str], theirs: str = "", ours: str = ""
) -> dict[str, torch.Tensor]:
    """Weights and biases of layers under other names; of those that there are."""
    return {
        f"{theirs}{new}.{kind}": state[f"{ours}{old}.{kind}"]
        for new, old in names.items()
        for kind in ("weight", "bias")
        if f"{ours}{old}.{kind}" in state
    }


def _side_by_side(
    state: dict[str, torch.Tensor], theirs: str, ours: str, names: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    return {
        f"{theirs}.{kind}": torch.cat([state[f"{ours}{name}.{kind}"] for name in names])
        for kind in ("weight", "bias")
    }


def _exchanged(state: dict[str, torch.Tensor], theirs: str, ours: str) -> dict[str, torch.Tensor]:
    """Scale and shift in the other order."""
    return {
        f"{theirs}.{kind}": torch.cat(state[f"{ours}.{kind}"].chunk(2)[::-1]) for kind in ("weight", "bias")
    }


def _blocks(state: dict[str, torch.Tensor], name: str) -> int:
    return 1 + max(int(key.split(".")[1]) for key in state if key.startswith(f"{name}."))


def _sd3(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {"pos_embed": state["pos_embed.pos_embed"], **_layers(state, _SD3)}
    last = _blocks(state, "transformer_blocks") - 1
    for number in range(last + 1):
        theirs, ours = f"joint_blocks.{number}.", f"transformer_blocks.{number}."
        found |= _layers(state, _SD3_BLOCK, theirs, ours)
        found |= _side_by_side(state, f"{theirs}x_block.attn.qkv", f"{ours}attn.", _IMAGE)
        found |= _side_by_side(state, f"{theirs}context_block.attn.qkv", f"{ours}attn.", _TEXT)
    modulation = f"joint_blocks.{last}.context_block.adaLN_modulation.1"
    found |= _exchanged(state, modulation, f"transformer_blocks.{last}.norm1_context.linear")
    return found | _ending(state)


def _flux(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = _layers(state, _FLUX)
    for number in range(_blocks(state, "transformer_blocks")):
        theirs, ours = f"double_blocks.{number}.", f"transformer_blocks.{number}."
        found |= _layers(state, _FLUX_DOUBLE, theirs, ours)
        for side, names, norms in (("img", _IMAGE, "norm_"), ("txt", _TEXT, "norm_added_")):
            found |= _side_by_side(state, f"{theirs}{side}_attn.qkv", f"{ours}attn.", names)
            found |= _scales(state, f"{theirs}{side}_attn.norm.", f"{ours}attn.{norms}")
    for number in range(_blocks(state, "single_transformer_blocks")):
        theirs, ours = f"single_blocks.{number}.", f"single_transformer_blocks.{number}."
        names = (*(f"attn.{name}" for name in _IMAGE), "proj_mlp")
        found |= _layers(state, {"modulation.lin": "norm.linear", "linear2": "proj_out"}, theirs, ours)
        found |= _side_by_side(state, f"{theirs}linear1", ours, names)
        found |= _scales(state, f"{theirs}norm.", f"{ours}attn.norm_")
    return found | _ending(state)


def _scales(state: dict[str, torch.Tensor], theirs: str, ours: str) -> dict[str, torch.Tensor]:
    return {f"{theirs}{name}_norm.scale": state[f"{ours}{name[0]}.weight"] for name in ("query", "key")}


def _ending(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        **_layers(state, {"final_layer.linear": "proj_out"}),
        **_exchanged(state, "final_layer.adaLN_modulation.1", "norm_out.linear"),
    }
