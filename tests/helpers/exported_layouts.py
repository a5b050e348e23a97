"""What other programs read in files of kohya's names, written from their sources and not from the code under test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

State = Mapping[str, torch.Tensor]
PREFIXES = {
    "sd1": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sdxl": {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
#: Of the tiny SDXL, whose UNet has blocks of one layer: attention in the first block down, the last up.
SGM = {
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0": "input_blocks.2.0",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
}
RESNET = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
SUFFIXES = {
    "lora": {"lora_down.weight", "lora_up.weight", "alpha"},
    "loha": {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"},
}


def stem_of(family: str, part: str, module: str) -> str:
    """The name of a module in a file, without what follows the dot."""
    if part.startswith("text_encoder"):
        module = module if module.startswith("text_model.") else f"text_model.{module}"
    elif family == "sdxl":
        begin = next(name for name in SGM if module.startswith(f"{name}."))
        rest = module.removeprefix(f"{begin}.")
        module = f"{SGM[begin]}.{RESNET.get(rest, rest)}"
    return f"{PREFIXES[family][part]}_{module.replace('.', '_')}"


def kohya_keys(
    family: str,
    kind: str,
    layers: Mapping[str, set[str]],
    modules: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> set[str]:
    """All keys that a file must have, given what was trained with the fields of an adapter."""
    found = set()
    for part, names in layers.items():
        for name in names:
            stem, layer = stem_of(family, part, name), modules[part].get_submodule(name)
            wide = layer.weight.dim() == 4 and layer.weight.shape[-1] > 1
            if kind in ("lora", "rslora"):
                suffixes = SUFFIXES["lora"]
            elif kind == "loha":
                suffixes = SUFFIXES["loha"] | ({"hada_t1", "hada_t2"} if wide else set())
            elif kind == "lokr":
                # Sides are `decompose_factor` times a rest, and the rest's factor is in two where that is smaller.
                pattern = fields.get("rank_pattern", {})
                rank = next((value for end, value in pattern.items() if name.endswith(end)), fields["r"])
                factor, sides = fields["decompose_factor"], layer.weight.shape[:2]
                assert all(side % factor == 0 for side in sides)
                split = rank < max(side // factor for side in sides) / 2
                second = {"lokr_w2_a", "lokr_w2_b"} if split else {"lokr_w2"}
                suffixes = {"lokr_w1", *second, "alpha"}
            elif (
                kind == "ia3"
                and layer.bias is not None
                and layer.bias.any()
                and not name.endswith(("ff.net.2", "fc2"))
            ):
                suffixes = {"diff", "diff_b"}
            else:
                suffixes = {"diff"}
            found |= {f"{stem}.{suffix}" for suffix in suffixes}
    return found


def read_changes(family: str, state: State, modules: Mapping[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    """Part -> parameter -> what a reader adds to it: kohya's LoRA, and LyCORIS' loha, lokr and full."""
    known = {
        stem_of(family, part, name): (part, name, module)
        for part in PREFIXES[family]
        for name, module in modules[part].named_modules()
        if getattr(module, "weight", None) is not None and (part != "unet" or _is_in_a_block(name))
    }
    found: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PREFIXES[family]}
    for stem in {key.partition(".")[0] for key in state}:
        part, name, module = known[stem]
        layer = {
            key.removeprefix(f"{stem}."): value for key, value in state.items() if key.startswith(f"{stem}.")
        }
        if "diff" in layer:
            change = layer["diff"]
        elif "hada_w1_a" in layer:
            change = _loha(layer)
        elif any(key.startswith("lokr") for key in layer):
            change = _lokr(layer)
        else:
            down, up = layer["lora_down.weight"], layer["lora_up.weight"]
            change = up.flatten(1) @ down.flatten(1) * (float(layer["alpha"]) / len(down))
        found[part][f"{name}.weight"] = change.reshape(module.weight.shape)
        if "diff_b" in layer:
            found[part][f"{name}.bias"] = layer["diff_b"]
    return found


def _is_in_a_block(name: str) -> bool:
    return any(name.startswith(f"{begin}.") for begin in SGM)


def _tucker(core: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ijkl,ip,jr->prkl", core, first, second)


def _loha(layer: State) -> torch.Tensor:
    one, two = (layer["hada_w1_a"], layer["hada_w1_b"]), (layer["hada_w2_a"], layer["hada_w2_b"])
    if "hada_t1" in layer:
        product = _tucker(layer["hada_t1"], *one) * _tucker(layer["hada_t2"], *two)
    else:
        product = (one[0] @ one[1]) * (two[0] @ two[1])
    return product * (float(layer["alpha"]) / len(one[1]))


def _lokr(layer: State) -> torch.Tensor:
    """As ComfyUI: the rank is that of a factor in two; of two whole factors alpha is not read."""
    rank = None
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in layer:
            factors.append(layer[name])
        else:
            rank = len(layer[f"{name}_b"])
            factors.append(layer[f"{name}_a"] @ layer[f"{name}_b"])
    first, second = factors
    if second.dim() == 4:
        first = first[:, :, None, None]
    return torch.kron(first, second) * (1.0 if rank is None else float(layer["alpha"]) / rank)
