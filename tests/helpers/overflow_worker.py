"""One of two processes that share a small model and scale its loss, as in ``mixed_precision: fp16``, for tests."""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tests.helpers.worker_meeting import meet
from trainables.distributed.fsdp import Shards
from trainables.distributed.worker_group import WATCHER, ProcessWorkerGroup, RunEnded
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES


def overflow(rank: int, folder: str) -> None:
    """Does three steps; in the second, one process's part of one gradient overflows.

    Writes to ``<rank>.json`` which steps changed this process's part, and the scale after each.
    """
    os.environ.update(GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", store=meet(Path(folder, "port"), rank, 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Backbone(
        FAMILIES["StableDiffusionPipeline"],
        Path(),
        {"unet": nn.Linear(3, 4)},
        {},
        torch.device("cpu"),
        torch.ones(1),
        "epsilon",
        8,
    )
    worker_group = ProcessWorkerGroup(sharded=True)
    shards = Shards(model, ["unet"], worker_group)
    module = shards.share(nn.Sequential(shards.backbone.modules["unet"]))
    weights: list[Any] = list(module.parameters())
    optimizer = torch.optim.AdamW(weights, foreach=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    moved, scales = [], []
    for step in range(3):
        before = [value.to_local().clone() for value in weights]
        scaler.scale(module(torch.ones(1, 3)).square().sum()).backward()
        if step == 1 and rank == 1:
            weights[0].grad.to_local()[0] = float("inf")
        scaler.unscale_(optimizer)
        shards.clip_gradients(weights, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved.append(
            any(bool((old != new.to_local()).any()) for old, new in zip(before, weights, strict=True))
        )
        scales.append(scaler.get_scale())
    Path(folder, f"{rank}.json").write_text(json.dumps([moved, scales]))
    if not worker_group.is_main_process:  # as every rank does: what the leader sends is to be received
        with suppress(RunEnded):
            worker_group.broadcast()
    worker_group.end()
    # It would outlive what it looks at, and abort the process at its end.
    assert WATCHER not in {thread.name for thread in threading.enumerate()}
    # How torch takes its threads down is not what is asked: that has aborted a process (SIGABRT) whose work was done.
    os._exit(0)
