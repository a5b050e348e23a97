"""What the ranks above 0 of a worker group do: prepare as the leader did, and train with it until it says to end."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainables.data.path_map import set_path_map
from trainables.distributed.fsdp import unpark
from trainables.distributed.worker_group import RunEnded, Take, WorkerGroup
from trainables.methods.protocol import Method
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.run.outcomes import describe, is_provided_for
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training.energy import energy_counter
from trainables.training.length import settle_length
from trainables.training.loop import train_with_leader
from trainables.training.meter import Meter
from trainables.training.trainer import build_trainer, choose_device, shard, spread
from trainables.util.checkpoint import Checkpoint


def run_rank(config: RunConfig, resident: Resident, worker_group: WorkerGroup) -> None:
    """Does the part of a rank above 0 in a run, of which it neither reads nor writes the folder.

    What it needs beside the base model (latents, conditioning, resume state) comes from the leader, so that
    it is the same everywhere and images, caches and storage need not be within reach.

    Raises:
        RuntimeError: This process has failed, and the leader has not recorded that as the run's end.
    """
    set_path_map(config.path_map)
    device = choose_device(config.device, worker_group)
    if device.type == "cpu":
        torch.set_num_threads(config.cpu_threads)
    method, backbone, failure, sound = get_method(config.method), None, None, False
    try:
        worker_group.broadcast()  # nothing is loaded for a run that is over already
        backbone = resident.backbone(config.model, device)
        _train(config, backbone, worker_group)
    except RunEnded:
        sound = True
    except Exception as error:
        sound = is_provided_for(error)
        # The text only: a traceback object would keep the exchange of gradients, and so its connections, alive.
        failure = describe(error)
    finally:
        if backbone is not None:
            resident.take_back(backbone, undoing(backbone, method, worker_group), sound=sound)
        answered = failure is None or worker_group.report_failure(failure)
        worker_group.end()
    if not answered:
        raise RuntimeError(str(failure))


def undoing(backbone: Backbone, method: Method, worker_group: WorkerGroup) -> Callable[[], None]:
    """Returns a call that removes what a run has added to the modules, in any member of a worker group."""

    def undo() -> None:
        if worker_group.sharded:
            unpark(backbone)
        method.detach(backbone)

    return undo


def share_checkpoint(
    worker_group: WorkerGroup, checkpoint: Checkpoint | None, take: Take
) -> Checkpoint | None:
    """Returns the leader's checkpoint, or None where there is none, in every process.

    Args:
        take: Says what a process keeps of each tensor (`trainables.training.loop.Trainer.own_part`).
    """
    known = None if checkpoint is None else (checkpoint.step, checkpoint.state)
    tensors, known = worker_group.broadcast_tensors(
        None if checkpoint is None else checkpoint.tensors, known, take
    )
    return None if known is None else Checkpoint(known[0], tensors, known[1])


def _train(config: RunConfig, backbone: Backbone, worker_group: WorkerGroup) -> None:
    trainer = build_trainer(config, backbone, None, None, worker_group)
    meter = Meter(backbone.device, 1, energy_counter(backbone.device, config.cpu_threads, config.gpu_share))
    if worker_group.sharded:
        shard(trainer)
    checkpoint = share_checkpoint(worker_group, None, trainer.own_part)
    if checkpoint is not None:
        trainer.restore(checkpoint, meter)
    spread(trainer)
    settle_length(trainer)
    train_with_leader(trainer, meter)
