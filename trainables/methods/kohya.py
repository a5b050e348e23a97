"""LoRA in the layout of kohya's sd-scripts, which A1111, ComfyUI and others read: a strength of its own in each layer.

diffusers has a converter to this layout, which writes alpha = rank whatever the adapter's alpha is.
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
    """Writes adapters as one safetensors file.

    Args:
        parts: Part of the model -> module -> its adapter.
        model: What the layout says of the base model.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {}
    sizes: Counter[tuple[int, float]] = Counter()
    for part, layers in parts.items():
        for module, layer in layers.items():
            name = kohya_name(part, module)
            tensors[f"{name}.lora_down.weight"] = layer.down
            tensors[f"{name}.lora_up.weight"] = layer.up
            tensors[f"{name}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
            sizes[len(layer.down), layer.alpha] += 1
    (rank, alpha), _ = sizes.most_common(1)[0]
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
