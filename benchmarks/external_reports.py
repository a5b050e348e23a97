"""How long a report of somebody else's large MLflow experiment takes: ``python -m benchmarks.external_reports``.

Runs are put straight into the tables of a SQLite store, since logging them one by one would take longer than all that
is measured; they are read as any others, by MLflow's client. Prints seconds of the clock, which hang on what else the
machine does, those of the processor, and the peak of memory. Exits 1 where the limits are missed: 20,000 runs in 5
minutes of the processor and 2 GB.
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from study.report import build_report
from study.results.any_experiment import experiment_source
from study.results.external import external_results
from study.results.mapping import ResultMapping
from study.tracking.mlflow_store import configure_client

LIMIT_SECONDS, LIMIT_BYTES = 300.0, 2e9
_RUN = "run_uuid, name, experiment_id, status, start_time, end_time, lifecycle_stage, artifact_uri, user_id"


def main() -> None:
    """Makes the experiment, reports on it, and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--arms", type=int, default=24)
    parser.add_argument("--subjects", type=int, default=30)
    parser.add_argument(
        "--facts", type=int, default=20, help="Params, tags and metrics of each run, as many of each."
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        begin = time.perf_counter()
        made = make_experiment(uri, Path(folder), asked.runs, asked.arms, asked.subjects, asked.facts)
        print(f"made {made:,} runs in {time.perf_counter() - begin:.0f} s")
        clocks = [_clocks()]
        source = experiment_source(uri, "theirs")
        clocks.append(_clocks())
        meaning = ResultMapping(
            arm=("adapter",), quality=("score",), cost=("seconds",), subject=("item",), seed=("rng",)
        )
        results = external_results(source, meaning)
        clocks.append(_clocks())
        build_report(results, Path(folder) / "report")
        clocks.append(_clocks())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert len(results.frame) == made
    print(
        f"{made:,} runs, {asked.arms} arms, {asked.subjects} subjects; peak of memory {memory / 1e9:.2f} GB\n"
    )
    print("| | seconds | of the processor |\n|---|--:|--:|")
    for name, begin, end in zip(("reading", "placing", "report"), clocks, clocks[1:], strict=False):
        print(f"| {name} | {end[0] - begin[0]:.1f} | {end[1] - begin[1]:.1f} |")
    taken = clocks[-1][0] - clocks[0][0]
    worked = clocks[-1][1] - clocks[0][1]
    print(f"| all | {taken:.1f} | {worked:.1f} |")
    if worked > LIMIT_SECONDS or memory > LIMIT_BYTES:
        sys.exit(1)


def _clocks() -> tuple[float, float]:
    """Seconds of the clock, and of the processor in this process."""
    return time.perf_counter(), time.process_time()


def make_experiment(uri: str, folder: Path, runs: int, arms: int, subjects: int, facts: int) -> int:
    """Puts runs into a new SQLite store; returns how many."""
    configure_client()
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("theirs", artifact_location=str(folder / "artifacts"))
    chance = np.random.default_rng(0)
    levels = chance.normal(0, 0.05, subjects)
    with sqlite3.connect(folder / "mlflow.db") as database:
        for begin in range(0, runs, 1_000):
            block = list(_runs(begin, min(runs, begin + 1_000), arms, subjects, levels, chance))
            database.executemany(
                f"INSERT INTO runs ({_RUN}) VALUES (?, ?, ?, 'FINISHED', ?, ?, 'active', '', '')",
                [(key, f"run {k}", experiment, k, k + 1) for key, k, *_ in block],
            )
            database.executemany(
                "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)",
                [
                    (name, text, key)
                    for key, _, params, _ in block
                    for name, text in _more(params, facts, "0.1")
                ],
            )
            database.executemany(
                "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
                [(name, text, key) for key, *_ in block for name, text in _more({}, facts, "text")],
            )
            database.executemany(
                "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) VALUES (?, ?, 0, 0, 0, ?)",
                [
                    (name, value, key)
                    for key, *_, metrics in block
                    for name, value in _more(metrics, facts, 0.5)
                ],
            )
    return runs


def _runs(
    begin: int, end: int, arms: int, subjects: int, levels: Any, chance: np.random.Generator
) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any]]]:
    for k in range(begin, end):
        arm, item, seed = k % arms, k // arms % subjects, k // arms // subjects
        score = 0.5 + 0.01 * arm + levels[item] + chance.normal(0, 0.03)
        params = {"adapter": f"adapter {arm}", "item": f"item {item}", "rng": str(seed)}
        yield uuid.uuid4().hex, k, params, {"score": float(score), "seconds": float(chance.uniform(5, 9))}


def _more(known: dict[str, Any], count: int, value: Any) -> list[tuple[str, Any]]:
    """As many facts as are asked for: those that are known, and others that nobody asks about."""
    return [*known.items(), *((f"other_{k}", value) for k in range(count - len(known)))]


if __name__ == "__main__":
    main()
