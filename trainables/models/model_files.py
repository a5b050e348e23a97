"""Whether the files that loading a model will read are there and whole; reads small files and headers only.

Faults are predicates of the model ("lacks unet/config.json; fetch it again"), so that whoever asks names the model.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Stem of a part's weights, by the library that loads it; which of the two also decides what it prefers.
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"

_MAX_HEADER = 100_000_000  # bytes; what safetensors itself accepts
_LFS = b"version https://git-lfs"
_AGAIN = "the folder is incomplete, fetch it again"
_VOCABULARIES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file, or None if there is no such thing."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def json_fault(folder: Path, name: str) -> str | None:
    """Returns what is wrong with a JSON file that must be there, named from the model's folder on."""
    path = folder / name
    if not path.is_file():
        return f"lacks {name}; {_AGAIN}"
    return _unreal(path, name) or (
        None if read_json(path) is not None else f"has no readable JSON object in {name}; fetch it again"
    )


def has_weights(folder: Path, stem: str, variant: str | None) -> bool:
    """Whether there are weights as safetensors, whole or in shards, of a variant (or of none)."""
    return any((folder / name).is_file() for name in _names(stem, variant))


def variants_of(folder: Path, stem: str) -> set[str]:
    """Returns the variants of which there are weights as safetensors."""
    whole = re.compile(rf"{re.escape(stem)}\.([^.]+)\.safetensors")
    sharded = re.compile(rf"{re.escape(stem)}\.safetensors\.index\.([^.]+)\.json")
    found = [pattern.fullmatch(name) for name in _listed(folder) for pattern in (whole, sharded)]
    # What another part is called is no variant: "model.fp16-00001-of-00002.safetensors" is a shard.
    return {match[1] for match in found if match and not re.search(r"-\d{5}-of-\d{5}$", match[1])}


def applied_variant(folder: Path, variant: str | None) -> str | None:
    """Returns the variant that diffusers takes for a part: that asked for, if a file's name says that it is there."""
    pieces = [name.split(".") for name in _listed(folder)]
    there = variant is not None and any(len(piece) > 1 and piece[1].startswith(variant) for piece in pieces)
    return variant if there else None


def undotted(folder: Path) -> list[str]:
    """Returns what lies in a part's folder under names without a dot, at which diffusers' look for variants breaks."""
    return sorted(name for name in _listed(folder) if "." not in name)


def weight_faults(folder: Path, part: str, stem: str, variant: str | None = None) -> list[str]:
    """Returns what is wrong with the weights that will be loaded; they must be there (`has_weights`).

    Args:
        part: Folder of the part inside `folder`; empty: the folder itself.
    """
    whole, index = (_in(part, name) for name in _names(stem, variant))
    sharded = (folder / index).is_file()
    # With both there diffusers takes the shards and transformers the one file.
    if not sharded or (stem == TRANSFORMERS and (folder / whole).is_file()):
        return [fault for fault in [_safetensors_fault(folder, whole)] if fault]
    fault = json_fault(folder, index)
    if fault:
        return [fault]
    content = read_json(folder / index) or {}
    shards = content.get("weight_map")
    if not isinstance(shards, dict) or not shards or not isinstance(content.get("metadata"), dict):
        return [f"has no weight_map and metadata in {index}; fetch it again"]
    names = sorted({str(name) for name in shards.values()})
    foreign = [name for name in names if os.path.basename(name) != name]
    if foreign:
        return [
            f"names shards outside {part or 'the folder'} in {index}: {', '.join(foreign)}; fetch it again"
        ]
    faults = []
    for name in (_in(part, name) for name in names):
        if not (folder / name).is_file():
            faults.append(f"lacks {name}, which {index} names; {_AGAIN}")
        else:
            faults += [fault for fault in [_safetensors_fault(folder, name)] if fault]
    return faults


def tokenizer_faults(folder: Path, part: str, *, any_kind: bool = False) -> list[str]:
    """Returns what is wrong with a tokenizer's files.

    Without a vocabulary transformers makes a tokenizer to which all words are the same one, and says nothing.

    Args:
        any_kind: Whether other kinds of tokenizers than CLIP's will do.
    """
    names = {name: _in(part, name) for name in ("tokenizer.json", "vocab.json", "merges.txt")}
    other = any_kind and any((folder / _in(part, name)).is_file() for name in _VOCABULARIES)
    if (folder / names["tokenizer.json"]).is_file():
        wanted = ["tokenizer.json"]
    elif other:
        wanted = []
    elif not any((folder / name).is_file() for name in names.values()):
        return [
            f"lacks {names['tokenizer.json']} (or vocab.json with merges.txt), without which all words would be the "
            f"same; {_AGAIN}"
        ]
    else:
        wanted = ["vocab.json", "merges.txt"]
    faults = [_tokenizer_file_fault(folder, names[name]) for name in wanted]
    optional = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    faults += [
        json_fault(folder, _in(part, name)) for name in optional if (folder / _in(part, name)).is_file()
    ]
    return [fault for fault in faults if fault]


def tensor_headers(path: Path) -> Mapping[str, Any]:
    """Returns the header of a safetensors file, ``__metadata__`` left out: name -> dtype, shape, data_offsets.

    Raises:
        ValueError: The file is none, or not whole.
        OSError: It cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError("its header is cut off" if size else "it is empty")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no mapping")
    header.pop("__metadata__", None)
    try:
        said = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (KeyError, IndexError, TypeError):
        raise ValueError("its header is none of safetensors'") from None
    if said != size:
        raise ValueError(f"it has {size:,} bytes, but its header says {said:,}")
    return header


def _safetensors_fault(folder: Path, name: str) -> str | None:
    path = folder / name
    fault = _unreal(path, name)
    if fault:
        return fault
    try:
        tensor_headers(path)
    except ValueError as error:
        said = (
            "its header is no JSON" if isinstance(error, UnicodeError | json.JSONDecodeError) else str(error)
        )
        return f"has a damaged {name} ({said}); fetch it again"
    except OSError as error:
        return f"has a {name} that cannot be read ({error.strerror}); change its permissions"
    return None


def _tokenizer_file_fault(folder: Path, name: str) -> str | None:
    if name.endswith(".json"):
        return json_fault(folder, name) or _vocabulary_fault(folder, name)
    path = folder / name
    if not path.is_file():
        return f"lacks {name}; {_AGAIN}"
    if path.stat().st_size == 0:
        return f"has an empty {name}; fetch it again"
    return _unreal(path, name)


def _vocabulary_fault(folder: Path, name: str) -> str | None:
    content = read_json(folder / name) or {}
    model = content.get("model") if name.endswith("tokenizer.json") else {"vocab": content}
    there = isinstance(model, dict) and bool(model.get("vocab"))
    return None if there else f"has no vocabulary in {name}; fetch it again"


def _unreal(path: Path, name: str) -> str | None:
    """Tells what Git leaves in a file's place where Git LFS is not installed, and what may not be read."""
    try:
        with path.open("rb") as file:
            begin = file.read(len(_LFS))
    except OSError as error:
        return f"has a {name} that cannot be read ({error.strerror}); change its permissions"
    if begin == _LFS:
        return f"has only a Git LFS pointer in the place of {name}; run `git lfs pull` in the folder, or fetch it again"
    return None


def _names(stem: str, variant: str | None) -> tuple[str, str]:
    """Names of the file that holds all weights, and of the index of those that come in shards."""
    ending = f".{variant}" if variant else ""
    return f"{stem}{ending}.safetensors", f"{stem}.safetensors.index{ending}.json"


def _in(part: str, name: str) -> str:
    return f"{part}/{name}" if part else name


def _listed(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []
