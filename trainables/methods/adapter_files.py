"""The files of adapters: how they are written, and who loads them again.

LoRA, rsLoRA and DoRA go to ``pytorch_lora_weights.safetensors``, for ``pipe.load_lora_weights``; LoRA and rsLoRA once
more to kohya's layout. LoKr of the denoiser goes to the same file, for the denoiser's own ``load_lora_adapter``, since
the pipeline's loader takes LoRA alone. What diffusers does not load, or not rightly (DoRA and LoKr of text encoders),
goes to a folder for each part of the model, in PEFT's layout: ``PeftModel.from_pretrained(pipe.unet, folder / "unet")``
puts it on the part in place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.kohya import KohyaLayer, write_kohya
from trainables.methods.reflections import multiply_at_once
from trainables.models.families import family_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.methods.adapter_config import AdapterConfig
    from trainables.models.backbone import Backbone
    from trainables.models.families import Part

ADAPTER = "default"
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
KOHYA_FILE = "lora_kohya.safetensors"
_PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_SHARED = ("vblora_vector_bank", ".tinylora_v.")  # layers name a tensor of the whole adapter once more
# PEFT's configurations whose layers take a weight as it lies, as in training; kernels of convolutions round by that.
_ANY_LAYOUT = {kind.config_class for kind in KINDS.values() if not kind.by_rows}
_MOST_NAMED = 3
_BEGINNING = "study_beginning"  # attribute of an adapter's layer: A and B as they were when the base weight was altered

State = dict[str, "torch.Tensor"]


def save_adapters(backbone: Backbone, config: AdapterConfig, folder: Path) -> None:
    """Writes the adapters of every part, for diffusers or PEFT, and for loaders of kohya's layout where they fit in.

    Some loaders of diffusers' layout read the scale from the file's metadata, others take 1: what goes there has the
    scale multiplied in, so that all of them give the same weights.
    """
    family = backbone.family
    loader, adapted = config.kind.loader, _adapted(backbone)
    folder.mkdir(parents=True, exist_ok=True)
    states: dict[str, State] = {}
    metadata: dict[str, dict[str, Any]] = {}
    layers: dict[Part, dict[str, KohyaLayer]] = {}
    for name, module in adapted.items():
        part = family.part(name)
        if loader == "peft" or (loader != "diffusers" and part is not family.denoiser):
            save_for_peft(module, folder / name)
        elif loader == "diffusers module":
            states[name], metadata[name] = _lokr_state(module), _unscaled_metadata(module, "alpha")
        else:
            state, layers[part] = _lora_state(config, module)
            states[name] = {part.name_in_files(key): value for key, value in state.items()}
            metadata[name] = _for_nested(_lora_metadata(config, module), part)
    if states:
        family.save_lora(folder, WEIGHTS_FILE, states, metadata)
    # DoRA: programs that read this layout compute it in two wrong ways.
    if layers and family.denoiser.kohya and config.adapter != "dora":
        write_kohya(folder / KOHYA_FILE, layers, family.kohya_metadata(backbone.denoiser.config))
    for path in folder.rglob("*.safetensors"):
        sort_header(path)


def load_adapters(pipeline: Any, folder: Path) -> Any:
    """Loads what `save_adapters` wrote by the stock loaders, from safetensors only."""
    family = family_of(pipeline)
    parts = [part.name for part in family.trainable(text_encoders=True)]
    for_peft = [name for name in parts if (folder / name / PEFT_CONFIG).exists()]
    if (folder / WEIGHTS_FILE).exists() or not for_peft:  # of a folder that has neither, the loader says so
        load_with_diffusers(pipeline, folder / WEIGHTS_FILE)
    for name in for_peft:
        load_with_peft(getattr(pipeline, name), folder / name)
    return pipeline


def load_with_diffusers(pipeline: Any, file: Path) -> None:
    """Puts a file in diffusers' names on a pipeline: LoRA by the pipeline's loader, LoKr by the denoiser's own."""
    family = family_of(pipeline)
    denoiser = family.denoiser.name
    if file.exists() and _is_lokr(file):
        getattr(pipeline, denoiser).load_lora_adapter(
            str(file.parent), prefix=denoiser, weight_name=file.name, use_safetensors=True
        )
    else:
        family.load_lora(pipeline, file.parent, file.name)


def note_beginning(module: nn.Module) -> None:
    """Keeps A and B of each LoRA as they are, with which the base weights have just been altered.

    The result is saved as the difference to the base model: what is trained, less what was taken out.
    """
    for layer in adapted_layers(module).values():
        beginning = (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
        setattr(layer, _BEGINNING, tuple(value.detach().clone() for value in beginning))


def _adapted(backbone: Backbone) -> dict[str, Any]:
    modules = {
        part.name: backbone.modules[part.name] for part in backbone.family.trainable(text_encoders=True)
    }
    return {name: module for name, module in modules.items() if getattr(module, "peft_config", None)}


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Returns the layers with adapters, by the name of the module that they stand for."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: child for name, child in module.named_modules() if isinstance(child, BaseTunerLayer)}


def number_of_tensors(module: nn.Module) -> int:
    """Returns how many tensors the adapters of a module have, by whatever name they were put on."""
    from peft.utils import get_peft_model_state_dict

    names = getattr(module, "peft_config", {})
    return sum(
        len(get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False))
        for name in names
    )


def _state(module: nn.Module, adapter: str = ADAPTER) -> State:
    from peft.utils import get_peft_model_state_dict

    state = get_peft_model_state_dict(module, adapter_name=adapter)
    return {key: value.detach().to("cpu").contiguous() for key, value in state.items()}


def _lora_state(config: AdapterConfig, module: nn.Module) -> tuple[State, dict[str, KohyaLayer]]:
    """Tensors in diffusers' layout, with the scale in B, and layers for kohya's."""
    import torch

    state, layers, kohya = _state(module), adapted_layers(module), {}
    for name, layer in layers.items():
        down, up = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        if config.alters_base:
            first, second = (value.to("cpu") for value in getattr(layer, _BEGINNING))
            state[down] = torch.cat([state[down], first]).contiguous()
            state[up] = torch.cat([state[up], -second], 1).contiguous()
        scale = layer.scaling[ADAPTER]
        kohya[name] = KohyaLayer(state[down], state[up], scale * len(state[down]))
        state[up] = state[up] * scale if scale != 1 else state[up]
    return state, kohya


def _lokr_state(module: nn.Module) -> State:
    """Tensors of LoKr with the scale in the first factor."""
    state = _state(module)
    for name, layer in adapted_layers(module).items():
        scale = layer.scaling[ADAPTER]
        key = next(key for key in (f"{name}.lokr_w1", f"{name}.lokr_w1_a") if key in state)
        state[key] = state[key] * scale if scale != 1 else state[key]
    return state


def _lora_metadata(config: AdapterConfig, module: nn.Module) -> dict[str, Any]:
    content = _unscaled_metadata(module, "lora_alpha") | {"use_rslora": False}
    if config.alters_base:
        ranks = {key: 2 * rank for key, rank in content["rank_pattern"].items()}
        content |= {
            "r": 2 * config.r,
            "lora_alpha": 2 * config.r,
            "rank_pattern": ranks,
            "alpha_pattern": ranks,
        }
        content["init_lora_weights"] = True  # a loader must not alter the base weights once more
    return content


def _for_nested(metadata: dict[str, Any], part: Part) -> dict[str, Any]:
    """PEFT's configuration, for layers that are nested as in files too: a regular expression is of whole names."""
    targets = metadata["target_modules"]
    if not part.nested or not isinstance(targets, str):
        return metadata
    return metadata | {"target_modules": rf"({re.escape(part.nested)}\.)?({targets})"}


def _unscaled_metadata(module: nn.Module, alpha: str) -> dict[str, Any]:
    """PEFT's configuration of an adapter whose scale is in the weights."""
    content = _plain_config(module)
    ranks = content["rank_pattern"]
    return content | {alpha: content["r"], "alpha_pattern": dict(ranks)}


def _plain_config(module: Any, adapter: str = ADAPTER) -> dict[str, Any]:
    """Returns the configuration of an adapter, the same in every process and on every machine."""
    content = module.peft_config[adapter].to_dict()
    content["base_model_name_or_path"] = None  # a path of this machine
    return {key: sorted(value) if isinstance(value, set) else value for key, value in content.items()}


def save_for_peft(
    module: nn.Module, folder: Path, adapter: str = ADAPTER, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes what ``PeftModel.save_pretrained`` would: it wraps a model, so that names have a prefix.

    Args:
        folder: Must not exist.
        adapter: PEFT's name of the adapter on the module.
        metadata: Of the file of weights.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tensors = {f"base_model.model.{key}": value for key, value in _state(module, adapter).items()}
    save_file(tensors, folder / _PEFT_WEIGHTS, {"format": "pt", **(metadata or {})})
    content = _plain_config(module, adapter) | {"inference_mode": True}
    (folder / PEFT_CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True), encoding="utf-8")


def load_with_peft(module: nn.Module, folder: Path) -> None:
    """Puts what lies in a folder in PEFT's layout on a module in place.

    Raises:
        UserError: There are no weights in it, or they are not those of the layers that its configuration adapts.
    """
    from peft import PeftModel

    if not (
        folder / _PEFT_WEIGHTS
    ).is_file():  # PEFT would look for a pickle in its place, here or at the hub
        raise UserError(f"{folder} holds an adapter's configuration, but no {_PEFT_WEIGHTS}")
    with (
        without_extension()
    ):  # the module itself is changed; the model that PEFT puts around it is not needed
        model = PeftModel.from_pretrained(module, str(folder))
        # Which keys did not fit is said by the method alone; `from_pretrained` warns of some of them.
        keys = model.load_adapter(str(folder), ADAPTER)
    multiply_at_once(module)  # as in training, bit by bit
    missing = [key for key in keys.missing_keys if not any(name in key for name in _SHARED)]
    for said, found in (("lacks", missing), ("has", keys.unexpected_keys)):
        if found:
            end = "that the layers of its configuration have" if said == "lacks" else "that no layer takes"
            raise UserError(
                f"{folder / _PEFT_WEIGHTS} {said} {len(found)} tensors {end}, such as "
                f"{', '.join(sorted(found)[:_MOST_NAMED])}: its {PEFT_CONFIG} or the base model is another one; "
                "take both files of one training, for this kind of model"
            )
    if type(model.peft_config[ADAPTER]).__name__ in _ANY_LAYOUT:
        return
    for layer in adapted_layers(module).values():
        weight = layer.get_base_layer().weight
        weight.data = weight.data.contiguous()  # PEFT views it as rows, in BOFT and HRA


def _is_lokr(file: Path) -> bool:
    from safetensors import safe_open

    with safe_open(file, "pt") as content:
        return any(".lokr_" in key for key in content.keys())  # noqa: SIM118


@contextmanager
def without_extension() -> Iterator[None]:
    """Keeps PEFT from compiling BOFT's CUDA extension, on which the number of butterfly factors would depend."""
    from peft.tuners.boft import layer

    known = layer._FBD_CUDA
    layer._FBD_CUDA = False
    try:
        yield
    finally:
        layer._FBD_CUDA = known


def read_header(content: bytes) -> tuple[dict[str, Any], int]:
    """Returns the header of a safetensors file and its end.

    The file has 8 bytes with the length of the JSON, the JSON, and the tensors.
    """
    size = int.from_bytes(content[:8], "little")
    header: Mapping[str, Any] = json.loads(content[8 : 8 + size])
    return dict(header), 8 + size


def sort_header(path: Path, replace: Mapping[str, str] | None = None) -> None:
    """Puts a safetensors file's metadata in order, which the library writes in a random one.

    Equal weights then are equal files. Where the header keeps its length, tensors are not read.

    Args:
        replace: Entries of the metadata that get other values.
    """
    with path.open("rb") as file:
        begin = file.read(8)
        header, end = read_header(begin + file.read(int.from_bytes(begin, "little")))
    metadata = {**header.get("__metadata__", {}), **(replace or {})}
    header["__metadata__"] = dict(sorted(metadata.items()))
    entries = sorted(header.items(), key=lambda entry: entry[0] != "__metadata__")  # tensors keep their order
    text = json.dumps(dict(entries), separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) == end - 8:
        with path.open("r+b") as file:
            file.seek(8)
            file.write(text)
        return
    content = path.read_bytes()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
