"""Optimizers and schedules."""

from __future__ import annotations

import importlib.util
import math
from typing import Any, get_args

import pytest
import torch

from trainables.config.fields import LrScheduler, TrainingConfig
from trainables.errors import UserError
from trainables.training.optim import build_optimizer, build_schedule, check_optimizer

SCHEDULES = get_args(LrScheduler)
STEPS, WARMUP = 20, 5


def rates(**fields: Any) -> list[float]:
    """Returns the learning rate of each step, as a fraction of the peak."""
    config = TrainingConfig(learning_rate=0.5, max_train_steps=STEPS, **fields)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([{"name": "unet", "params": [parameter], "lr": 0.5}], config)
    schedule = build_schedule(optimizer, config)
    seen = []
    for _ in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_the_same_warmup(name: str) -> None:
    """diffusers' "constant" has none, so that "cosine against constant" would compare warm-ups."""
    seen = rates(lr_scheduler=name, lr_warmup_steps=WARMUP)
    assert seen[: WARMUP + 1] == pytest.approx([step / WARMUP for step in range(WARMUP + 1)])


def test_schedules_after_the_warmup() -> None:
    left = range(STEPS - WARMUP)
    progress = [step / len(left) for step in left]
    assert rates(lr_scheduler="constant", lr_warmup_steps=WARMUP)[WARMUP:] == [1.0] * len(left)
    assert rates(lr_scheduler="cosine", lr_warmup_steps=WARMUP)[WARMUP:] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * done)) for done in progress]
    )
    assert rates(lr_scheduler="linear", lr_warmup_steps=WARMUP)[WARMUP:] == pytest.approx(
        [1 - done for done in progress]
    )
    assert rates(lr_scheduler="polynomial", lr_power=2.0, lr_warmup_steps=WARMUP)[WARMUP:] == pytest.approx(
        [(1 - done) ** 2 for done in progress], abs=1e-12
    )
    assert rates(lr_scheduler="cosine_with_restarts", lr_num_cycles=3, lr_warmup_steps=WARMUP)[
        WARMUP:
    ] == pytest.approx([0.5 * (1 + math.cos(math.pi * ((3 * done) % 1))) for done in progress])


@pytest.mark.parametrize("rate", [10.0, 1e-4, 1e-7, 1e-9])
def test_polynomial_ends_at_its_fraction_of_every_groups_rate(rate: float) -> None:
    """diffusers' ends at 1e-7, another fraction of each rate, and refuses rates that are not above."""
    config = TrainingConfig(
        learning_rate=rate,
        max_train_steps=STEPS,
        lr_warmup_steps=WARMUP,
        lr_scheduler="polynomial",
        lr_power=1.5,
        lr_end_fraction=0.25,
    )
    own = [rate, rate / 50]
    groups = [
        {"name": name, "params": [torch.nn.Parameter(torch.zeros(1))], "lr": value}
        for name, value in zip(("unet", "text_encoder"), own, strict=True)
    ]
    optimizer = build_optimizer(groups, config)
    schedule = build_schedule(optimizer, config)
    for step in range(STEPS + 1):
        left = (STEPS - step) / (STEPS - WARMUP)
        wanted = step / WARMUP if step < WARMUP else 0.25 + 0.75 * left**1.5
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [value * wanted for value in own], rel=1e-9
        )
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_fractions_of_the_rate(name: str) -> None:
    def fractions(rate: float) -> list[float]:
        config = TrainingConfig(learning_rate=rate, max_train_steps=STEPS, lr_scheduler=name)  # type: ignore[arg-type]
        group = {"name": "unet", "params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate}
        optimizer = build_optimizer([group], config)
        schedule = build_schedule(optimizer, config)
        seen = []
        for _ in range(STEPS):
            seen.append(optimizer.param_groups[0]["lr"] / rate)
            optimizer.step()
            schedule.step()
        return seen

    assert fractions(1e-9) == pytest.approx(fractions(1.0), abs=1e-12)


@pytest.mark.parametrize("fields", [{"lr_num_cycles": 4}, {"lr_power": 3.0}, {"lr_end_fraction": 0.5}])
@pytest.mark.parametrize("name", SCHEDULES)
def test_fields_of_schedules_act_where_the_table_says(name: str, fields: dict[str, Any]) -> None:
    (field,) = fields
    acts = rates(lr_scheduler=name) != rates(lr_scheduler=name, **fields)
    assert acts == (name in TrainingConfig.NEEDS[field]["lr_scheduler"])


def test_diffusers_name_for_a_constant_rate_with_warmup_is_the_same_thing() -> None:
    assert TrainingConfig(lr_scheduler="constant_with_warmup").lr_scheduler == "constant"  # type: ignore[arg-type]


def test_groups_have_their_own_rates() -> None:
    config = TrainingConfig(learning_rate=1e-3, max_train_steps=10, lr_warmup_steps=2)
    groups = [
        {"name": name, "params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate}
        for name, rate in (("unet", 1e-3), ("text_encoder", 1e-5))
    ]
    optimizer = build_optimizer(groups, config)
    schedule = build_schedule(optimizer, config)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-6])


def test_adamw_takes_its_fields() -> None:
    config = TrainingConfig(adam_beta1=0.8, adam_beta2=0.95, adam_weight_decay=0.3, adam_epsilon=1e-6)
    group = build_optimizer(
        [{"name": "unet", "params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1.0}], config
    ).param_groups[0]
    assert (group["betas"], group["weight_decay"], group["eps"]) == ((0.8, 0.95), 0.3, 1e-6)


@pytest.mark.parametrize(("name", "package"), [("adamw_8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_missing_optimizer_is_a_users_mistake(name: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    assert package in check_optimizer(name)[0]
    parameter = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(UserError, match="optimizer: adamw"):
        build_optimizer(
            [{"name": "unet", "params": [parameter], "lr": 1.0}],
            TrainingConfig(optimizer=name),  # type: ignore[arg-type]
        )
    assert check_optimizer("adamw") == []
