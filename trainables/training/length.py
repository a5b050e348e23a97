"""How long a run trains: the number of its optimizer steps, from whichever budget ends it first.

A run may be held to optimizer steps, to floating-point operations (the same number of steps on every machine) or to
seconds (of the machine it runs on). The number is settled once, before the first step, so that schedules, evaluations
and displays know where training ends; a run that is resumed keeps it. The class images of prior preservation are paid
from the budget, in full by each run that trains on them: they are part of what the method takes. Evaluation and saving
are not, since they are alike for all methods.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trainables.config.fields import TrainingConfig
from trainables.errors import TrainingFailure
from trainables.training.loop import Trainer, own, train_step
from trainables.training.trainer import average_of
from trainables.util.checkpoint import to_host

_WARM_UP = 2  # steps that are not timed: allocation, caches of kernels
_TIMED = 5  # steps, of which the median counts


@dataclass(frozen=True)
class Spent:
    """What is gone of a budget before the first step: what the class images have taken."""

    flops: float = 0
    seconds: float = 0.0


NOTHING = Spent()


def steps_within(
    config: TrainingConfig, flops_per_step: int, seconds_per_step: float | None, spent: Spent = NOTHING
) -> int:
    """Returns the number of optimizer steps that all budgets of a configuration allow, or its share of them.

    The share is of what class images have left, so that it means the same with and without prior preservation.

    Args:
        flops_per_step: Counted operations of one step; only read for a budget of them.
        seconds_per_step: Only read for a budget of seconds.

    Raises:
        TrainingFailure: ``budget_too_small``: the warm-up alone would take all of it.
    """
    steps, why = config.max_train_steps, f"max_train_steps is {config.max_train_steps}"
    if config.max_train_flops is not None:
        left = config.max_train_flops - spent.flops
        within = max(0, int(left // flops_per_step))
        if within < steps:
            why = f"a step takes {flops_per_step:.3g} FLOPs of {config.max_train_flops:.3g}"
            steps, why = within, why + _of_class_images(spent.flops, "FLOPs")
    if config.max_train_seconds is not None:
        assert seconds_per_step is not None
        left = config.max_train_seconds - spent.seconds
        within = max(0, int(left // seconds_per_step))
        if within < steps:
            why = f"a step takes {seconds_per_step:.3g} s of {config.max_train_seconds:g} s"
            steps, why = within, why + _of_class_images(spent.seconds, "s")
    if config.budget_share < 1:
        steps = round(config.budget_share * steps)
        why += f", and budget_share is {config.budget_share:g}"
    if steps <= config.lr_warmup_steps:
        raise TrainingFailure(
            "budget_too_small",
            f"the budget allows {steps} steps ({why}), and lr_warmup_steps is {config.lr_warmup_steps}, which must be "
            "below that; take a larger budget, smaller batches or a shorter warm-up",
        )
    return steps


def _of_class_images(spent: float, unit: str) -> str:
    return f", {spent:.3g} {unit} of which the class images have taken" if spent else ""


def settle_length(
    trainer: Trainer, flops_per_step: int = 0, known: int | None = None, spent: Spent = NOTHING
) -> None:
    """Sets the number of steps of a run that has done none; one that has been restored knows it.

    All members of a worker group call it, and the leader's number is that of all.

    Args:
        trainer: Ready for its first step.
        flops_per_step: Counted operations of a step (`trainables.training.trainer.count_step_flops`), in the leader.
        spent: What the class images have taken; in the leader.
        known: What an earlier attempt at the run, which has left no checkpoint, has settled; in the leader.

    Raises:
        TrainingFailure: See `steps_within`.
    """
    config, worker_group = trainer.config, trainer.worker_group
    if trainer.step > 0 or (config.max_train_flops is None and config.max_train_seconds is None):
        return
    known = worker_group.broadcast(known)
    if known is None:
        seconds = _seconds_per_step(trainer) if config.max_train_seconds is not None else None
        known = worker_group.broadcast(
            steps_within(config, flops_per_step, seconds, spent) if worker_group.is_main_process else None
        )
    trainer.set_length(known)


def _seconds_per_step(trainer: Trainer) -> float:
    """Returns the median wall seconds of a few steps, which leave no trace; the mean over stages and over buckets, if
    there are any.
    """
    total = 0.0
    with trainer.worker_group.collective(), _undone(trainer):
        for first, end in trainer.stretches:
            for share in trainer.batches.each_bucket():
                seconds = [_timed_step(trainer, first) for _ in range(_WARM_UP + _TIMED)]
                total += (end - first) * share * statistics.median(seconds[_WARM_UP:])
    return total / trainer.steps


def _timed_step(trainer: Trainer, number: int) -> float:
    device = trainer.backbone.device
    trainer.step = number
    begin = time.perf_counter()
    train_step(trainer)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


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
