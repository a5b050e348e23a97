"""Methods attached with random values, saved, and exported for other programs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.helpers.tiny_families import RESOLUTION
from trainables.config.fields import ModelConfig
from trainables.data.path_map import set_path_map
from trainables.methods.exporting import About, Exported, Request, export, obstacle
from trainables.methods.foreign_files import inspect
from trainables.methods.registry import get_method, method_config_class
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone

ABOUT = About(
    "study arm", "A test.", "2026-01-01T00:00:00+00:00", RESOLUTION, "a sks cat", "tiny", own={"run": "r"}
)


def load(folder: Path) -> Backbone:
    return load_backbone(ModelConfig(path=str(folder)))


def trained(backbone: Backbone, name: str, weights: Path, **fields: Any) -> Any:
    """Attaches a method, gives what trains random values, saves it, and leaves it on the model."""
    method = get_method(name)
    config = method_config_class(name).model_validate(fields)
    if config.added_words:
        config = config.for_subject("a sks cat", "a cat")
    method.prepare(backbone, config)
    groups = method.attach(backbone, config, torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for group in groups:
            for value in group["params"]:
                value.add_(0.1 * torch.randn(value.shape, generator=draws))
    method.save(backbone, config, weights)
    return config


def exported(
    folder: Path, name: str, config: Any, weights: Path, form: Any, out: Path, **stated: Any
) -> Exported:
    """Writes files as `study export` does; `stated` are fields of `About`."""
    backbone, method = load(folder), get_method(name)
    assert obstacle(method, backbone.family, config, form) is None
    out.mkdir()
    about = replace(ABOUT, trigger=config.reword("a sks cat"), **stated)
    return export(method, backbone, config, weights, Request(form, "mine", about), out)


def installed(backbone: Backbone, path: Path, **fields: Any) -> Any:
    """Puts a file from elsewhere on a model, as a run does."""
    found, method = inspect(path, backbone.folder), get_method("foreign")
    word = {"word": found.word, "vectors": found.vectors} if found.vectors else {}
    config = method_config_class("foreign").model_validate(
        {"file": path.name, "sha256": found.sha256, "layout": found.layout, **word, **fields}
    )
    set_path_map({path.name: str(path)})
    method.install(backbone, config)  # type: ignore[attr-defined]
    return config
