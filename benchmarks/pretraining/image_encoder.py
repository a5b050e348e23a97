"""The image encoder in DINO's place: its class token tells identities apart.

Trained with the supervised contrastive loss (Khosla et al. 2020) on pictures of identities in
different settings, in batches of which many share class and colour (hard negatives).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from benchmarks.pretraining.common import Budget, Stage, cosine, stream, to_tensor
from benchmarks.pretraining.judge import augment
from benchmarks.pretraining.pool import VIEWS, load_pool

TEMPERATURE = 0.1


def build(tiny: bool = False) -> ViTModel:
    """An untrained ViT on 64 patches of 8x8 pixels; the embedding is `last_hidden_state[:, 0]`."""
    config = ViTConfig(
        hidden_size=32 if tiny else 160,
        num_hidden_layers=1 if tiny else 6,
        num_attention_heads=2 if tiny else 5,
        intermediate_size=64 if tiny else 480,
        image_size=64,
        patch_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTModel(config, add_pooling_layer=False)


def pick_identities(rng: np.random.Generator, identities: int, count: int) -> np.ndarray:
    """`count` different identities, half of them from one or two pairs of class and colour."""
    groups = max(1, count // 32)
    chosen = [
        int(rng.integers(64)) + 64 * rng.choice(identities // 64, min(16, identities // 64), False)
        for _ in range(groups)
    ]
    free = rng.choice(identities, count, replace=False)
    return rng.permutation(np.unique(np.concatenate([*chosen, free])))[:count]


def embed(model: ViTModel, images: torch.Tensor) -> torch.Tensor:
    """[n, 3, 64, 64] in -1..1 to unit vectors [n, d]."""
    return F.normalize(model(images).last_hidden_state[:, 0].float(), dim=1)


def contrastive_loss(features: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Supervised contrastive loss of unit vectors [n, d] whose `owners` [n] are identities."""
    logits = features @ features.T / TEMPERATURE
    itself = torch.eye(len(owners), dtype=torch.bool)
    logits = logits.masked_fill(itself, -1e4)
    same = (owners[:, None] == owners[None]) & ~itself
    log_probability = logits - logits.logsumexp(1, keepdim=True)
    return -(log_probability * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


def train(budget: Budget) -> ViTModel:
    """Train the image encoder on pairs of views; `budget.batch` counts pictures."""
    torch.manual_seed(budget.seed + 2)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    model = build(budget.tiny)
    stage = Stage("image_encoder", {"vit": model}, budget, 1.5e-3, cosine, weight_decay=0.05)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "image_encoder", step)
        who = pick_identities(rng, budget.identities, budget.batch // 2)
        first = rng.integers(VIEWS, size=len(who))
        second = (first + rng.integers(1, VIEWS, size=len(who))) % VIEWS
        rows = np.concatenate([who * VIEWS + first, who * VIEWS + second])
        x = augment(to_tensor(pool.images[rows]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(x).last_hidden_state[:, 0]
        features = F.normalize(hidden.float(), dim=1)
        value = contrastive_loss(features, torch.from_numpy(np.concatenate([who, who])))
        half = len(who)
        similar = features[:half].detach() @ features[half:].detach().T
        right = (similar.argmax(1) == torch.arange(half)).float().mean()
        return value, {"right": float(right), "same": float(similar.diagonal().mean())}

    stage.run(loss)
    return model.eval()
