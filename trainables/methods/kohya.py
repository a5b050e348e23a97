"""LoRA in the layout of kohya's sd-scripts, which A1111, ComfyUI and others read: a strength of its own in each layer.

diffusers has a converter to this layout, which writes alpha = rank whatever the adapter's alpha is, and one from it,
which takes the most common alpha of a file for all of its attention layers: theirs bear another name in the file than
it looks for. So a file has one alpha, and where layers had others, the difference is in their weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from trainables.models.families import Part


@dataclass(frozen=True)
class KohyaLayer:
    """A layer's LoRA.

    Attributes:
        down: [rank, in, ...].
        up: [out, rank, ...].
        alpha: alpha / rank is the factor of the product of the two.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float


def write_kohya(path: Path, parts: Mapping[Part, Mapping[str, KohyaLayer]], model: Mapping[str, str]) -> None:
    """Writes adapters as one safetensors file, with the most common alpha in all layers.

    Args:
        parts: Part of the model -> module -> its adapter.
        model: What the layout says of the base model.
    """
    import torch
    from safetensors.torch import save_file

    named = {
        kohya_name(part, module): layer for part, layers in parts.items() for module, layer in layers.items()
    }
    alpha, _ = Counter(layer.alpha for layer in named.values()).most_common(1)[0]
    rank, _ = Counter(len(layer.down) for layer in named.values()).most_common(1)[0]
    tensors = {}
    for name, layer in named.items():
        tensors[f"{name}.lora_down.weight"] = layer.down
        tensors[f"{name}.lora_up.weight"] = (
            layer.up if layer.alpha == alpha else layer.up * (layer.alpha / alpha)
        )
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    metadata = {
        **model,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }
    save_file(tensors, path, metadata)


def kohya_name(part: Part, module: str) -> str:
    """Returns the name of a module's tensors in kohya's layout, without the suffix.

    Args:
        module: In the part, with diffusers' or transformers' name.
    """
    return f"{part.kohya}_{part.name_in_files(module).replace('.', '_')}"
