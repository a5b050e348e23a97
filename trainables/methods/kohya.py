"""LoRA in the layout of kohya's sd-scripts, which A1111, ComfyUI and others read: a strength of its own in each layer.

diffusers has a converter to this layout, which writes alpha = rank whatever the adapter's alpha is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from trainables.models.families import Part


def write_kohya(
    path: Path,
    states: Mapping[Part, Mapping[str, torch.Tensor]],
    alpha: float,
    rank: int,
    model: Mapping[str, str],
) -> None:
    """Writes adapters as one safetensors file.

    Args:
        states: Part of the model -> ``<module>.lora_A.weight`` [r, in, ...] and ``<module>.lora_B.weight``
            [out, r, ...].
        alpha: alpha / rank is the factor of the product of the two.
        model: What the layout says of the base model.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for part, state in states.items():
        for key, value in state.items():
            module, matrix = key.removesuffix(".weight").rsplit(".", 1)
            name = _name(part, module)
            tensors[f"{name}.{'lora_down' if matrix == 'lora_A' else 'lora_up'}.weight"] = value
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    metadata = {
        **model,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }
    save_file(tensors, path, metadata)


def _name(part: Part, module: str) -> str:
    if part.kohya_root and not module.startswith(f"{part.kohya_root}."):
        module = f"{part.kohya_root}.{module}"
    return f"{part.kohya}_{module.replace('.', '_')}"
