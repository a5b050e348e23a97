"""Adapters as files for other programs: in kohya's names, for PEFT, merged into a pipeline, and for diffusers.

In kohya's names LoRA is ``lora_down``, ``lora_up`` and ``alpha``, LoHa ``hada_*`` and LoKr ``lokr_*`` (LyCORIS). What
readers have no names for, or compute otherwise than PEFT, goes there as dense differences ``diff`` and ``diff_b``,
LyCORIS' ``full``: DoRA, whose magnitude A1111 takes along the other axis and ComfyUI divides by another norm, OFT and
BOFT, which turn a layer's inputs here and its outputs there, HRA and (IA)^3. A file of these is as large as the layers.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.methods.adapter_checks import adapted_parts
from trainables.methods.adapter_files import (
    KOHYA_FILE,
    WEIGHTS_FILE,
    adapted_layers,
    load_adapters,
    read_header,
    save_for_peft,
    sort_header,
)
from trainables.methods.adapter_merging import adapted_parts_of, merge_adapters
from trainables.methods.exporting import (
    ONE_FILE,
    Exported,
    Format,
    Request,
    metadata_of,
    pipeline_usage,
    write_file,
)
from trainables.methods.kohya import kohya_name
from trainables.methods.model_exports import export_merged

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.methods.adapter_config import AdapterConfig
    from trainables.models.backbone import Backbone
    from trainables.models.families import Family, Part

Tensors = dict[str, "torch.Tensor"]

_LYCORIS, _LORA = "lycoris.kohya", "networks.lora"
#: Kinds with names of their own in kohya's layout -> the algorithm, as LyCORIS calls it.
_NAMED = {"lora": "lora", "rslora": "lora", "loha": "loha", "lokr": "lokr"}
_DENSE = "full"
_DIFFERENCES = {"weight": "diff", "bias": "diff_b"}
_READ_BY_PIPELINE = ("lora", "rslora", "dora")


def adapter_obstacle(family: Family, config: AdapterConfig, form: Format) -> str | None:
    """Returns why adapters cannot be had in a format, with what to take instead; None if they can."""
    title, kind = config.kind.title, config.adapter
    if form in ONE_FILE and not family.denoiser.kohya:
        return (
            f"kohya's names of {family.title} are not written; take --format diffusers, peft or merged, of which "
            "ComfyUI reads the first"
            if kind in _READ_BY_PIPELINE
            else f"kohya's names of {family.title} are not written; take --format peft or merged"
        )
    if form != "diffusers":
        return None
    if config.kind.loader == "peft":
        return (
            f"diffusers has no loader for {title}; take --format peft, or merged for a pipeline that it loads"
        )
    text = [name for name in adapted_parts(family, config) if name != family.denoiser.name]
    if text and config.kind.loader != "diffusers":
        reason = "the magnitudes" if kind == "dora" else "such adapters"
        return (
            f"diffusers does not load {reason} of text encoders ({title}, train_text_encoder: true) and would draw "
            "other images; take --format peft, or merged"
        )
    return None


def export_adapters(
    backbone: Backbone,
    config: AdapterConfig,
    weights: Path,
    request: Request,
    out: Path,
    beside: Mapping[str, torch.Tensor] | None = None,
) -> Exported:
    """Writes the adapters of a run in a format.

    Args:
        backbone: The base model, freshly loaded: it is changed.
        weights: What `save_adapters` wrote.
        out: An empty folder.
        beside: Further tensors of a file in kohya's names.
    """
    if request.form == "diffusers":
        return _for_diffusers(backbone, config, weights, request, out)
    load_adapters(backbone.pipeline(), weights)
    if request.form == "peft":
        return _for_peft(backbone, request, out)
    if request.form == "merged":
        merge_adapters(backbone)
        return export_merged(backbone, backbone.pipeline(), request, out)
    return _in_kohyas_names(backbone, config, weights, request, out, beside or {})


def _adapter_of(layer: Any) -> str:
    """PEFT's name of a layer's one adapter: diffusers and PEFT give other ones."""
    (name,) = layer.active_adapters
    return str(name)


def _for_diffusers(
    backbone: Backbone, config: AdapterConfig, weights: Path, request: Request, out: Path
) -> Exported:
    """Writes the tensors as they are, with more metadata: alpha is the rank, and the scale in the weights."""
    from safetensors.torch import load_file

    header, _ = read_header((weights / WEIGHTS_FILE).read_bytes())
    own = dict(header.get("__metadata__", {}))
    write_file(
        out / WEIGHTS_FILE, load_file(weights / WEIGHTS_FILE), metadata_of(request, backbone, "lora") | own
    )
    family, name = backbone.family, backbone.family.denoiser.name
    if config.kind.loader == "diffusers module":
        load = (
            f'pipeline.{name}.load_lora_adapter("{out.name}", prefix="{name}", weight_name="{WEIGHTS_FILE}")'
        )
    else:
        load = f'pipeline.load_lora_weights("{out.name}", weight_name="{WEIGHTS_FILE}")'
    return Exported(f"{pipeline_usage(family, 'BASE MODEL')}\n{load}")


def _for_peft(backbone: Backbone, request: Request, out: Path) -> Exported:
    metadata = {
        key: value
        for key, value in metadata_of(request, backbone, "lora").items()
        if not key.startswith("ss_")
    }
    lines = ["from peft import PeftModel", pipeline_usage(backbone.family, "BASE MODEL")]
    for part, module in adapted_parts_of(backbone).items():
        layer = next(iter(adapted_layers(module).values()))
        save_for_peft(module, out / part.name, _adapter_of(layer), metadata)
        lines.append(f'PeftModel.from_pretrained(pipeline.{part.name}, "{out.name}/{part.name}")  # in place')
    for path in out.rglob("*.safetensors"):
        sort_header(path)
    return Exported("\n".join(lines))


def _in_kohyas_names(
    backbone: Backbone,
    config: AdapterConfig,
    weights: Path,
    request: Request,
    out: Path,
    beside: Mapping[str, torch.Tensor],
) -> Exported:
    """Writes one file; text encoders are ``te`` where there is one, else ``te1`` and ``te2``."""
    from safetensors.torch import load_file

    algorithm = _NAMED.get(config.adapter, _DENSE)
    trained = load_file(weights / KOHYA_FILE) if (weights / KOHYA_FILE).exists() else {}
    tensors: Tensors = {}
    sizes: Counter[tuple[int, float]] = Counter()
    for part, module in adapted_parts_of(backbone).items():
        for name, layer in adapted_layers(module).items():
            usual = kohya_name(part, name)
            found = (
                _strip(trained, usual)  # with the alpha that was trained: a loaded layer has its rank for it
                if f"{usual}.alpha" in trained
                else _TENSORS[algorithm](layer, _adapter_of(layer))
            )
            stem = _name_in_kohyas_scripts(backbone, part, name)
            tensors |= {f"{stem}.{key}": value for key, value in found.items()}
            if algorithm != _DENSE:
                sizes[_rank(found), float(found["alpha"])] += 1
    (rank, alpha), _ = sizes.most_common(1)[0] if sizes else ((1, 1.0), 0)
    usage = _write_in_kohyas_names(backbone, {**tensors, **beside}, algorithm, (rank, alpha), request, out)
    return Exported(usage, code=False, notes=_notes(config, request))


def write_differences(
    backbone: Backbone,
    changes: Mapping[str, torch.Tensor],
    request: Request,
    out: Path,
    beside: Mapping[str, torch.Tensor],
) -> str:
    """Writes whole changes of weights of the denoiser as one file in kohya's names; returns how it is loaded.

    Args:
        changes: Parameter -> what is added to it.
        beside: Further tensors of the file.
    """
    tensors: Tensors = {}
    for name, change in changes.items():
        module, _, kind = name.rpartition(".")
        stem = _name_in_kohyas_scripts(backbone, backbone.family.denoiser, module)
        tensors[f"{stem}.{_DIFFERENCES[kind]}"] = change
    return _write_in_kohyas_names(backbone, {**tensors, **beside}, _DENSE, (1, 1.0), request, out)


def _write_in_kohyas_names(
    backbone: Backbone,
    tensors: Mapping[str, torch.Tensor],
    algorithm: str,
    size: tuple[int, float],
    request: Request,
    out: Path,
) -> str:
    """Writes ``NAME.safetensors`` and returns how it is loaded; `size` is most layers' rank and alpha."""
    network = {
        "ss_network_module": _LORA if algorithm == "lora" else _LYCORIS,
        "ss_network_dim": str(size[0]),
        "ss_network_alpha": f"{size[1]:g}",
        "ss_network_args": json.dumps({} if algorithm == "lora" else {"algo": algorithm}),
    }
    write_file(out / f"{request.name}.safetensors", tensors, metadata_of(request, backbone, "lora", network))
    return _USAGE[request.form].format(name=request.name, module=network["ss_network_module"])


def _name_in_kohyas_scripts(backbone: Backbone, part: Part, module: str) -> str:
    if part is not backbone.family.denoiser:
        return kohya_name(part, module)
    return kohya_name(part, backbone.family.kohya_module(module, backbone.denoiser.config))


def _strip(tensors: Mapping[str, torch.Tensor], stem: str) -> Tensors:
    return {
        key.removeprefix(f"{stem}."): value for key, value in tensors.items() if key.startswith(f"{stem}.")
    }


def _rank(layer: Mapping[str, torch.Tensor]) -> int:
    """The number that readers divide alpha by; of LoKr with two whole factors, which has none, alpha itself."""
    for key in ("lora_down.weight", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if key in layer:
            return len(layer[key])
    return int(layer["alpha"])


def _scalar(value: float) -> torch.Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float32)


def _lora(layer: Any, adapter: str) -> Tensors:
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return {
        "lora_down.weight": down,
        "lora_up.weight": up,
        "alpha": _scalar(layer.scaling[adapter] * len(down)),
    }


def _loha(layer: Any, adapter: str) -> Tensors:
    found = _factors(
        layer, adapter, ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
    )
    return found | {"alpha": _scalar(layer.scaling[adapter] * len(found["hada_w1_b"]))}


def _lokr(layer: Any, adapter: str) -> Tensors:
    """The scale goes into the first factor: readers ignore alpha where both factors are whole (ComfyUI issue 15114)."""
    names = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    found = _factors(layer, adapter, names)
    first = "lokr_w1" if "lokr_w1" in found else "lokr_w1_a"
    found[first] = found[first] * layer.scaling[adapter]
    rank = next((len(found[key]) for key in ("lokr_w1_b", "lokr_w2_b") if key in found), 1)
    return found | {"alpha": _scalar(rank)}


def _factors(layer: Any, adapter: str, names: tuple[str, ...]) -> Tensors:
    return {name: value[adapter] for name in names if adapter in (value := getattr(layer, name, {}))}


def _dense(layer: Any, adapter: str) -> Tensors:
    """What merging adds to weight and bias; it leaves the layer merged."""
    base: nn.Module = layer.get_base_layer()
    before = {name: value.detach().clone() for name, value in base.named_parameters()}
    layer.merge()
    added = {name: value.detach() - before[name] for name, value in base.named_parameters()}
    found = {"diff": added["weight"]}
    if "bias" in added and bool(added["bias"].any()):
        found["diff_b"] = added["bias"]
    return found


_TENSORS = {"lora": _lora, "loha": _loha, "lokr": _lokr, _DENSE: _dense}
_USAGE = {
    "kohya": "For sd-scripts: --network_module {module} --network_weights {name}.safetensors, also of gen_img.py.",
    "a1111": "Put {name}.safetensors into models/Lora and write <lora:{name}:1> in the prompt.",
    "comfyui": "Put {name}.safetensors into models/loras and load it by the node Load LoRA.",
}


def _notes(config: AdapterConfig, request: Request) -> tuple[str, ...]:
    if config.adapter in _NAMED:
        return ()
    return (
        f"{config.kind.title} is written as dense differences of weights, because readers of this layout compute it "
        "in another way or not at all: the file is as large as the layers that were adapted",
    )
