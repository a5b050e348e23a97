"""What the followers of a team do: prepare as the leader did, and train with it until it says that it is over."""

from __future__ import annotations

import torch

from trainables.catalogue import get_method
from trainables.checkpoint import Checkpoint
from trainables.config import RunConfig
from trainables.families import Backbone
from trainables.loop import train_with_leader
from trainables.meter import Meter
from trainables.outcomes import describe
from trainables.resident import Resident
from trainables.setup import build_trainer, choose_device, spread
from trainables.team import Dismissed, Team


def follow(config: RunConfig, resident: Resident, team: Team) -> None:
    """Does a follower's part of a run, of which it neither reads nor writes the folder.

    What it needs beside the base model (latents, conditioning, resume state) comes from the leader, so that
    it is the same everywhere and images, caches and storage need not be within reach.

    Raises:
        Exception: What this process has failed of, unless the leader has recorded it as the run's end.
    """
    device = choose_device(config.device, team)
    if device.type == "cpu":
        torch.set_num_threads(config.cpu_threads)
    method, backbone = get_method(config.method), None
    try:
        team.tell()  # nothing is loaded for a run that is over already
        backbone = resident.backbone(config.model, device)
        _train(config, backbone, team)
    except Dismissed:
        pass
    except Exception as error:
        if not team.answer_for(describe(error)):
            raise
    finally:
        team.end()
        if backbone is not None:
            method.detach(backbone)
            backbone.restore()


def share_checkpoint(team: Team, checkpoint: Checkpoint | None) -> Checkpoint | None:
    """Returns the leader's checkpoint, or None where there is none, in every process."""
    known = None if checkpoint is None else (checkpoint.step, checkpoint.state)
    tensors, known = team.share(None if checkpoint is None else checkpoint.tensors, known)
    return None if known is None else Checkpoint(known[0], tensors, known[1])


def _train(config: RunConfig, backbone: Backbone, team: Team) -> None:
    trainer, meter = build_trainer(config, backbone, None, None, team), Meter(backbone.device, 1)
    checkpoint = share_checkpoint(team, None)
    if checkpoint is not None:
        trainer.restore(checkpoint, meter)
    spread(trainer)
    train_with_leader(trainer, meter)
