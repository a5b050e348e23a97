"""Names that a UNet's modules have in Stability AI's own code (SGM), by which kohya's scripts train SDXL.

Source: the layout of the published checkpoints; the inverse of diffusers' ``_maybe_map_sgm_blocks_to_diffusers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_IN_RESNETS = {
    "norm1": "in_layers.0",
    "norm2": "out_layers.0",
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MID = re.compile(r"mid_block\.((?:resnets|attentions)\.\d+)\.(.+)")


def sgm_name(module: str, config: Mapping[str, Any]) -> str:
    """Returns the name of a module of diffusers' UNet in SGM's code.

    Args:
        module: A layer with weights, e.g. ``down_blocks.1.attentions.0.proj_in``.
        config: Of the UNet: ``layers_per_block`` and ``up_block_types``.

    Raises:
        ValueError: SGM's code has no such module.
    """
    if module in _OUTSIDE:
        return _OUTSIDE[module]
    layers = config["layers_per_block"]
    if found := _BLOCK.fullmatch(module):
        side, block, kind, number, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.{_sampler(rest, 'op')}"
        begin = (layers + 1) * block
        if kind == "upsamplers":
            inner = 2 if "CrossAttn" in config["up_block_types"][block] else 1
            return f"output_blocks.{begin + layers}.{inner}.{_sampler(rest, 'conv')}"
        place = f"input_blocks.{1 + begin + number}" if side == "down" else f"output_blocks.{begin + number}"
        return f"{place}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    if found := _MID.fullmatch(module):
        kind = found[1].partition(".")[0]
        if found[1] in _MIDDLE:
            return f"middle_block.{_MIDDLE[found[1]]}.{_inner(kind, found[2])}"
    raise ValueError(f"SGM's code has no name for the module {module!r}")


def _inner(kind: str, rest: str) -> str:
    return _IN_RESNETS.get(rest, rest) if kind == "resnets" else rest


def _sampler(rest: str, name: str) -> str:
    return name if rest == "conv" else rest
