"""Runs for worker groups, and the processes that do them; what such runs are compared by is in `rounding`."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.run_config import RunConfig

LORA: dict[str, Any] = {"train_batch_size": 5, "gradient_accumulation_steps": 2, "train_text_encoder": True}
DREAMBOOTH: dict[str, Any] = {
    "train_batch_size": 4,
    "with_prior_preservation": True,
    "train_text_encoder": True,
    "snr_gamma": 5.0,
    "use_ema": True,
    "learning_rate": 1e-4,
    "gradient_checkpointing": True,
    # Gradients that are zero but for rounding (biases of keys) would be blown up to whole steps by Adam.
    "adam_epsilon": 1e-5,
}


# Each process would import for four seconds what a forked one has at once: these modules, and what they load in turn.
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(
    [
        "tests.helpers.worker_group_member",
        "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
        "diffusers.schedulers.scheduling_dpmsolver_multistep",
        "transformers.models.clip.image_processing_pil_clip",
        "transformers.models.clip.modeling_clip",
        "transformers.models.vit.modeling_vit",
        "peft",
        "torch._dynamo",
        "scipy.stats",
    ]
)


def job(
    config: RunConfig,
    size: int,
    breaking: Sequence[Any] | None = None,
    *,
    sharded: bool = False,
    factors: dict[int, float] | None = None,
) -> dict[str, Any]:
    """A job as ``worker_group_member`` takes it."""
    return {
        "config": config.model_dump(mode="json"),
        "size": size,
        "break": breaking,
        "sharded": sharded,
        "factors": factors or {},
    }


def do(folder: Path, jobs: list[dict[str, Any]], patience: float = 300) -> list[list[str | None]]:
    """Does jobs by as many processes as the largest needs; returns how each ended, by process."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    processes = [
        _FORKSERVER.Process(target=_member, args=(str(file), rank, str(folder / f"stderr.{rank}")))
        for rank in range(max(entry["size"] for entry in jobs))
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(patience)
    finally:
        for process in processes:
            process.kill()
            process.join()
    ends = [file.with_suffix(f".{rank}.json") for rank in range(len(processes))]
    return [json.loads(end.read_text()) if end.exists() else [] for end in ends]


def _member(jobs_file: str, rank: int, stderr: str) -> None:
    """The life of one process of a worker group."""
    os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    from tests.helpers.worker_group_member import main

    main(jobs_file, rank)


def result(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content
