"""Where and with what an attempt at a run computes, for its first event."""

from __future__ import annotations

import os
import platform
import socket
from typing import Any

import torch

from trainables.config.fields import ModelConfig
from trainables.distributed.worker_group import WorkerGroup
from trainables.training.meter import device_name
from trainables.util.packages import versions_of


def surroundings(worker_group: WorkerGroup, device: torch.device, model: ModelConfig) -> dict[str, Any]:
    """Returns the machine, the process, the worker group, the device and the versions of what computes."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "num_workers": worker_group.size,
        "parallel_strategy": _strategy(worker_group),
        "device": device.type,
        "device_name": device_name(device),
        "versions": _versions(model),
    }


def _strategy(worker_group: WorkerGroup) -> str | None:
    """How the processes of a worker group hold the model; None for one that is alone."""
    if worker_group.size == 1:
        return None
    return "fsdp" if worker_group.sharded else "ddp"


def _versions(model: ModelConfig) -> dict[str, str]:
    quantizer = () if model.quantization is None else ("bitsandbytes",)
    names = ("torch", "diffusers", "transformers", "peft", "accelerate", *quantizer)
    return {"python": platform.python_version(), **versions_of(names)}
