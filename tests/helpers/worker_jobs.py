"""Runs for teams of processes, and the processes that do them; what runs of teams are compared by is in `rounding`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainables.run_config import RunConfig

ROOT = Path(__file__).parents[2]
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


def job(
    config: RunConfig,
    size: int,
    breaking: Sequence[Any] | None = None,
    *,
    sharded: bool = False,
    factors: dict[int, float] | None = None,
) -> dict[str, Any]:
    """A job as ``team_member`` takes it."""
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.worker", str(file), str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"stderr.{rank}").open("wb"),
        )
        for rank in range(max(entry["size"] for entry in jobs))
    ]
    try:
        for process in processes:
            process.wait(patience)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    ends = [file.with_suffix(f".{rank}.json") for rank in range(len(processes))]
    return [json.loads(end.read_text()) if end.exists() else [] for end in ends]


def result(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content
