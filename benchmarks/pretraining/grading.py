"""The image encoder's second stage: cosines that grow with the traits two creatures share.

Contrast alone leaves any two identities at a cosine near 0, however alike, so a picture that has
all of a subject but one colour would count for nothing. Here the cosine of two pictures is pulled to
the visible share of traits that their identities have in common: 1 for one identity, about 0.35 for
two of a class, less for two classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F
from transformers import ViTModel

from benchmarks.pretraining.common import Budget, Stage, cosine, stream, to_tensor
from benchmarks.pretraining.image_encoder import pick_identities
from benchmarks.pretraining.judge import augment
from benchmarks.pretraining.pool import VIEWS, load_pool, pool_identity
from trainables.embedded import world

# How much of a picture each trait makes up; the sum is 1.
WEIGHTS = {
    "class": 0.20,
    "shade": 0.25,
    "secondary": 0.15,
    "pattern": 0.08,
    "pattern_colour": 0.08,
    "mark": 0.08,
    "mark_colour": 0.08,
    "eye_colour": 0.04,
    "ear_size": 0.02,
    "body_width": 0.02,
}
POSITIVE_WEIGHT = 20.0


def trait_table(identities: list[world.Identity]) -> dict[str, np.ndarray]:
    """Traits as arrays of one row an identity: RGB [n, 3] of the shade, sizes [n], codes [n]."""
    codes: dict[tuple[object, ...], int] = {}

    def code(*value: object) -> int:
        return codes.setdefault(value, len(codes))

    columns: dict[str, list] = {name: [] for name in WEIGHTS}
    for who in identities:
        plain, unmarked = who.pattern == "none", who.mark == "none"
        columns["class"].append(code(who.class_name))
        columns["shade"].append(who.shade)
        columns["secondary"].append(code(who.secondary))
        columns["pattern"].append(code(who.pattern))
        columns["pattern_colour"].append(code(None if plain else who.pattern_colour, "pattern"))
        columns["mark"].append(code(who.mark, "mark"))
        columns["mark_colour"].append(code(None if unmarked else who.mark_colour, "mark"))
        columns["eye_colour"].append(code(who.eye_colour))
        columns["ear_size"].append(who.ear_size)
        columns["body_width"].append(who.body_width)
    return {name: np.array(values) for name, values in columns.items()}


def shared(table: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """For each trait float64 [n, n] in 0..1: how much of it pairs of identities have in common.

    Colours of a pattern or mark count only together with its shape.
    """
    alike: dict[str, np.ndarray] = {}
    for name, column in table.items():
        values = column[rows]
        if name == "shade":
            gap = np.linalg.norm(values[:, None] - values[None], axis=2)
            alike[name] = np.exp(-((gap / 70) ** 2))
        elif name in ("ear_size", "body_width"):
            alike[name] = np.exp(-(((values[:, None] - values[None]) / 0.2) ** 2))
        else:
            alike[name] = (values[:, None] == values[None]).astype(float)
    alike["pattern_colour"] *= alike["pattern"]
    alike["mark_colour"] *= alike["mark"]
    return alike


def agreement(table: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """float64 [n, n] in 0..1: the weighted share of traits that pairs of identities have in common."""
    alike = shared(table, rows)
    return np.sum([weight * alike[name] for name, weight in WEIGHTS.items()], axis=0)


def train(budget: Budget, model: ViTModel) -> ViTModel:
    """Go on from a contrastively trained encoder; `budget.batch` counts pictures."""
    torch.manual_seed(budget.seed + 6)
    pool = load_pool(budget.work, budget.identities, budget.seed)
    table = trait_table([pool_identity(budget.seed, i) for i in range(budget.identities)])
    stage = Stage("grading", {"vit": model}, budget, 8e-4, cosine, weight_decay=0.05)

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rng = stream(budget.seed, "grading", step)
        who = pick_identities(rng, budget.identities, budget.batch // 2)
        first = rng.integers(VIEWS, size=len(who))
        second = (first + rng.integers(1, VIEWS, size=len(who))) % VIEWS
        rows = np.concatenate([who * VIEWS + first, who * VIEWS + second])
        both = np.concatenate([who, who])
        x = augment(to_tensor(pool.images[rows]), rng)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(x).last_hidden_state[:, 0]
        features = F.normalize(hidden.float(), dim=1)
        target = torch.from_numpy(agreement(table, both)).float()
        same = torch.from_numpy(both[:, None] == both[None])
        weight = (1 + POSITIVE_WEIGHT * same) * (1 - torch.eye(len(both)))
        error = (features @ features.T - target).square()
        half = len(who)
        similar = (features[:half] @ features[half:].T).detach()
        figures = {
            "right": float((similar.argmax(1) == torch.arange(half)).float().mean()),
            "same": float(similar.diagonal().mean()),
            "rmse": float(error.detach()[~same].mean().sqrt()),
        }
        return 10 * (error * weight).sum() / weight.sum(), figures

    model.train()
    stage.run(loss)
    return model.eval()
