"""Results as other people have them: tables and MLflow experiments whose names this program has never heard of."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from study.tracking.mlflow_store import configure_client
from tests.helpers.mlflow_stores import copied_template

MEANS = {"LoRA": 30.0, "LoKr": 24.0, "OFT": 24.1}
SUBJECTS = ("cup", "dog", "bear", "clock", "shoe", "van")
SEEDS = ("a", "b")


@dataclass(frozen=True)
class OtherRun:
    """One run of somebody else: a distance (lower is better), a similarity and two costs."""

    adapter: str
    item: str
    seed: str
    fid: float
    clip: float
    minutes: float
    memory: float


def other_runs(seed: int = 0) -> list[OtherRun]:
    """Three adapters on six items and two seeds."""
    chance = np.random.default_rng(seed)
    levels = dict(zip(SUBJECTS, chance.normal(0, 2, len(SUBJECTS)), strict=True))
    return [
        OtherRun(
            adapter,
            item,
            name,
            round(mean + levels[item] + chance.normal(0, 0.5), 6),
            round(0.9 - mean / 100 + chance.normal(0, 0.01), 6),
            round(chance.uniform(5, 8) * (3 if adapter == "OFT" else 1), 6),
            8e9 + round(chance.normal(0, 1e8)),
        )
        for adapter, mean in MEANS.items()
        for item in SUBJECTS
        for name in SEEDS
    ]


def write_table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    """Writes a CSV file with the keys of the first row as header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


class OtherExperiment:
    """An MLflow experiment in a SQLite file."""

    def __init__(self, folder: Path, name: str) -> None:
        configure_client()
        import mlflow

        self.uri = f"sqlite:///{copied_template(folder)}"
        self.client = mlflow.MlflowClient(self.uri)
        self.id = self.client.create_experiment(name, artifact_location=str(folder / "artifacts"))

    def log(
        self,
        metrics: dict[str, float],
        params: dict[str, Any] | None = None,
        tags: dict[str, str] | None = None,
        *,
        parent: str | None = None,
        status: str = "FINISHED",
    ) -> str:
        """Adds a run and returns its id."""
        from mlflow.entities import Metric, Param

        nested = {} if parent is None else {"mlflow.parentRunId": parent}
        run = str(self.client.create_run(self.id, tags={**(tags or {}), **nested}).info.run_id)
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, 0, 0) for name, value in metrics.items()],
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
        )
        if status != "RUNNING":
            self.client.set_terminated(run, status)
        return run
