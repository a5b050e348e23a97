"""Resume state on disk: tensors as safetensors, everything else as JSON, never a pickle.

A checkpoint is a folder that appears in one step (written beside its place, synced, moved) and carries the
digest of its tensors, so that a damaged one is recognised and the one before it used instead.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainables.events import KEPT_CHECKPOINTS, STATE_FILE, STEP, TENSORS_FILE, WHOLE_CHECKPOINTS
from trainables.util.files import sha256_of

_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on as if it had never stopped.

    Attributes:
        step: Optimizer steps done.
        tensors: By name; on the CPU.
        state: JSON values.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Writes a checkpoint durably under `folder` and keeps the newest `KEPT_CHECKPOINTS` alone; returns its folder."""
    target = folder / f"{STEP}{checkpoint.step:08d}"
    partial = folder / f"{target.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}, partial / TENSORS_FILE
    )
    content = {
        "format": _FORMAT,
        "step": checkpoint.step,
        "tensors_sha256": sha256_of(partial / TENSORS_FILE),
        "state": checkpoint.state,
    }
    (partial / STATE_FILE).write_text(json.dumps(content), encoding="utf-8")
    for path in (partial / TENSORS_FILE, partial / STATE_FILE, partial):
        _sync(path)
    if target.exists():  # a damaged one of the same step
        shutil.rmtree(target)
    os.replace(partial, target)
    _sync(folder)
    for outdated in _checkpoints(folder)[KEPT_CHECKPOINTS:]:
        shutil.rmtree(outdated, ignore_errors=True)
    return target


def remove_torn(folder: Path) -> None:
    """Removes what earlier attempts did not write to its end.

    For an attempt that has made itself known as the run's newest: an older one, which was silent for long and wakes
    up, must not take away what this one is writing.
    """
    for partial in folder.glob("*.partial"):
        if partial.is_file():
            partial.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints of a run that cannot go on from any of them, whole as they are; likewise."""
    for found in _checkpoints(folder):
        shutil.rmtree(found, ignore_errors=True)


def load_latest(folder: Path) -> Checkpoint | None:
    """Returns the newest checkpoint that is whole, or None; damaged ones are passed over."""
    for found in _checkpoints(folder):
        try:
            content = json.loads((found / STATE_FILE).read_text(encoding="utf-8"))
            if content["format"] != _FORMAT or content["tensors_sha256"] != sha256_of(found / TENSORS_FILE):
                continue
            return Checkpoint(content["step"], load_file(found / TENSORS_FILE), content["state"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue
    return None


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a copy of a tensor in the CPU's memory."""
    return tensor.detach().to("cpu", copy=True)


def split_state(
    state: dict[str, Any], prefix: str, take: Callable[[torch.Tensor], torch.Tensor] = to_host
) -> tuple[dict[str, torch.Tensor], Any]:
    """Parts a nested state dictionary into named tensors and JSON, which refers to them by name.

    Tuples become lists and keys become strings; `join_state` gives integers back where all keys of a level
    are digits.

    Args:
        take: Makes the copy that is kept of a tensor.
    """
    tensors: dict[str, torch.Tensor] = {}

    def visit(value: Any, path: str) -> Any:
        if isinstance(value, torch.Tensor):
            # Clones, because safetensors refuses tensors that share memory.
            tensors[path] = take(value)
            return {"tensor": path}
        if isinstance(value, dict):
            return {"items": {str(key): visit(item, f"{path}.{key}") for key, item in value.items()}}
        if isinstance(value, (list, tuple)):
            return [visit(item, f"{path}.{index}") for index, item in enumerate(value)]
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise TypeError(f"a checkpoint cannot hold {path}, a {type(value).__name__}")

    return tensors, visit(state, prefix)


def join_state(tensors: dict[str, torch.Tensor], content: Any) -> Any:
    """Inverse of `split_state`."""
    if isinstance(content, list):
        return [join_state(tensors, item) for item in content]
    if not isinstance(content, dict):
        return content
    if "tensor" in content:
        return tensors[content["tensor"]]
    items = {key: join_state(tensors, item) for key, item in content["items"].items()}
    if items and all(key.isdigit() for key in items):
        return {int(key): item for key, item in items.items()}
    return items


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints under a folder, the newest first."""
    return sorted(folder.glob(WHOLE_CHECKPOINTS), reverse=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
