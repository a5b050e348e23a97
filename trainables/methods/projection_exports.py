"""Custom Diffusion's projections for other programs: as diffusers reads them, as exact LoRA, as dense differences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.methods.adapter_exports import write_differences
from trainables.methods.adapter_files import ADAPTER, adapted_layers, save_for_peft, sort_header
from trainables.methods.exporting import Exported, Request, metadata_of, pipeline_usage, write_file

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone

_PROJECTION = re.compile(r"(.+)\.processor\.(to_\w+)_custom_diffusion((?:\.\d+)?\.(?:weight|bias))")
_DENSE_NOTE = "the projections are written as dense differences of weights: they were trained whole"
_LORA_NOTE = (
    "the projections were trained whole, and the LoRA that is equal to that has the full rank of each layer: its file "
    "is larger than the weights"
)


def trained_projections(file: Path) -> dict[str, torch.Tensor]:
    """Returns parameter of the denoiser -> its trained value, from a file in the layout of ``save_attn_procs``."""
    from safetensors.torch import load_file

    found = {}
    for key, value in load_file(file).items():
        if match := _PROJECTION.fullmatch(key):
            layer, projection, rest = match.groups()
            found[f"{layer}.{projection}{rest}"] = value
    return found


def export_projections(
    backbone: Backbone, file: Path, request: Request, out: Path, beside: Mapping[str, torch.Tensor]
) -> Exported:
    """Writes trained projections for diffusers, PEFT, or a program that reads kohya's names.

    Args:
        backbone: The base model, freshly loaded: for PEFT it is changed.
        file: In the layout of ``save_attn_procs``.
        beside: Further tensors of a file in kohya's names.
    """
    if request.form == "diffusers":
        return _for_diffusers(backbone, file, request, out)
    changes = {
        name: value - backbone.denoiser.get_parameter(name).detach().to("cpu")
        for name, value in trained_projections(file).items()
    }
    if request.form == "peft":
        return _for_peft(backbone, changes, request, out)
    usage = write_differences(backbone, changes, request, out, beside)
    return Exported(usage, code=False, notes=(_DENSE_NOTE,))


def _for_diffusers(backbone: Backbone, file: Path, request: Request, out: Path) -> Exported:
    from safetensors.torch import load_file

    metadata = {**metadata_of(request, backbone, "custom-diffusion"), "format": "pt"}
    write_file(out / file.name, load_file(file), metadata)
    name = backbone.family.denoiser.name
    load = f'pipeline.{name}.load_attn_procs("{out.name}", weight_name="{file.name}", _pipeline=pipeline)'
    return Exported(f"{pipeline_usage(backbone.family, 'BASE MODEL')}\n{load}")


def _for_peft(
    backbone: Backbone, changes: Mapping[str, torch.Tensor], request: Request, out: Path
) -> Exported:
    """Writes a LoRA whose one factor is a layer's change and the other the identity: their product is exact."""
    import torch
    from peft import LoraConfig

    module, part = backbone.denoiser, backbone.family.denoiser
    layers = {name.removesuffix(".weight"): change for name, change in changes.items()}
    ranks = {name: min(change.shape) for name, change in layers.items()}
    rank = max(ranks.values())
    others = {name: value for name, value in ranks.items() if value != rank}
    config = LoraConfig(
        r=rank, lora_alpha=rank, rank_pattern=others, alpha_pattern=dict(others), target_modules=list(layers)
    )
    module.add_adapter(config, adapter_name=ADAPTER)
    for name, layer in adapted_layers(module).items():
        change, down, up = layers[name], layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        narrow = len(change) == ranks[name]  # no more outputs than inputs
        down.data.copy_(change if narrow else torch.eye(ranks[name]))
        up.data.copy_(torch.eye(ranks[name]) if narrow else change)
    metadata = {
        key: value
        for key, value in metadata_of(request, backbone, "lora").items()
        if not key.startswith("ss_")
    }
    save_for_peft(module, out / part.name, ADAPTER, metadata)
    for path in (out / part.name).rglob("*.safetensors"):
        sort_header(path)
    lines = [
        "from peft import PeftModel",
        pipeline_usage(backbone.family, "BASE MODEL"),
        f'PeftModel.from_pretrained(pipeline.{part.name}, "{out.name}/{part.name}")  # in place',
    ]
    return Exported("\n".join(lines), notes=(_LORA_NOTE,))
