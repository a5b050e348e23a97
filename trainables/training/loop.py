"""The training loop: `train_step` is the mathematics of one step, `train` calls it and reports.

Speed comes from what is not here: no data loader, no synchronisation with the device inside a stretch of steps, no
encoding of images or of prompts that stay the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from trainables.config.fields import TrainingConfig
from trainables.distributed.fsdp import Shards, like_part
from trainables.distributed.worker_group import WorkerGroup
from trainables.errors import TrainingFailure
from trainables.events import Event, EventLog
from trainables.models.backbone import Backbone
from trainables.models.conditioning import Conditioning
from trainables.randomness import Streams, draw_seed
from trainables.training import stages
from trainables.training.batches import Batch, Batches, Texts
from trainables.training.meter import Meter
from trainables.training.noise import process_of
from trainables.training.objective import diffusion_loss
from trainables.training.optim import build_schedule
from trainables.util.checkpoint import Checkpoint, join_state, save_checkpoint, split_state, to_host

_REPORTS = 20  # progress events in a run, at least
_LONGEST_STRETCH = 10  # steps between two looks at the loss, at most
# What the leader of a worker group that shares its model tells, beside numbers of steps.
_CHECKPOINT, _WEIGHTS = "checkpoint", "weights"
_OF_PARAMETERS = ("weights.", "optimizer.", "average.")  # tensors of a checkpoint


@dataclass(eq=False)
class Trainer:
    """Everything that a step needs and a checkpoint holds.

    Attributes:
        backbone: The model that trains; if the worker group shares it, the copy of which it does.
        parameters: What trains, by name, in the optimizer's order.
        modules: The modules that hold them.
        optimizer: Wrapped by accelerate.
        schedule: Of the learning rate; steps once an optimizer step, overflow or not.
        average: diffusers' EMAModel of `parameters`, or None.
        worker_group: The processes that train together.
        shared_loss: `SharedLoss` prepared by accelerate or `shards`, in a worker group of several processes.
        shards: What a worker group shares that does not hold the whole model in each process, or None.
        base_text: Conditioning of the class prompt by the base model's text encoders, of one row, where the base model
            gives targets; else None.
        step: Optimizer steps done.
        steps: Of the whole run, after which the schedule has ended; `max_train_steps` unless another budget ends it
            earlier (see ``trainables/training/length.py``).
        windows: In which steps each of the optimizer's groups trains (see ``trainables/training/stages.py``).
    """

    config: TrainingConfig
    backbone: Backbone
    accelerator: Any
    parameters: dict[str, nn.Parameter]
    modules: list[nn.Module]
    optimizer: Any
    schedule: Any
    average: Any
    batches: Batches
    texts: Texts
    streams: Streams
    worker_group: WorkerGroup = field(default_factory=WorkerGroup)
    shared_loss: Any = None
    shards: Shards | None = None
    base_text: Conditioning | None = None
    step: int = 0
    steps: int = 0
    windows: list[stages.Window] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.steps = self.steps or self.config.max_train_steps
        self.windows = self.windows or stages.windows_of(self.groups, self.steps)

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        groups: list[dict[str, Any]] = self.optimizer.param_groups
        return groups

    @property
    def stretches(self) -> list[stages.Window]:
        """The stretches of steps in which the same groups train: one, unless the method has stages."""
        return stages.stretches_of(self.windows, self.steps)

    def set_length(self, steps: int, windows: list[stages.Window] | None = None) -> None:
        """States after how many steps the run ends; the schedule begins anew.

        Args:
            windows: Of the groups; None: what their shares of the steps come to.
        """
        self.steps = steps
        optimizer = self.optimizer.optimizer
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.windows = windows or stages.windows_of(optimizer.param_groups, steps)
        self.schedule = build_schedule(optimizer, self.config, steps, self.windows)

    def enter_stage(self) -> None:
        """Prepares the parameters for the next step: those that do not train in it ask for no gradients.

        Torch's FSDP asks once and for all; there the gradients are dropped (`leave_stage`).
        """
        if self.shards is None:
            stages.enter(self.groups, self.windows, self.step)

    def leave_stage(self) -> None:
        """Drops gradients, if there are any, of parameters that do not train in this step."""
        stages.drop_gradients(self.groups, self.windows, self.step)

    @property
    def learning_rate(self) -> float:
        """The rate after the last step, of the first group that trained in it."""
        last = max(0, self.step - 1)
        number = next((index for index, one in enumerate(self.windows) if stages.is_in(one, last)), 0)
        return float(self.schedule.get_last_lr()[number])

    def checkpoint(self, meter: Meter) -> Checkpoint:
        """Returns the whole resume state.

        A worker group that shares its model does so together; then the leader's alone is whole.
        """
        if self.shards is None:
            return self._checkpoint(meter)
        if self.worker_group.is_main_process:
            self.worker_group.broadcast(_CHECKPOINT)
        with self.worker_group.collective():
            return self._checkpoint(meter)

    def _checkpoint(self, meter: Meter) -> Checkpoint:
        tensors = {f"weights.{name}": self._to_host(value) for name, value in self.parameters.items()}
        tensors |= {f"streams.{name}": value for name, value in self.streams.state_dict().items()}
        tensors |= {f"batches.{name}": value for name, value in self.batches.state_dict().items()}
        content: dict[str, Any] = {
            "steps": self.steps,
            "windows": self.windows,
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "meter": meter.state_dict(),
        }
        states = {"optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            states["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            states["scaler"] = self.accelerator.scaler.state_dict()
        for name, state in states.items():
            more, content[name] = split_state(state, name, self._to_host)
            tensors |= more
        return Checkpoint(self.step, tensors, content)

    def _to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a copy of a tensor, put together if it is shared, in the leader's memory."""
        whole = tensor if self.shards is None else self.shards.together(tensor.detach())
        return to_host(whole) if self.worker_group.is_main_process else torch.empty(0)

    def own_part(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Returns what this process needs of a tensor of a checkpoint."""
        if self.shards is None or not tensor.dim() or not name.startswith(_OF_PARAMETERS):
            return tensor
        return self.shards.part(tensor)

    def show_whole(self) -> None:
        """Puts the weights, or their moving average, into the leader's ordinary model; all workers do so together."""
        assert self.shards is not None
        if self.worker_group.is_main_process:
            self.worker_group.broadcast(_WEIGHTS)
        weights = self.parameters.values() if self.average is None else self.average.shadow_params
        with self.worker_group.collective():
            self.shards.fill(dict(zip(self.parameters, weights, strict=True)))

    def restore(self, checkpoint: Checkpoint, meter: Meter) -> None:
        """Goes on from a checkpoint of the same configuration, of which `own_part` has been taken."""
        tensors, content = checkpoint.tensors, checkpoint.state
        windows = [(first, end) for first, end in content.get("windows", ())]
        self.set_length(content.get("steps", self.steps), windows)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                own(parameter).copy_(tensors[f"weights.{name}"])
        self.streams.load_state_dict(_with_prefix(tensors, "streams."))
        self.batches.load_state_dict(_with_prefix(tensors, "batches."))
        optimizer = join_state(tensors, content["optimizer"])
        _take_layout(optimizer, list(self.parameters.values()))
        self.optimizer.load_state_dict(optimizer)
        if self.average is not None:
            average = join_state(tensors, content["average"])
            average["shadow_params"] = [
                _like(parameter, value)
                for parameter, value in zip(self.parameters.values(), average["shadow_params"], strict=True)
            ]
            self.average.load_state_dict(average)
        if self.accelerator.scaler is not None and "scaler" in content:
            self.accelerator.scaler.load_state_dict(join_state(tensors, content["scaler"]))
        self.schedule.last_epoch = content["schedule"]["last_epoch"]
        self.schedule._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        meter.load_state_dict(content["meter"])
        self.step = checkpoint.step


class SharedLoss(nn.Module):
    """The loss of this process's part of a batch, as the module that accelerate wraps.

    Its children are what trains; they themselves stay as they are, for evaluation, saving and restoring.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.parts = nn.ModuleList(trainer.modules)
        self._trainer = trainer

    def forward(self, batch: Batch) -> torch.Tensor:
        """Returns `batch_loss`."""
        return batch_loss(self._trainer, batch)


def train_step(trainer: Trainer) -> tuple[torch.Tensor, torch.Tensor]:
    """Does one optimizer step; returns loss and gradient norm before clipping, both on the device.

    In a worker group every process draws the whole batch and takes its part of it; the loss returned is that of this
    part, and the worker group's is the sum.
    """
    config, accelerator, worker_group = trainer.config, trainer.accelerator, trainer.worker_group
    # Dropout draws from torch's global generators; seeded step by step they need no state of their own.
    torch.manual_seed(draw_seed(trainer.streams["dropout"]) ^ worker_group.rank)
    modules = trainer.modules if trainer.shared_loss is None else [trainer.shared_loss]
    total = torch.zeros((), device=trainer.backbone.device)
    trainer.enter_stage()
    for _ in range(config.gradient_accumulation_steps):
        batch = trainer.batches.draw().part(worker_group.rank, worker_group.size)
        with accelerator.accumulate(*modules):
            with accelerator.autocast():
                shared = trainer.shared_loss
                loss = batch_loss(trainer, batch) if shared is None else shared(batch)
            accelerator.backward(loss)
            total += loss.detach()
    trainer.leave_stage()
    norm = _clip_gradients(trainer)
    trainer.optimizer.step()
    trainer.backbone.finish_step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.schedule.step()
    if trainer.average is not None:
        trainer.average.step(trainer.parameters.values())
    trainer.step += 1
    return total / config.gradient_accumulation_steps, norm


def _clip_gradients(trainer: Trainer) -> torch.Tensor:
    """Returns the gradients' norm before clipping."""
    parameters, largest = trainer.parameters.values(), trainer.config.max_grad_norm
    if trainer.shards is None:
        norm: torch.Tensor = trainer.accelerator.clip_grad_norm_(parameters, largest)
        return norm
    trainer.accelerator.unscale_gradients()
    return trainer.shards.clip_gradients(parameters, largest)


def batch_loss(trainer: Trainer, batch: Batch) -> torch.Tensor:
    """Returns the loss of one batch, a scalar."""
    backbone, levels = trainer.backbone, batch.timesteps
    process = process_of(backbone, trainer.config)
    noisy = process.add(batch.latents, batch.noise, levels)
    target = process.target(batch.latents, batch.noise, levels)
    if batch.from_base is not None:
        target = _with_base_targets(trainer, batch, noisy, process.times(levels), target)
    conditioning = _conditioning(trainer, batch)
    prediction = backbone.denoise(noisy, process.times(levels), conditioning, batch.geometry)
    return diffusion_loss(prediction, target, batch.shares, process.weights(levels), batch.areas)


def _with_base_targets(
    trainer: Trainer, batch: Batch, noisy: torch.Tensor, times: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Returns targets [b, c, h, w], those of some samples put in place by what the frozen base model predicts."""
    backbone, text = trainer.backbone, trainer.base_text
    assert batch.from_base is not None
    assert text is not None
    rows = batch.from_base.nonzero().flatten().to(noisy.device)
    if not len(rows):  # this part of a batch has none
        return target
    alike = {name: row.expand(len(rows), *row.shape[1:]) for name, row in text.items()}
    geometry = None if batch.geometry is None else batch.geometry[rows]
    with backbone.as_base():
        predicted = backbone.denoise(noisy[rows], times[rows], alike, geometry)
    return target.index_copy(0, rows, predicted.to(target.dtype))


def train(
    trainer: Trainer,
    log: EventLog,
    meter: Meter,
    checkpoints: Path,
    evaluations: set[int],
    evaluate: Callable[[int], Iterator[Event]],
) -> Iterator[Event]:
    """Trains to the end, reporting progress, saving checkpoints and evaluating at the given steps.

    Args:
        trainer: At step 0 or restored from a checkpoint.
        log: Takes every event before it is yielded.
        checkpoints: Folder of the resume state.
        evaluations: Steps after which to evaluate; the end is the caller's.
        evaluate: Called with the step.

    Raises:
        TrainingFailure: The loss is not finite any more.
    """
    config, last = trainer.config, trainer.steps
    every = max(1, min(_LONGEST_STRETCH, last // _REPORTS))
    reported = log.last_step("progress")
    if (
        trainer.step in evaluations and trainer.step < last
    ):  # its checkpoint comes first: the run may have broken off then
        yield from evaluate(trainer.step)
    if trainer.step < last:
        yield log.append("phase", trainer.step, name="train", steps=last)
    while trainer.step < last:
        until = _next_stop(trainer.step, last, every, config.checkpointing_steps, evaluations)
        begin, steps = time.perf_counter(), until - trainer.step
        trainer.worker_group.broadcast(steps)
        mean, norm_value = _train_steps(trainer, meter, steps)
        _require_finite(trainer, mean, norm_value, steps)
        if trainer.step > reported:
            yield log.append(
                "progress",
                trainer.step,
                loss=mean,
                learning_rate=trainer.learning_rate,
                gradient_norm=norm_value if math.isfinite(norm_value) else None,
                steps_per_second=steps / (time.perf_counter() - begin),
            )
        if trainer.step % config.checkpointing_steps == 0 or trainer.step == last:
            with meter.measure("save"):
                place = save_checkpoint(checkpoints, trainer.checkpoint(meter))
            yield log.append("checkpoint", trainer.step, path=f"{checkpoints.name}/{place.name}")
        if trainer.step in evaluations and trainer.step < last:
            yield from evaluate(trainer.step)
            yield log.append("phase", trainer.step, name="train", steps=last)


def train_with_leader(trainer: Trainer, meter: Meter) -> None:
    """Does what the leader of the worker group tells, again and again: trains so many steps, or hands its parts over.

    Raises:
        RunEnded: The leader has ended the run.
    """
    while True:
        task = trainer.worker_group.broadcast()
        if task == _CHECKPOINT:
            trainer.checkpoint(meter)
        elif task == _WEIGHTS:
            trainer.show_whole()
        else:
            _train_steps(trainer, meter, task)


def _train_steps(trainer: Trainer, meter: Meter, steps: int) -> tuple[float, float]:
    """Returns the mean loss, that of the worker group, and the last gradient norm."""
    with meter.measure("train"), trainer.worker_group.collective():
        total = torch.zeros((), device=trainer.backbone.device)
        for _ in range(steps):
            loss, norm = train_step(trainer)
            total += loss
        mean, norm_value = float(trainer.worker_group.all_reduce_sum(total)) / steps, float(norm)
    meter.batches_by_bucket = trainer.batches.bucket_counts
    meter.share_with(trainer.worker_group)
    return mean, norm_value


def _require_finite(trainer: Trainer, loss: float, norm: float, steps: int) -> None:
    """Fails the run when its weights are, or are about to be, no numbers any more."""
    # With a scaler, overflow is part of the method: such a step is skipped.
    if math.isfinite(loss) and (math.isfinite(norm) or trainer.accelerator.scaler is not None):
        return
    raise TrainingFailure(
        "nan_loss",
        f"loss {loss}, gradient norm {norm} in steps {trainer.step - steps + 1} to {trainer.step}; "
        "a lower learning rate, or mixed_precision: no, may help",
    )


def _next_stop(step: int, last: int, every: int, checkpointing: int, evaluations: set[int]) -> int:
    """Returns the next step at which something other than training is to be done."""
    stops = [last, (step // every + 1) * every, (step // checkpointing + 1) * checkpointing]
    return min([*stops, *(stop for stop in evaluations if stop > step)])


def _conditioning(trainer: Trainer, batch: Batch) -> Conditioning:
    conditioning = _encoded(trainer, batch)
    if batch.dropped is None or not trainer.backbone.zero_unconditional:
        return conditioning
    # Guidance of these models starts from zeros where others have the empty prompt: that is what is to be learnt.
    return {
        name: rows.masked_fill(batch.dropped.reshape(-1, *([1] * (rows.dim() - 1))), 0)
        for name, rows in conditioning.items()
    }


def _encoded(trainer: Trainer, batch: Batch) -> Conditioning:
    backbone, texts = trainer.backbone, trainer.texts
    if not texts.are_tokens:
        return {name: rows[batch.captions] for name, rows in texts.rows.items()}
    if len(texts.captions) <= len(batch.captions):
        # Few captions, many images: encode each caption once.
        encoded = backbone.encode(texts.rows)
        return {name: rows[batch.captions] for name, rows in encoded.items()}
    return backbone.encode({name: rows[batch.captions] for name, rows in texts.rows.items()})


def _with_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def own(parameter: torch.Tensor) -> torch.Tensor:
    """Returns what this process holds of a parameter: all of it, unless it is shared."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _like(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Returns a value in its parameter's memory layout: fused optimizers pair them by address."""
    if isinstance(parameter, DTensor):
        return like_part(parameter, value)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _take_layout(optimizer: dict[str, Any], parameters: list[nn.Parameter]) -> None:
    for index, state in optimizer["state"].items():
        parameter = parameters[index]
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == own(parameter).shape:
                state[name] = _like(parameter, value)
