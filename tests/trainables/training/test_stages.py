"""Stages: in which steps groups train, the schedules that they have there, and that nothing moves outside."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trainables.config.fields import TrainingConfig
from trainables.training.optim import build_optimizer, build_schedule
from trainables.training.stages import drop_gradients, enter, enter_all, stretches_of, windows_of


@pytest.mark.parametrize(
    ("share", "steps", "pivot"),
    [(0.5, 10, 5), (0.5, 5, 2), (0.3, 10, 3), (0.01, 10, 1), (0.999, 10, 9), (0.5, 2, 1), (0.5, 1, 1)],
)
def test_a_share_becomes_steps_and_leaves_some_to_either_stage(share: float, steps: int, pivot: int) -> None:
    groups = [{"stage": (share, 1.0)}, {"stage": (0.0, share)}, {}]
    assert windows_of(groups, steps) == [(pivot, steps), (0, pivot), (0, steps)]


@pytest.mark.parametrize("steps", [3, 7, 30, 1000, 2000])
def test_a_threshold_in_steps_survives_its_share(steps: int) -> None:
    for first in range(1, steps):
        assert windows_of([{"stage": (0.0, first / steps)}], steps) == [(0, first)]


def test_stretches_are_those_in_which_the_same_groups_train() -> None:
    assert stretches_of([(0, 7), (0, 7)], 7) == [(0, 7)]
    assert stretches_of([(3, 7), (0, 3), (0, 7)], 7) == [(0, 3), (3, 7)]
    assert stretches_of([(0, 2), (2, 5), (5, 7)], 7) == [(0, 2), (2, 5), (5, 7)]
    assert stretches_of([(0, 1), (1, 1)], 1) == [(0, 1)]


def optimizer_of(config: TrainingConfig) -> torch.optim.Optimizer:
    """Two groups: the second half of the steps, and the first."""
    groups: list[dict[str, Any]] = [
        {"name": "unet", "params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5, "stage": (0.5, 1.0)},
        {"name": "text", "params": [torch.nn.Parameter(torch.ones(3))], "lr": 0.1, "stage": (0.0, 0.5)},
    ]
    return build_optimizer(groups, config)


def test_each_stage_has_a_whole_schedule_of_its_own() -> None:
    config = TrainingConfig(learning_rate=0.5, max_train_steps=20, lr_scheduler="cosine", lr_warmup_steps=4)
    optimizer = optimizer_of(config)
    schedule = build_schedule(optimizer, config)
    seen = []
    for _ in range(20):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    whole = [step / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / 6)) for step in range(10)]
    unet, text = zip(*seen, strict=True)
    assert unet == pytest.approx([0.0] * 10 + [0.5 * share for share in whole])
    assert text == pytest.approx([0.1 * share for share in whole] + [0.0] * 10)


def test_nothing_moves_outside_its_stage_and_adam_begins_with_it() -> None:
    """Weight decay too, which acts where there is no gradient of the loss; the first step of Adam is a whole one."""
    config = TrainingConfig(learning_rate=0.5, max_train_steps=4, adam_weight_decay=0.1)
    optimizer = optimizer_of(config)
    schedule = build_schedule(optimizer, config)
    groups, windows = optimizer.param_groups, windows_of(optimizer.param_groups, 4)
    (unet,), (text,) = (group["params"] for group in groups)
    seen = []
    for step in range(4):
        enter(groups, windows, step)
        assert [unet.requires_grad, text.requires_grad] == [step >= 2, step < 2]
        (unet.sum() + text.sum()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        seen.append((float(unet.detach()[0]), float(text.detach()[0])))
    assert [value for value, _ in seen[:2]] == [1.0, 1.0]
    assert seen[2][0] == pytest.approx(1.0 * (1 - 0.5 * 0.1) - 0.5, abs=1e-6)
    assert seen[0][1] == pytest.approx(1.0 * (1 - 0.1 * 0.1) - 0.1, abs=1e-6)
    assert seen[1][1] == seen[2][1] == seen[3][1] < seen[0][1]
    assert float(optimizer.state[unet]["step"]) == float(optimizer.state[text]["step"]) == 2


def test_gradients_that_came_all_the_same_are_dropped() -> None:
    """Torch's FSDP computes them for what it has dealt out."""
    optimizer = optimizer_of(TrainingConfig(max_train_steps=4))
    groups, windows = optimizer.param_groups, windows_of(optimizer.param_groups, 4)
    (unet,), (text,) = (group["params"] for group in groups)
    enter(groups, windows, 0)
    enter_all(groups)
    (unet.sum() + text.sum()).backward()
    drop_gradients(groups, windows, 3)
    assert unet.grad is not None
    assert text.grad is None
