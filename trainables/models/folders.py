"""Where a base model lies and what its folder says, read without loading a weight, nor torch but for single files."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import socket
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from trainables.config.fields import EMBEDDED, ModelConfig
from trainables.config.paths import is_hub_id
from trainables.data.buckets import buckets_of
from trainables.data.path_map import folder_of
from trainables.errors import UserError
from trainables.models import single_file_checks, single_files
from trainables.models.families import FAMILIES, family_in
from trainables.models.family import SingleFile
from trainables.models.folder_faults import folder_faults
from trainables.models.model_files import (
    read_json,
    tensor_headers,
)
from trainables.util.files import sha256_of

#: Pipeline classes whose layout the training code knows.
SUPPORTED_PIPELINES = tuple(FAMILIES)

_SUFFIXES = (".json", ".safetensors", ".model")
_VOCABULARIES = ("merges.txt", "vocab.txt")
#: Of a model of the hub: what says how it is made, without weights.
_CONFIGURATIONS = ("*.json", "*/*.json", "*/merges.txt", "*/vocab.txt", "*/*.model")


def resolve_model(model: ModelConfig) -> Path:
    """Returns the folder of a base model, downloading a hub id into the hub's cache where that is possible.

    Of a single file it is the folder that has been made of it, which is made now if it is not there.

    Raises:
        UserError: The model is neither ``embedded``, a folder, a single file, nor a hub id that can be had.
    """
    if model.path == EMBEDDED:
        from trainables.embedded import GENERATOR

        return Path(GENERATOR)
    folder = folder_of(model.path)
    if folder.is_dir():
        return folder
    if folder.is_file():
        if problems := _check_single_file(model, folder, None):
            raise UserError(*problems)
        configs = _configurations(model, folder)
        return single_files.convert(folder, configs, _converted(folder, configs))
    if not is_hub_id(model.path):
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


def check_quantization(model: ModelConfig) -> list[str]:
    """Returns what keeps a model's weights from being quantised here, one message a problem; imports nothing for it."""
    if model.quantization is None or importlib.util.find_spec("bitsandbytes") is not None:
        return []
    return [
        f"model.quantization: {model.quantization} needs the package bitsandbytes, which is not installed; install it "
        "(pip install 'diffusion-study[gpu]') or leave it out"
    ]


def check_model(model: ModelConfig, resolution: int | None = None) -> list[str]:
    """Returns what keeps a base model from being loaded and trained, one message a problem.

    Reads small files and the headers of weights; what it accepts has every file that loading reads, each of them whole.

    Args:
        model: The model as the user names it.
        resolution: Pixels that a run wants to train at, or None for the model's own.
    """
    path = folder_of(model.path)
    if model.path != EMBEDDED and path.is_file():
        return _check_single_file(model, path, resolution)
    if model.config is not None:
        return [f"model.config is read beside a single file alone, and {model.path!r} is none; leave it out"]
    if model.path == EMBEDDED or path.is_dir():
        folder = resolve_model(model)
        return _check_folder(folder, str(folder), model.variant, resolution)
    return _check_hub_id(model, resolution) if is_hub_id(model.path) else [_missing(model)]


def local_folder(model: ModelConfig) -> Path | None:
    """Returns the folder of a base model if it is on this machine (a hub id: in the hub's cache), or None.

    Of a single file of which no folder has been made yet, it is that of its configurations.
    """
    path = folder_of(model.path)
    if model.path != EMBEDDED and path.is_file():
        if single_files.file_faults(path):
            return None
        configs = _local_configurations(model, path)
        if configs is None or not (configs / "model_index.json").is_file():
            return configs
        made = _converted(path, configs)
        return made if made.is_dir() else configs
    if model.path == EMBEDDED or path.is_dir():
        return resolve_model(model)
    return _cached(model.path, model.revision)


def model_notes(model: ModelConfig) -> list[str]:
    """Returns what is allowed of a base model, but probably not meant, if the model is on this machine."""
    folder = local_folder(model)
    if folder is None:
        return []
    family = family_in(folder)
    config = read_json(folder / family.denoiser.name / "config.json") or {}
    if not family.embedded_guidance or config.get("guidance_embeds", True):
        return []
    return [
        f"model {model.path!r} takes no guidance (guidance_embeds: false in {family.denoiser.name}/config.json), as "
        "FLUX.1-schnell, which is distilled to draw in few steps: training undoes that; take FLUX.1-dev, if this is "
        "such a model"
    ]


def single_file(model: ModelConfig) -> tuple[Path, Path | None] | None:
    """Returns the single file that a model is, and the folder with its configurations if it is on this machine."""
    path = folder_of(model.path)
    if model.path == EMBEDDED or not path.is_file():
        return None
    return path, None if single_files.file_faults(path) else _local_configurations(model, path)


def _cached(name: str, revision: str | None) -> Path | None:
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(name, "model_index.json", revision=revision)
    return Path(index).parent if isinstance(index, str) else None


def _check_single_file(model: ModelConfig, path: Path, resolution: int | None) -> list[str]:
    """Returns what keeps a single file, with its configurations, from being read as a model."""
    shown = model.path
    if single_files.is_pickle(path):
        return [
            f"model {shown!r} is in a format that can run code when it is read; take a .safetensors file, or convert "
            "it in a place where that does no harm"
        ]
    if path.suffix.lower() != single_files.SUFFIX:
        return [_missing(model)]
    faults = single_files.file_faults(path)
    if faults:
        return [f"model {shown!r} {fault}" for fault in faults]
    if model.variant is not None:
        return [f"model {shown!r} is a single file, which has no variants; leave variant out"]
    try:
        configs = _configurations(model, path)
    except UserError as error:
        return list(error.problems)
    problems = [f"model {shown!r} {fault}" for fault in single_file_checks.misfits(path, configs)]
    problems = problems or [f"model {shown!r} {fault}" for fault in single_file_checks.lacking(path, configs)]
    return problems or _check_folder(configs, str(configs), None, resolution, single_files.parts_in(path))


def _configurations(model: ModelConfig, path: Path) -> Path:
    """Returns the folder with the configurations of a single file, fetched from the hub where that is possible."""
    found = _local_configurations(model, path)
    if found is not None:
        return found
    name = _configurations_name(model, path)
    if name is None:
        raise UserError(_unnamed(model, path))
    if is_hub_id(name) and hub_is_reachable():
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, allow_patterns=list(_CONFIGURATIONS)))
        except Exception as error:
            raise UserError(f"{_no_configurations(model, name)} ({type(error).__name__})") from error
    raise UserError(_no_configurations(model, name))


def _local_configurations(model: ModelConfig, path: Path) -> Path | None:
    name = _configurations_name(model, path)
    if name is None:
        return None
    folder = folder_of(name)
    return folder if folder.is_dir() else _cached(name, None)


def _configurations_name(model: ModelConfig, path: Path) -> str | None:
    """Returns what the user names, or else the model of the hub of that kind; None where the user must name one."""
    return model.config if model.config is not None else _kind(path).configs or None


def _kind(path: Path) -> SingleFile:
    found = single_files.kind_of(tensor_headers(path))
    assert found is not None
    return found[1]


def _unnamed(model: ModelConfig, path: Path) -> str:
    kind = _kind(path)
    return (
        f"model {model.path!r} is a {kind.title}, whose tensors do not say what it predicts; write {kind.remedy}, or "
        "a folder with such configurations"
    )


def _no_configurations(model: ModelConfig, name: str) -> str:
    return (
        f"model {model.path!r} is a single file, which holds weights alone, and its configurations and tokenizers, "
        f"{name!r}, cannot be had from here; name a folder in diffusers' layout of the same kind of model (model: "
        "{path: ..., config: FOLDER}; it needs no weights)"
    )


def _converted(path: Path, configs: Path) -> Path:
    parts = family_in(configs).parts
    content = file_digest(path) + "".join(component_digest(configs, part) for part in parts)
    return single_files.converted(path, content + file_digest(configs / "model_index.json"))


def _check_folder(
    folder: Path,
    shown: str,
    variant: str | None,
    resolution: int | None,
    elsewhere: Collection[str] = (),
) -> list[str]:
    """Returns what is wrong with a folder in diffusers' layout.

    Args:
        elsewhere: Parts that need no weights in it.
    """
    index = read_json(folder / "model_index.json")
    if index is None:
        return [
            f"model {shown!r} has no readable model_index.json; it must be a folder in diffusers' layout, or one "
            f"{single_files.SUFFIX} file"
        ]
    kind = index.get("_class_name")
    if kind not in SUPPORTED_PIPELINES:
        return [
            f"model {shown!r} is a {kind}, which is not supported; take one of: "
            f"{', '.join(SUPPORTED_PIPELINES)}"
        ]
    family = FAMILIES[kind]
    problems = [
        f"model {shown!r} {fault}" for fault in folder_faults(folder, family, index, variant, elsewhere)
    ]
    if not problems and resolution is not None:
        factor = latent_factor(folder) * family.patch
        if resolution % factor:
            problems.append(
                f"resolution {resolution} does not fit model {shown!r}: its autoencoder needs a "
                f"multiple of {factor}; take {max(factor, round(resolution / factor) * factor)}"
            )
    return problems


def latent_factor(folder: Path) -> int:
    """Returns by how much the autoencoder of a model folder shrinks an image's sides."""
    config = read_json(folder / family_in(folder).autoencoder.name / "config.json") or {}
    return int(2 ** (len(config.get("block_out_channels", (0,) * 4)) - 1))


def bucket_step(folder: Path) -> int:
    """Returns of how many pixels the sides of a model's images are multiples, if its denoiser is to halve them evenly.

    It is the autoencoder's factor times what the denoiser shrinks latents by: of a UNet 2 for every block but the last
    (64 pixels of Stable Diffusion, 32 of SDXL), of a transformer its patches, which are of two latents at least.
    """
    config = read_json(folder / family_in(folder).denoiser.name / "config.json") or {}
    blocks = config.get("down_block_types")
    shrinks = 2 ** (len(blocks) - 1) if blocks else max(2, int(config.get("patch_size") or 1))
    return latent_factor(folder) * shrinks


def image_buckets(folder: Path, resolution: int) -> tuple[tuple[int, int], ...]:
    """Returns the sizes (width, height) that training images of a model may have, see `trainables.data.buckets`."""
    return buckets_of(resolution, bucket_step(folder))


def native_resolution(folder: Path) -> int:
    """Returns the side in pixels at which a model was made to be used."""
    config = read_json(folder / family_in(folder).denoiser.name / "config.json") or {}
    size = config.get("sample_size") or family_in(folder).sample_size
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
    return sha256_of(path)


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
        "from here; write the path of a folder in diffusers' layout (it has a model_index.json) or of a single "
        ".safetensors file"
    )
