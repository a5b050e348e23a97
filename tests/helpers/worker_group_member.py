"""One process of a worker group, for tests; `tests.helpers.worker_jobs.do` starts it.

Each job is a run: {"config": a RunConfig, "size": processes of its worker group, "break":
None, or what goes wrong: [rank, step, "error" | "kill" | "nan"], "sharded": whether they share the model,
"factors": by rank, what its gradients are multiplied with on their way to the others (a wrong exchange)}. The
process does its part of every job, one after the other, as a warm process would. It writes how each ended to
``JOBS.<rank>.json``, and which share of the model, the optimizer's state and the average it held meanwhile to
``JOBS.<rank>.held.json``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from tests.helpers.worker_meeting import meet
from trainables.distributed.worker_group import WorkerGroupLost, surrounding_group
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training import loop


def main(jobs_file: str, rank: int) -> None:
    """Does this process's part of all jobs."""
    torch.set_num_threads(1)
    resident, ends, held = Resident(), [], []
    for number, job in enumerate(json.loads(Path(jobs_file).read_text())):
        place = Path(jobs_file).with_suffix(f".{number}.port")
        shares: dict[str, float] = {}
        loop.train_step = functools.partial(_looked_at, loop.train_step, shares)
        ends.append(_do(job, rank, resident, place) if rank < job["size"] else None)
        loop.train_step = loop.train_step.args[0]
        held.append(shares)
        Path(jobs_file).with_suffix(f".{rank}.held.json").write_text(json.dumps(held))
        Path(jobs_file).with_suffix(f".{rank}.json").write_text(json.dumps(ends))


def _do(job: dict[str, Any], rank: int, resident: Resident, place: Path) -> str:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["size"], "LOCAL_WORLD_SIZE": job["size"]}
    os.environ.update({name: str(value) for name, value in here.items()})
    dist.init_process_group("gloo", store=meet(place, rank, job["size"]), rank=rank, world_size=job["size"])
    original = loop.batch_loss
    loop.batch_loss = _breaking(job["break"], rank) if job["break"] else original
    try:
        worker_group = surrounding_group(sharded=job["sharded"])
        if str(rank) in job["factors"]:
            _exchange_wrongly(worker_group, job["factors"][str(rank)])
        events = list(execute(RunConfig.model_validate(job["config"]), resident, worker_group))
        return f"{len(events)} events"
    except (Exception, WorkerGroupLost) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        loop.batch_loss = original
        with contextlib.suppress(Exception):
            dist.destroy_process_group()


def _exchange_wrongly(worker_group: Any, factor: float) -> None:
    """Multiplies this process's gradients before they are added up, those of DDP and of FSDP."""
    add_up, scatter = worker_group.all_reduce_bucket, worker_group.reduce_scatter
    worker_group.all_reduce_bucket = lambda bucket: (bucket.buffer().mul_(factor), add_up(bucket))[1]
    worker_group.reduce_scatter = lambda part, whole: scatter(part, whole.mul_(factor))


def _looked_at(step: Any, shares: dict[str, float], trainer: loop.Trainer) -> Any:
    """Does a step and notes which share of all numbers this process holds."""
    done = step(trainer)
    moments = [
        value
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.dim()
    ]
    model = [value for module in trainer.modules for value in module.parameters()]
    shadows = trainer.average.shadow_params if trainer.average is not None else []
    for name, tensors in {"model": model, "moments": moments, "average": shadows}.items():
        own = sum((value.to_local() if isinstance(value, DTensor) else value).numel() for value in tensors)
        shares[name] = own / max(1, sum(value.numel() for value in tensors))
    return done


def _breaking(rule: list[Any], rank: int) -> Any:
    """The loss, until the process and step of the rule."""
    breaking_rank, step, what = rule
    original = loop.batch_loss

    def batch_loss(trainer: loop.Trainer, batch: Any) -> torch.Tensor:
        if rank == breaking_rank and trainer.step == step:
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "error":
                raise ValueError("a mistake of one process")
            return original(trainer, batch) * float(what)
        return original(trainer, batch)

    return batch_loss
