"""A pipeline's weights under the names of its publisher: one file for Stable Diffusion 1.x, 2.x and XL.

The inverse of what diffusers' ``from_single_file`` reads. Sources: the published checkpoints, CompVis' latent-diffusion
(UNet, autoencoder), OpenCLIP (the text encoders of Stable Diffusion 2.x, and the second of XL).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trainables.models.family import SGM_CLIP, SGM_OPEN_CLIP, SGM_UNET, SGM_VAE, Family, SingleFile
from trainables.models.sgm_names import sgm_name

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
Tensors = dict[str, "torch.Tensor"]

#: Marks of how a model was trained that ComfyUI writes beside the weights, and goes by (`SDXL.model_type` in its
#: supported_models.py): it predicts velocity, and its schedule ends without any signal. Other trainers write them too.
PREDICTS_V, NO_SIGNAL = "v_pred", "ztsnr"

_VAE_MIDDLE = {"resnets.0": "block_1", "attentions.0": "attn_1", "resnets.1": "block_2"}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_MID = re.compile(r"(encoder|decoder)\.mid_block\.((?:resnets|attentions)\.\d)\.(.+)")
_VAE_BLOCK = re.compile(
    r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(?:down|up)samplers\.0)\.(.+)"
)
_VAE_OUTSIDE = re.compile(
    r"(?:(?:encoder|decoder)\.(?:conv_in|conv_norm_out|conv_out)|quant_conv|post_quant_conv)\.(?:weight|bias)"
)

_CLIP_ROOT = "text_model."
_OPEN_CLIP_OUTSIDE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_OPEN_CLIP_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_TOGETHER = ("q_proj", "k_proj", "v_proj")


def file_kind(family: Family, config: Mapping[str, Any]) -> SingleFile | None:
    """Returns the kind of single file that a model of a family is written as, or None: it is not written.

    Args:
        config: Of the denoiser.
    """
    kinds = [kind for kind in family.single_files if kind.layouts]
    fitting = [kind for kind in kinds if kind.text_width in (0, config.get("cross_attention_dim"))]
    return max(fitting, key=lambda kind: kind.text_width, default=None)


def single_file_tensors(family: Family, kind: SingleFile, pipeline: Any) -> Tensors:
    """Returns all weights of a pipeline by their names in a single file.

    Args:
        kind: See `file_kind`.

    Raises:
        ValueError: The publisher's code has no module, or no such one, as the pipeline has.
    """
    found: Tensors = {}
    for part in family.modules:
        module = getattr(pipeline, part.name)
        (prefix,) = kind.prefixes[part.name]
        named = _LAYOUTS[kind.layouts[part.name]](dict(module.state_dict()), module.config)
        for name, value in named.items():
            found[f"{prefix}{name}"] = value
    return found


def noise_marks(kind: SingleFile, scheduler: Mapping[str, Any]) -> Tensors:
    """Returns empty tensors that say how a model was trained, where its kind of file says so by marks.

    Of a kind with `choices` programs tell what it predicts by other means.

    Args:
        scheduler: Configuration of the noise of training.
    """
    import torch

    if kind.choices or scheduler.get("prediction_type") != "v_prediction":
        return {}
    marks = [PREDICTS_V, *([NO_SIGNAL] if scheduler.get("rescale_betas_zero_snr") else [])]
    return {mark: torch.zeros(0) for mark in marks}


def _unet(state: State, config: Any) -> Tensors:
    return {
        ".".join([sgm_name(name.rpartition(".")[0], config), name.rpartition(".")[2]]): value
        for name, value in state.items()
    }


def _vae(state: State, config: Any) -> Tensors:
    levels = len(config["block_out_channels"])
    found = {}
    for name, value in state.items():
        new = _vae_name(name, levels)
        attention = (
            ".mid.attn_1." in new and value.dim() == 2
        )  # the publisher's are convolutions of one pixel
        found[new] = value[:, :, None, None] if attention else value
    return found


def _vae_name(name: str, levels: int) -> str:
    if middle := _VAE_MID.fullmatch(name):
        side, module, rest = middle.groups()
        if module in _VAE_MIDDLE:
            inner = _attention(rest) if module.startswith("attentions") else _resnet(rest)
            return f"{side}.mid.{_VAE_MIDDLE[module]}.{inner}"
    elif block := _VAE_BLOCK.fullmatch(name):
        side, way, number, resnet, rest = block.groups()
        level = int(number) if way == "down" else levels - 1 - int(number)  # theirs count sizes, upwards too
        inner = f"{way}sample.{rest}" if resnet is None else f"block.{resnet}.{_resnet(rest)}"
        return f"{side}.{way}.{level}.{inner}"
    elif _VAE_OUTSIDE.fullmatch(name):
        return name.replace("conv_norm_out", "norm_out")
    raise ValueError(f"the publisher's autoencoder has no name for {name!r}")


def _resnet(rest: str) -> str:
    return rest.replace("conv_shortcut", "nin_shortcut")


def _attention(rest: str) -> str:
    module, _, kind = rest.rpartition(".")
    if module not in _VAE_ATTENTION:
        raise ValueError(f"the publisher's autoencoder has no name for the attention's {rest!r}")
    return f"{_VAE_ATTENTION[module]}.{kind}"


def _clip(state: State, config: Any) -> Tensors:
    """The names of transformers, nested as before its version 5.6."""
    return {f"{_CLIP_ROOT}{name.removeprefix(_CLIP_ROOT)}": value for name, value in state.items()}


def _open_clip(state: State, config: Any) -> Tensors:
    """Queries, keys and values are one tensor; the projection of the pooled state is the other way round."""
    return dict(_open_clip_entries({name.removeprefix(_CLIP_ROOT): value for name, value in state.items()}))


def _open_clip_entries(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for name, value in state.items():
        if name in _OPEN_CLIP_OUTSIDE:
            yield _OPEN_CLIP_OUTSIDE[name], value
        elif name == "text_projection.weight":
            yield "text_projection", value.T
        elif block := _OPEN_CLIP_BLOCK.fullmatch(name):
            layer, module, kind = block.groups()
            attention, _, projection = module.partition(".")
            if attention == "self_attn" and projection in _TOGETHER:
                if projection == _TOGETHER[0]:
                    three = [state[name.replace(projection, other)] for other in _TOGETHER]
                    yield f"transformer.resblocks.{layer}.attn.in_proj_{kind}", torch.cat(three)
            elif module in _OPEN_CLIP_LAYER:
                yield f"transformer.resblocks.{layer}.{_OPEN_CLIP_LAYER[module]}.{kind}", value
            else:
                raise ValueError(f"OpenCLIP has no name for {name!r}")
        else:
            raise ValueError(f"OpenCLIP has no name for {name!r}")


_LAYOUTS: dict[str, Callable[[State, Any], Tensors]] = {
    SGM_UNET: _unet,
    SGM_VAE: _vae,
    SGM_CLIP: _clip,
    SGM_OPEN_CLIP: _open_clip,
}
