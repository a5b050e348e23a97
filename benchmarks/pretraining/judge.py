"""The attribute judge: reads class, colour, scene and accessory off a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from benchmarks.pretraining.common import Budget, Stage, cosine, stream, to_tensor
from benchmarks.pretraining.pool import PART_NAMES, PARTS, load_pool

SIZES = tuple(len(part) for part in PARTS)


def build(tiny: bool = False) -> ResNetForImageClassification:
    """A small ResNet whose 30 logits are four softmaxes, named `class:cat`, `colour:red`, ..."""
    names = [f"{kind}:{v}" for kind, part in zip(PART_NAMES, PARTS, strict=True) for v in part]
    config = ResNetConfig(
        embedding_size=8 if tiny else 32,
        hidden_sizes=[8, 8, 8, 8] if tiny else [32, 64, 96, 128],
        depths=[1, 1, 1, 1] if tiny else [1, 2, 2, 2],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
    )
    return ResNetForImageClassification(config).to(memory_format=torch.channels_last)


def augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Slight shift, blur, noise and contrast, so that generated pictures are read fairly.

    `x` is [n, c, h, w] in -1..1 and so is the result (not clipped).
    """
    dx, dy = (int(v) for v in rng.integers(-2, 3, size=2))
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")[:, :, 2 + dy : 66 + dy, 2 + dx : 66 + dx]
    if rng.random() < 0.5:
        weight = float(rng.uniform(0.2, 1.0))
        x = x * (1 - weight) + F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) * weight
    noise = rng.standard_normal(tuple(x.shape), dtype="float32")
    x = x * float(rng.uniform(0.9, 1.05)) + torch.from_numpy(noise) * float(rng.uniform(0, 0.08))
    return x.contiguous(memory_format=torch.channels_last)


def split_logits(logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """[n, 30] to the logits of class [n, 8], colour [n, 8], scene [n, 8] and accessory [n, 6]."""
    return logits.split(SIZES, dim=1)


@torch.no_grad()
def read(model: nn.Module, images: np.ndarray) -> np.ndarray:
    """uint8 [n, 64, 64, 3] to int64 [n, 4]: indices of class, colour, scene, accessory."""
    rows = []
    for part in to_tensor(images).split(256):
        heads = split_logits(model(part).logits)
        rows.append(torch.stack([head.argmax(1) for head in heads], 1))
    return torch.cat(rows).numpy()


def save_processor(folder: Path) -> None:
    """An image processor that scales 0..255 to -1..1 and loads without torchvision."""
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(
        do_resize=True,
        size={"height": 64, "width": 64},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=3,
    ).save_pretrained(folder)


def train(budget: Budget) -> ResNetForImageClassification:
    """Train the judge on renders only."""
    torch.manual_seed(budget.seed + 1)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    model = build(budget.tiny)
    stage = Stage("judge", {"judge": model}, budget, 2e-3, cosine, weight_decay=0.05)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "judge", step)
        rows = rng.integers(len(pool.images), size=budget.batch)
        x = augment(to_tensor(pool.images[rows]), rng)
        labels = torch.from_numpy(pool.labels[rows])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x).logits
        heads = split_logits(logits.float())
        value = sum(F.cross_entropy(head, labels[:, i]) for i, head in enumerate(heads))
        right = [(h.argmax(1) == labels[:, i]).float().mean() for i, h in enumerate(heads)]
        figures = dict(zip(PART_NAMES, (float(r) for r in right), strict=True))
        return torch.as_tensor(value), figures

    model.train()
    stage.run(loss)
    return model.eval()
