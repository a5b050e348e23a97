"""How AUTOMATIC1111 and ComfyUI read a hypernetwork's file, stated anew from their sources; nothing of ours is used.

A1111: modules/hypernetworks/hypernetwork.py (`HypernetworkModule`, `Hypernetwork.load`); ComfyUI:
comfy_extras/nodes_hypernetwork.py (`load_hypernetwork_patch`). ComfyUI's differences are kept: with layer norms it is
wrong about which layer is the last, and layers of dropout stay in training mode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

Pair = tuple[nn.Module, nn.Module]


def a1111(path: Path) -> dict[int, Pair]:
    """Returns what A1111 makes of a file: width -> residual networks of keys and of values, in evaluation mode."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    structure = content.get("layer_structure", [1, 2, 1])
    assert (structure[0], structure[-1]) == (1, 1)
    activation = content.get("activation_func", None)
    norm, after_last = content.get("is_layer_norm", False), content.get("activate_output", True)
    dropout = content.get("dropout_structure", None)
    if dropout is None:
        dropout = _parsed(
            structure, content.get("use_dropout", False), content.get("last_layer_dropout", False)
        )
    found = {}
    for size, pair in content.items():
        if type(size) is int:
            made = [a1111_module(size, structure, activation, norm, after_last, dropout) for _ in pair]
            for module, state in zip(made, pair, strict=True):
                module.load_state_dict({name.removeprefix("linear."): value for name, value in state.items()})
            found[size] = (made[0].eval(), made[1].eval())
    return found


def _parsed(structure: list[float], use_dropout: bool, last_layer_dropout: bool) -> list[float]:
    """A1111's `parse_dropout_structure`."""
    if not use_dropout:
        return [0.0] * len(structure)
    values = [0.0]
    values.extend([0.3] * (len(structure) - 3))
    values.append(0.3 if last_layer_dropout else 0.0)
    values.append(0.0)
    return values


def a1111_module(
    dim: int, structure: list[float], activation: str | None, norm: bool, after_last: bool, dropout: Any
) -> nn.Sequential:
    """Returns the layers that A1111 makes for one width."""
    known = {"linear": nn.Identity, "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU}
    known |= {"swish": nn.Hardswish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}
    known |= {name.lower(): getattr(nn.modules.activation, name) for name in nn.modules.activation.__all__}
    layers: list[nn.Module] = []
    for i in range(len(structure) - 1):
        layers.append(nn.Linear(int(dim * structure[i]), int(dim * structure[i + 1])))
        if activation in ("linear", None) or (i >= len(structure) - 2 and not after_last):
            pass
        else:
            layers.append(known[activation]())
        if norm:
            layers.append(nn.LayerNorm(int(dim * structure[i + 1])))
        if dropout is not None and dropout[i + 1] > 0:
            layers.append(nn.Dropout(p=dropout[i + 1]))
    return nn.Sequential(*layers)


def comfyui(path: Path) -> dict[int, Pair] | None:
    """Returns what ComfyUI makes of a file, in the mode in which it leaves the layers; None: It refuses the file."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    activation = content.get("activation_func", "linear")
    norm, use_dropout = content.get("is_layer_norm", False), content.get("use_dropout", False)
    after_last, last_dropout = content.get("activate_output", False), content.get("last_layer_dropout", False)
    known = {"linear": nn.Identity, "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU}
    known |= {"swish": nn.Hardswish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softsign": nn.Softsign}
    known |= {"mish": nn.Mish}
    if activation not in known:
        return None
    found = {}
    for key in content:
        if not isinstance(key, int):
            continue
        networks = []
        for state in content[key]:
            names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
            layers: list[nn.Module] = []
            i = 0
            while i < len(names):
                last, penultimate = i == len(names) - 1, i == len(names) - 2
                weight, bias = state[f"{names[i]}.weight"], state[f"{names[i]}.bias"]
                linear = nn.Linear(weight.shape[1], weight.shape[0])
                linear.load_state_dict({"weight": weight, "bias": bias})
                layers.append(linear)
                if activation != "linear" and (not last or after_last):
                    layers.append(known[activation]())
                if norm:
                    i += 1
                    weight, bias = state[f"{names[i]}.weight"], state[f"{names[i]}.bias"]
                    layer = nn.LayerNorm(weight.shape[0])
                    layer.load_state_dict({"weight": weight, "bias": bias})
                    layers.append(layer)
                if use_dropout and not last and (not penultimate or last_dropout):
                    layers.append(nn.Dropout(p=0.3))
                i += 1
            networks.append(nn.Sequential(*layers))
        found[key] = (networks[0], networks[1])
    return found
