"""Tiny models with quantised weights, and the NF4 type written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.helpers.tiny_families import RESOLUTION
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.models.quantization import QuantizedLinear
from trainables.run_config import RunConfig
from trainables.training.loop import Trainer
from trainables.training.trainer import build_trainer

BITS = ("8bit", "4bit")

# QLoRA (arXiv 2305.14314), appendix E: the values of NF4.
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])  # fmt: skip


def in_nf4(weight: torch.Tensor) -> torch.Tensor:
    """What a weight is after NF4: blocks of 64 numbers in a row, each the nearest value times the largest of them."""
    blocks = weight.double().reshape(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = ((blocks / largest).unsqueeze(-1) - NF4.double()).abs().argmin(-1)
    return (NF4.double()[nearest] * largest).reshape(weight.shape).float()


def in_8_bit(weight: torch.Tensor) -> torch.Tensor:
    """What a weight is in 8 bit: the nearest of 255 multiples of a 127th of its row's largest number."""
    largest = weight.double().abs().amax(1, keepdim=True)
    return ((weight.double() / largest * 127).round() / 127 * largest).float()


def load(folder: Path, bits: str | None = None) -> Backbone:
    return load_backbone(ModelConfig.model_validate({"path": str(folder), "quantization": bits}))


def quantized_layers(module: nn.Module) -> dict[str, QuantizedLinear]:
    return {name: child for name, child in module.named_modules() if isinstance(child, QuantizedLinear)}


def dequantized(folder: Path, bits: str) -> Backbone:
    """The model with ordinary layers that hold the weights which the quantised one's codes stand for."""
    codes, whole = load(folder, bits), load(folder)
    for part, module in codes.modules.items():
        for name, layer in quantized_layers(module).items():
            whole.modules[part].get_submodule(name).weight.data.copy_(layer.weight)  # type: ignore[union-attr, operator]
    whole.note_loaded()
    return whole


def run_of(make_config: MakeConfig, method: str, folder: Path, bits: str | None, **fields: Any) -> RunConfig:
    """A run on a tiny model, with a cache of its own."""
    name = str(fields.pop("into", "run"))
    config = make_config(method, name, **{"resolution": RESOLUTION, **fields})
    content = config.model_dump(mode="json")
    content["model"] = {"path": str(folder), "quantization": bits}
    content["cache_dir"] = f"{config.output_dir}-cache"
    return RunConfig.model_validate(content)


def trainer_of(config: RunConfig, backbone: Backbone) -> Trainer:
    subject = resolve_subject(config.subject, RESOLUTION)
    return build_trainer(config, backbone, subject, Cache(config.cache_dir))
