"""Custom Diffusion's projections in files: those of diffusers' layout read, and written for other programs.

They are written as diffusers reads them, as exact LoRA, or as dense differences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.errors import UserError
from trainables.methods.adapter_exports import write_differences
from trainables.methods.adapter_files import ADAPTER, adapted_layers, save_for_peft, sort_header
from trainables.methods.exporting import Exported, Request, metadata_of, pipeline_usage, write_file

if TYPE_CHECKING:
    import torch

    from trainables.models.backbone import Backbone

PROJECTIONS_FILE = "pytorch_custom_diffusion_weights.safetensors"
_PROJECTION = re.compile(r"(.+)\.processor\.(to_\w+)_custom_diffusion((?:\.\d+)?\.(?:weight|bias))")
_DENSE_NOTE = "the projections are written as dense differences of weights: they were trained whole"
_LORA_NOTE = (
    "the projections were trained whole, and the LoRA that is equal to that has the full rank of each layer: its file "
    "is larger than the weights"
)


def is_projections(keys: Iterable[str]) -> bool:
    """Whether tensors are those of ``save_attn_procs``: projections, and empty ones for layers that trained none."""
    names = list(keys)
    return any(map(_PROJECTION.fullmatch, names)) and all(
        _PROJECTION.fullmatch(name) or name.endswith(".processor") for name in names
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


def projection_weights(file: Path, backbone: Backbone) -> dict[tuple[str, str], torch.Tensor]:
    """Returns (part, parameter) -> value of a file in the layout of ``save_attn_procs``, all of it or none.

    Raises:
        UserError: It has projections that the model has not, or not the same for each layer.
    """
    from safetensors.torch import load_file

    from trainables.models.cross_attention import cross_attention_layers

    strange = [
        key for key in load_file(file) if not (_PROJECTION.fullmatch(key) or key.endswith(".processor"))
    ]
    if strange:
        raise UserError(
            f"{file} has tensors that are no projections of Custom Diffusion, such as {strange[0]}"
        )
    denoiser, part = backbone.denoiser, backbone.family.denoiser
    theirs, modules = trained_projections(file), dict(denoiser.named_modules())

    def fits(name: str, value: torch.Tensor) -> bool:
        module, _, field = name.rpartition(".")
        own = getattr(modules.get(module), field, None)  # of a quantised layer what its codes stand for
        return own is not None and own.shape == value.shape

    if other := [name for name, value in theirs.items() if not fits(name, value)]:
        raise UserError(
            f"{file} has {len(other)} of {len(theirs)} projections that {part.title or part.name} has not, or in "
            f"another shape, such as {other[0]}: it was trained on another kind of model"
        )
    trained: dict[str, set[str]] = {layer: set() for layer in cross_attention_layers(denoiser)}
    for name in theirs:
        layer = next((layer for layer in trained if name.startswith(f"{layer}.")), "")
        trained.setdefault(layer, set()).add(name.removeprefix(f"{layer}."))
    wanted: set[str] = set().union(*trained.values())
    if lacking := [layer for layer, names in trained.items() if names != wanted]:
        raise UserError(
            f"{file} has not the same projections for each layer of cross-attention: it lacks some of {lacking[0]}; "
            "fetch it again"
        )
    return {(part.name, name): value for name, value in theirs.items()}


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
