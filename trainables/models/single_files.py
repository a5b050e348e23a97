"""Models in one ``.safetensors`` file, in their publishers' own layouts: told by their tensors, and made folders of.

The file holds weights alone. Configurations, tokenizers and the noise schedule come from a folder in diffusers' layout
of the same kind of model (`ModelConfig.config`). It needs no weights, except for parts that the file lacks (most files
of FLUX.1 hold the transformer alone). The folder that is made of the two is kept, and is what everything else reads.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from trainables.models.families import FAMILIES
from trainables.models.family import Family, SingleFile
from trainables.models.model_files import DIFFUSERS, tensor_headers
from trainables.util.file_lock import FOREVER, lock_file

SUFFIX = ".safetensors"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_ADAPTERS = ("lora_", "lora_A.", "lora_B.", "hada_w1", "lokr_w1", "lora_down")
_DIFFUSERS_PARTS = ("down_blocks.", "transformer_blocks.", "text_model.", "encoder.down_blocks.")
_TYPES = {"F16": "float16", "BF16": "bfloat16"}
# Marks that ComfyUI writes: of weights that are to be multiplied with a scale of their own, and of EDM's noise
# (arXiv 2206.00364: Playground 2.5, CosXL), with which the same tensors mean another denoiser.
_SCALES = (".scale_weight", ".scale_input", ".weight_scale", ".input_scale", ".comfy_quant", "scaled_fp8")
_EDM = ("edm_mean", "edm_std", "edm_vpred.")


def is_pickle(path: Path) -> bool:
    """Whether a path names a file in a format that can run code when it is read."""
    return path.suffix.lower() in _PICKLES


def kind_of(headers: Mapping[str, Any]) -> tuple[Family, SingleFile] | None:
    """Returns the family and the kind of a single file by its tensors, or None."""
    for family in FAMILIES.values():
        for kind in family.single_files:
            if all(any(name in headers for name in names) for names in kind.keys):
                return family, kind
    return None


def file_faults(path: Path) -> list[str]:
    """Returns what keeps a single file from being read as a model, as predicates of it; reads its header."""
    try:
        headers = tensor_headers(path)
    except OSError as error:
        return [f"cannot be read ({error.strerror}); change its permissions"]
    except ValueError as error:
        said = str(error) if type(error) is ValueError else "its header is no JSON"
        return [f"is a damaged safetensors file ({said}); fetch it again"]
    return _strange_weights(headers) if kind_of(headers) else [_unknown(headers)]


def _strange_weights(headers: Mapping[str, Any]) -> list[str]:
    scales = [name for name in headers if name.endswith(_SCALES)]
    if scales:
        return [
            f"holds weights in fp8 with scales of their own ({scales[0]!r}), which are not read here; take the file in "
            "fp16 or bf16"
        ]
    marks = [name for name in headers if name.startswith(_EDM)]
    if marks:
        return [
            f"is trained with EDM's preconditioning (it has a tensor {marks[0]!r}), which is not trained here; take "
            "another model"
        ]
    return []


def _unknown(headers: Mapping[str, Any]) -> str:
    kinds = ", ".join(kind.title for family in FAMILIES.values() for kind in family.single_files)
    if any(mark in name for name in headers for mark in _ADAPTERS):
        return f"holds adapters and no whole model; take a model as base ({kinds})"
    if any(name.startswith(_DIFFUSERS_PARTS) for name in headers):
        return "holds one part of a folder in diffusers' layout; name the whole folder"
    example = f", its first tensor is {min(headers)!r}" if headers else ""
    return f"is of no family that is known{example}; take one of: {kinds}"


def parts_in(path: Path) -> frozenset[str]:
    """Returns the parts of the pipeline whose weights a single file holds."""
    headers = tensor_headers(path)
    found = kind_of(headers)
    assert found is not None
    _, kind = found
    return frozenset(
        part for part, prefixes in kind.prefixes.items() if any(name.startswith(prefixes) for name in headers)
    )


def converted(path: Path, digest: str) -> Path:
    """Returns where the folder lies, or would lie, that is made of a single file.

    Args:
        digest: Of the content of both the file and its configurations.
    """
    from huggingface_hub import constants

    name = hashlib.sha256(digest.encode()).hexdigest()[:16]
    return Path(constants.HF_HOME) / "converted" / f"{path.stem}-{name}"


def convert(path: Path, configs: Path, target: Path) -> Path:
    """Makes a folder in diffusers' layout of a single file, unless it is there; the weights keep their type.

    Raises:
        UserError: The file lacks weights, or they do not fit the configurations.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("a") as lock:
        lock_file(lock, wait_seconds=FOREVER)
        if target.is_dir():
            return target
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        load_single_file(path, configs).save_pretrained(str(partial), safe_serialization=True)
        os.replace(partial, target)
    return target


def load_single_file(path: Path, configs: Path) -> Any:
    """Returns the stock pipeline of a single file, in the type of its weights; parts that it lacks are the folder's.

    Raises:
        UserError: The file lacks weights, or they do not fit the configurations.
    """
    import torch

    headers = tensor_headers(path)
    found = kind_of(headers)
    assert found is not None
    family, kind = found
    types = {entry["dtype"] for entry in headers.values() if str(entry.get("dtype", "")).find("F") >= 0}
    dtype = (
        getattr(torch, _TYPES[types.pop()]) if len(types) == 1 and types <= _TYPES.keys() else torch.float32
    )
    inside = parts_in(path)
    others = {
        part.name: _from_folder(configs, family, part.name)
        for part in family.modules
        if part.name not in inside
    }
    try:
        pipeline = family.stock_pipeline().from_single_file(
            str(path),
            config=str(configs),
            local_files_only=True,
            dtype=dtype,
            **dict.fromkeys(family.not_loaded),
            **others,
            **family.options,
        )
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"model {str(path)!r} does not fit the configurations in {str(configs)!r} "
            f"({type(error).__name__}: {error}); name those of its own model (model: {{path: ..., config: ...}})"
        ) from error
    for part in family.text_encoders:  # of two tables that are one, the file has one
        getattr(pipeline, part.name).tie_weights()
    lacking = [
        part.title or part.name
        for part in family.modules
        if any(value.is_meta for value in getattr(pipeline, part.name).parameters())
    ]
    if lacking:
        raise UserError(
            f"model {str(path)!r} lacks weights of {', '.join(lacking)} that a {kind.title} has; fetch it again"
        )
    return pipeline


def _from_folder(configs: Path, family: Family, name: str) -> Any:
    part = family.part(name)
    library = "diffusers" if part.weights == DIFFUSERS else "transformers"
    model = getattr(importlib.import_module(library), part.model_class)
    return model.from_pretrained(str(configs), subfolder=name, local_files_only=True, use_safetensors=True)
