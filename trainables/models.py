"""Where a base model lies and what its folder says, read without loading a weight or importing torch."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainables.config import EMBEDDED, ModelConfig
from trainables.errors import UserError
from trainables.located import folder_of

#: Pipeline classes whose layout the training code knows (see ``trainables/families.py``).
SUPPORTED_PIPELINES = ("StableDiffusionPipeline",)

_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")
_LIBRARIES = ("diffusers", "transformers")
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_WITH_WEIGHTS = ("unet", "vae", "text_encoder")


def resolve_model(model: ModelConfig) -> Path:
    """Returns the folder of a base model, downloading a hub id into the hub's cache where that is possible.

    Raises:
        UserError: The model is neither ``embedded``, a folder, nor a hub id that can be had.
    """
    if model.path == EMBEDDED:
        from trainables.embedded import GENERATOR

        return Path(GENERATOR)
    folder = folder_of(model.path)
    if folder.is_dir():
        return folder
    if not _HUB_ID.match(model.path):
        raise UserError(_missing(model))
    from diffusers import DiffusionPipeline

    try:
        found = DiffusionPipeline.download(
            model.path,
            revision=model.revision,
            variant=model.variant,
            use_safetensors=True,
            local_files_only=not hub_is_reachable(),
        )
    except Exception as error:
        raise UserError(f"{_missing(model)} ({type(error).__name__}: {error})") from error
    return Path(found)


def check_model(model: ModelConfig, resolution: int | None = None) -> list[str]:
    """Returns what keeps a base model from being trained, one message a problem; reads only small JSON files.

    Args:
        model: The model as the user names it.
        resolution: Pixels that a run wants to train at, or None for the model's own.
    """
    if model.path == EMBEDDED or folder_of(model.path).is_dir():
        folder = resolve_model(model)
    elif _HUB_ID.match(model.path):
        return _check_hub_id(model)
    else:
        return [_missing(model)]
    index = _read_json(folder / "model_index.json")
    if index is None:
        return [
            f"model {str(folder)!r} has no readable model_index.json; it must be a folder in diffusers' "
            "layout (convert a single-file checkpoint with StableDiffusionPipeline.from_single_file(...)"
            ".save_pretrained(folder))"
        ]
    kind = index.get("_class_name")
    if kind not in SUPPORTED_PIPELINES:
        return [
            f"model {str(folder)!r} is a {kind}, which is not supported; take one of: "
            f"{', '.join(SUPPORTED_PIPELINES)}"
        ]
    problems = [
        f"model {str(folder)!r} lacks the part {part}/; the folder is incomplete, fetch it again"
        for part in _PARTS
        if not (folder / part).is_dir()
    ]
    problems += _foreign_parts(folder, index)
    problems += [
        f"model {str(folder)!r} has no safetensors weights in {part}/; other formats are not read because "
        "they can run code: save the pipeline again with safe_serialization=True"
        for part in _WITH_WEIGHTS
        if (folder / part).is_dir() and not list((folder / part).glob("*.safetensors"))
    ]
    if not problems and resolution is not None:
        factor = latent_factor(folder)
        if resolution % factor:
            problems.append(
                f"resolution {resolution} does not fit model {str(folder)!r}: its autoencoder needs a "
                f"multiple of {factor}; take {max(factor, round(resolution / factor) * factor)}"
            )
    return problems


def _foreign_parts(folder: Path, index: dict[str, Any]) -> list[str]:
    """Names parts whose class lies elsewhere than in the two libraries: loading them would import that code."""
    named = {
        part: value for part, value in index.items() if isinstance(value, list) and not part.startswith("_")
    }
    return [
        f"model {str(folder)!r} wants code of {value[0]!r} for its part {part}; only parts of diffusers and "
        "transformers are loaded: replace that part, or take another model"
        for part, value in named.items()
        if value and value[0] is not None and value[0] not in _LIBRARIES
    ]


def latent_factor(folder: Path) -> int:
    """Returns by how much the autoencoder of a model folder shrinks an image's sides."""
    config = _read_json(folder / "vae" / "config.json") or {}
    return int(2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1))


def native_resolution(folder: Path) -> int:
    """Returns the side in pixels at which a model was made to be used."""
    config = _read_json(folder / "unet" / "config.json") or {}
    size = config.get("sample_size") or 64
    return int(size if isinstance(size, int) else size[0]) * latent_factor(folder)


@functools.cache
def component_digest(folder: Path, part: str) -> str:
    """Returns the hex SHA-256 of a part's files (names and content), remembered for the life of the process.

    Model folders are taken to be read-only while the process lives. Hidden files and documentation do not
    count.
    """
    digest = hashlib.sha256()
    for path in sorted((folder / part).rglob("*")):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".txt", ".model"):
            digest.update(str(path.relative_to(folder)).encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def model_digest(folder: Path) -> str:
    """Returns the hex SHA-256 of all parts of a model."""
    return hashlib.sha256("".join(component_digest(folder, part) for part in _PARTS).encode()).hexdigest()


def _check_hub_id(model: ModelConfig) -> list[str]:
    from huggingface_hub import hf_hub_download

    try:
        index = hf_hub_download(
            model.path, "model_index.json", revision=model.revision, local_files_only=not hub_is_reachable()
        )
    except Exception as error:
        return [f"{_missing(model)} ({type(error).__name__})"]
    kind = (_read_json(Path(index)) or {}).get("_class_name")
    if kind not in SUPPORTED_PIPELINES:
        supported = ", ".join(SUPPORTED_PIPELINES)
        return [f"model {model.path!r} is a {kind}, which is not supported; take one of: {supported}"]
    return []


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the hub answers at all; the hub's own client tries for half a minute before it gives up."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if any(name in os.environ for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # cannot be told from here
    address = urlsplit(constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        with socket.create_connection((address.hostname or "", port), timeout=5):
            return True
    except OSError:
        return False


def _missing(model: ModelConfig) -> str:
    return (
        f"model {model.path!r} is neither {EMBEDDED!r}, nor an existing folder, nor a hub id that can be had "
        "from here; write the path of a folder in diffusers' layout (it has a model_index.json)"
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
