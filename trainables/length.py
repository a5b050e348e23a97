"""How long a run trains: the number of its optimizer steps, from whichever budget ends it first.

A run may be held to optimizer steps, to floating-point operations (the same number of steps on every machine) or to
seconds (of the machine it runs on). The number is settled once, before the first step, so that schedules, evaluations
and displays know where training ends; a run that is resumed keeps it. The budgets are those of training: class images,
evaluation and saving come on top and are stated beside them (``class_image_flops``, ``evaluation_seconds``, ...).
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainables.checkpoint import to_host
from trainables.config import TrainingConfig
from trainables.errors import TrainingFailure
from trainables.loop import Trainer, own, train_step
from trainables.setup import average_of

_WARM_UP = 2  # steps that are not timed: allocation, caches of kernels
_TIMED = 5  # steps, of which the median counts


def steps_within(config: TrainingConfig, flops_per_step: int, seconds_per_step: float | None) -> int:
    """Returns the number of optimizer steps that all budgets of a configuration allow.

    Args:
        flops_per_step: Counted operations of one step; only read for a budget of them.
        seconds_per_step: Only read for a budget of seconds.

    Raises:
        TrainingFailure: ``budget_too_small``: the warm-up alone would take all of it.
    """
    steps, why = config.max_train_steps, f"max_train_steps is {config.max_train_steps}"
    if config.max_train_flops is not None:
        within = int(config.max_train_flops // flops_per_step)
        if within < steps:
            steps, why = within, f"a step takes {flops_per_step:.3g} FLOPs of {config.max_train_flops:.3g}"
    if config.max_train_seconds is not None:
        assert seconds_per_step is not None
        within = int(config.max_train_seconds // seconds_per_step)
        if within < steps:
            steps, why = within, f"a step takes {seconds_per_step:.3g} s of {config.max_train_seconds:g} s"
    if steps <= config.lr_warmup_steps:
        raise TrainingFailure(
            "budget_too_small",
            f"the budget allows {steps} steps ({why}), and lr_warmup_steps is {config.lr_warmup_steps}, which must be "
            "below that; take a larger budget, smaller batches or a shorter warm-up",
        )
    return steps


def settle_length(trainer: Trainer, flops_per_step: int = 0, known: int | None = None) -> None:
    """Sets the number of steps of a run that has done none; one that has been restored knows it.

    All members of a team call it, and the leader's number is that of all.

    Args:
        trainer: Ready for its first step.
        flops_per_step: Counted operations of a step (`trainables.setup.count_step_flops`), in the leader.
        known: What an earlier attempt at the run, which has left no checkpoint, has settled; in the leader.

    Raises:
        TrainingFailure: See `steps_within`.
    """
    config, team = trainer.config, trainer.team
    if trainer.step > 0 or (config.max_train_flops is None and config.max_train_seconds is None):
        return
    known = team.tell(known)
    if known is None:
        seconds = _seconds_per_step(trainer) if config.max_train_seconds is not None else None
        known = team.tell(steps_within(config, flops_per_step, seconds) if team.leads else None)
    trainer.set_length(known)


def _seconds_per_step(trainer: Trainer) -> float:
    """Returns the median wall seconds of a few steps, which leave no trace."""
    device = trainer.backbone.device
    seconds = []
    with trainer.team.together(), _undone(trainer):
        for _ in range(_WARM_UP + _TIMED):
            begin = time.perf_counter()
            train_step(trainer)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[_WARM_UP:])


@contextmanager
def _undone(trainer: Trainer) -> Iterator[None]:
    """Puts a trainer that has done no step back as it was: weights, streams, data, optimizer, schedule, average."""
    device, optimizer = trainer.backbone.device, trainer.optimizer.optimizer
    weights = [to_host(own(value)) for value in trainer.parameters.values()]
    streams, batches = trainer.streams.state_dict(), trainer.batches.state_dict()
    groups = [_settings(group) for group in optimizer.param_groups]
    scaler = trainer.accelerator.scaler
    scale = copy.deepcopy(scaler.state_dict()) if scaler is not None else None
    step = trainer.step
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for value, weight in zip(trainer.parameters.values(), weights, strict=True):
                own(value).copy_(weight)
        trainer.streams.load_state_dict(streams)
        trainer.batches.load_state_dict(batches)
        optimizer.zero_grad(set_to_none=True)
        optimizer.state.clear()
        for group, settings in zip(optimizer.param_groups, groups, strict=True):
            group.update(settings)
        if scale:
            scaler.load_state_dict(scale)
        if trainer.average is not None:
            trainer.average = average_of(trainer.config, trainer.parameters)
        trainer.step = step
        trainer.set_length(trainer.steps)  # a schedule at its beginning


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
