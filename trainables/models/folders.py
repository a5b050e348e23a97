"""Where a base model lies and what its folder says, read without loading a weight or importing torch."""

from __future__ import annotations

import functools
import hashlib
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainables.config.fields import EMBEDDED, ModelConfig
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.models.families import FAMILIES, Family, Part, family_in
from trainables.models.model_files import (
    HUB_ID,
    applied_variant,
    has_weights,
    json_fault,
    read_json,
    tokenizer_faults,
    undotted,
    variants_of,
    weight_faults,
)

#: Pipeline classes whose layout the training code knows.
SUPPORTED_PIPELINES = tuple(FAMILIES)

_LIBRARIES = ("diffusers", "transformers")
_SUFFIXES = (".json", ".safetensors", ".model")
_VOCABULARIES = ("merges.txt", "vocab.txt")


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
    if not HUB_ID.match(model.path):
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
    """Returns what keeps a base model from being loaded and trained, one message a problem.

    Reads small files and the headers of weights; what it accepts has every file that loading reads, each of them whole.

    Args:
        model: The model as the user names it.
        resolution: Pixels that a run wants to train at, or None for the model's own.
    """
    if model.path == EMBEDDED or folder_of(model.path).is_dir():
        folder = resolve_model(model)
        return _check_folder(folder, str(folder), model.variant, resolution)
    return _check_hub_id(model, resolution) if HUB_ID.match(model.path) else [_missing(model)]


def local_folder(model: ModelConfig) -> Path | None:
    """Returns the folder of a base model if it is on this machine (a hub id: in the hub's cache), or None."""
    if model.path == EMBEDDED or folder_of(model.path).is_dir():
        return resolve_model(model)
    if not HUB_ID.match(model.path):
        return None
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(model.path, "model_index.json", revision=model.revision)
    return Path(index).parent if isinstance(index, str) else None


def _check_folder(folder: Path, shown: str, variant: str | None, resolution: int | None) -> list[str]:
    index = read_json(folder / "model_index.json")
    if index is None:
        return [
            f"model {shown!r} has no readable model_index.json; it must be a folder in diffusers' "
            f"layout (convert a single-file checkpoint with {SUPPORTED_PIPELINES[0]}.from_single_file(...)"
            ".save_pretrained(folder))"
        ]
    kind = index.get("_class_name")
    if kind not in SUPPORTED_PIPELINES:
        return [
            f"model {shown!r} is a {kind}, which is not supported; take one of: "
            f"{', '.join(SUPPORTED_PIPELINES)}"
        ]
    problems = [f"model {shown!r} {fault}" for fault in _faults(folder, FAMILIES[kind], index, variant)]
    if not problems and resolution is not None:
        factor = latent_factor(folder)
        if resolution % factor:
            problems.append(
                f"resolution {resolution} does not fit model {shown!r}: its autoencoder needs a "
                f"multiple of {factor}; take {max(factor, round(resolution / factor) * factor)}"
            )
    return problems


def _faults(folder: Path, family: Family, index: dict[str, Any], variant: str | None) -> list[str]:
    """Returns what is wrong with the parts of a pipeline, as predicates of the model."""
    optional = [part for part in family.optional if _is_loaded(index, part.name)]
    parts = [*family.parts, *(part.name for part in optional)]
    faults = [
        f"names no class for its part {part} in model_index.json; fetch it again"
        for part in parts
        if not _is_loaded(index, part)
    ]
    faults += _foreign_parts(index, family.not_loaded)
    there = [part for part in parts if (folder / part).is_dir()]
    faults += [
        f"lacks the part {part}/; the folder is incomplete, fetch it again"
        for part in parts
        if part not in there
    ]
    weighted = [part for part in (*family.modules, *optional) if part.name in there]
    configs = [f"{part.name}/config.json" for part in weighted]
    configs += ["scheduler/scheduler_config.json"] if "scheduler" in there else []
    faults += [fault for fault in (json_fault(folder, name) for name in configs) if fault]
    for tokenizer in family.tokenizers:
        if tokenizer in there:
            faults += tokenizer_faults(folder, tokenizer)
    if not faults:
        faults += _misfits(folder, family)
    return faults + _weight_faults(folder, weighted, variant, named=[name for name in there if name in index])


def _misfits(folder: Path, family: Family) -> list[str]:
    """Returns which parts do not fit each other, by their configurations: every run would break off at once."""
    configs = {part.name: read_json(folder / part.name / "config.json") or {} for part in family.modules}
    faults = []
    for part, key, other, other_key in family.fitting:
        value, wanted = configs[part].get(key), configs[other].get(other_key)
        if not isinstance(value, int | list):
            faults.append(f"states no {key} in {part}/config.json; fetch that file again")
        elif wanted is not None and set(value if isinstance(value, list) else [value]) != {wanted}:
            faults.append(
                f"has parts that do not fit: {key} of {part}/ is {value}, {other_key} of {other}/ is {wanted}; "
                "take parts of one model"
            )
    return faults


def _weight_faults(folder: Path, parts: list[Part], variant: str | None, named: list[str]) -> list[str]:
    """Returns what is wrong with the weights of some parts.

    Args:
        named: Parts of ``model_index.json`` that there are; diffusers looks at them all for the variant.
    """
    without = [
        part
        for part in parts
        if not has_weights(folder / part.name, part.weights, None)
        and not variants_of(folder / part.name, part.weights)
    ]
    faults = [
        f"has no safetensors weights in {part.name}/ ({part.weights}.safetensors); other formats are not read "
        "because they can run code: save the pipeline again with safe_serialization=True"
        for part in without
    ]
    parts = [part for part in parts if part not in without]
    if not _variant_will_do(folder, parts, variant):
        return [*faults, _variant_fault(folder, parts, variant)]
    if variant is not None:
        faults += [
            f"has a file whose name has no ending, {part}/{name}, at which loading a variant breaks off; move it "
            "out of the folder"
            for part in named
            for name in undotted(folder / part)
        ]
    for part in parts:
        applied = applied_variant(folder / part.name, variant)
        faults += weight_faults(folder, part.name, part.weights, applied)
    return faults


def _variant_will_do(folder: Path, parts: list[Part], variant: str | None) -> bool:
    """Whether diffusers finds weights of all parts: of the variant where there are such, else those without one."""
    applied = {part.name: applied_variant(folder / part.name, variant) for part in parts}
    if variant is not None and parts and not any(applied.values()):
        return False
    return all(has_weights(folder / part.name, part.weights, applied[part.name]) for part in parts)


def _variant_fault(folder: Path, parts: list[Part], variant: str | None) -> str:
    found = {part.name: sorted(variants_of(folder / part.name, part.weights)) for part in parts}
    names = sorted({name for each in found.values() for name in each})
    remedies = [
        f"write model: {{path: ..., variant: {name}}}"
        for name in names
        if _variant_will_do(folder, parts, name)
    ]
    if variant is not None and _variant_will_do(folder, parts, None):
        remedies.append("leave variant out")
    plain = [part.name for part in parts if has_weights(folder / part.name, part.weights, None)]
    said = [f"{part}/ has {' and '.join(each)}" for part, each in found.items() if each]
    said += [f"{', '.join(f'{part}/' for part in plain)} those without a variant"] if plain else []
    return (
        f"has weights of {'a variant only' if variant is None else f'no variant {variant!r}'} "
        f"({'; '.join(said)}): {' or '.join(remedies) or 'no variant covers all parts, fetch one of them whole'}"
    )


def _is_loaded(index: dict[str, Any], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and len(value) == 2 and value[0] is not None


def _foreign_parts(index: dict[str, Any], not_loaded: tuple[str, ...]) -> list[str]:
    """Names parts whose class lies elsewhere than in the two libraries: loading them would import that code."""
    named = {
        part: value
        for part, value in index.items()
        if isinstance(value, list) and not part.startswith("_") and part not in not_loaded
    }
    return [
        f"wants code of {value[0]!r} for its part {part}; only parts of diffusers and transformers are loaded: "
        "replace that part, or take another model"
        for part, value in named.items()
        if value and value[0] is not None and value[0] not in _LIBRARIES
    ]


def latent_factor(folder: Path) -> int:
    """Returns by how much the autoencoder of a model folder shrinks an image's sides."""
    config = read_json(folder / family_in(folder).autoencoder.name / "config.json") or {}
    return int(2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1))


def native_resolution(folder: Path) -> int:
    """Returns the side in pixels at which a model was made to be used."""
    config = read_json(folder / family_in(folder).denoiser.name / "config.json") or {}
    size = config.get("sample_size") or 64
    return int(size if isinstance(size, int) else size[0]) * latent_factor(folder)


def part_files(folder: Path, part: str) -> list[Path]:
    """Returns the files of a part that loading may read: no documentation, nothing hidden or in a hidden folder."""
    inside = folder / part
    return [
        path
        for path in sorted(inside.rglob("*"))
        if (path.suffix in _SUFFIXES or path.name in _VOCABULARIES)
        and not any(name.startswith(".") for name in path.relative_to(inside).parts)
        and path.is_file()
    ]


def component_digest(folder: Path, part: str) -> str:
    """Returns the hex SHA-256 of a part's files (names and content)."""
    digest = hashlib.sha256()
    for path in part_files(folder, part):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(bytes.fromhex(file_digest(path)))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """Returns the hex SHA-256 of a file, remembered while the file stays as it is (inode, size, time of change)."""
    status = path.stat()
    return _file_digest(path, status.st_ino, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _file_digest(path: Path, *_status: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_hub_id(model: ModelConfig, resolution: int | None) -> list[str]:
    from huggingface_hub import hf_hub_download

    offline = not hub_is_reachable()
    try:
        index = hf_hub_download(
            model.path, "model_index.json", revision=model.revision, local_files_only=offline
        )
    except Exception as error:
        return [f"{_missing(model)} ({type(error).__name__})"]
    if offline:  # what the cache lacks cannot be had
        return _check_folder(Path(index).parent, model.path, model.variant, resolution)
    kind = (read_json(Path(index)) or {}).get("_class_name")
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
