"""LoRA in the layout of kohya's sd-scripts, which A1111, ComfyUI and others read: a strength of its own in each layer.

diffusers has a converter to this layout, which writes alpha = rank whatever the adapter's alpha is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Stable Diffusion has one text encoder; only two of them are numbered.
_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te"}
_ENCODER = "text_model"  # in which the layout nests the text encoder's layers; transformers 5 does not
_V2_WIDTH = 1024  # of the text embeddings of Stable Diffusion 2.x


def write_kohya(
    path: Path, states: Mapping[str, Mapping[str, torch.Tensor]], alpha: float, rank: int, width: int
) -> None:
    """Writes adapters as one safetensors file.

    Args:
        states: Part of the model -> ``<module>.lora_A.weight`` [r, in, ...] and ``<module>.lora_B.weight``
            [out, r, ...].
        alpha: alpha / rank is the factor of the product of the two.
        width: Of the text embeddings; tells the generations of Stable Diffusion apart.
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
    second = width == _V2_WIDTH
    metadata = {
        "ss_base_model_version": "sd_v2" if second else "sd_v1",
        "ss_v2": str(second),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }
    save_file(tensors, path, metadata)


def _name(part: str, module: str) -> str:
    if part == "text_encoder" and not module.startswith(f"{_ENCODER}."):
        module = f"{_ENCODER}.{module}"
    return f"{_PREFIXES[part]}_{module.replace('.', '_')}"
