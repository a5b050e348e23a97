"""What every method costs and gives on the embedded model: `python -m benchmarks.methods --out FILE`.

Each method, and each kind of adapter of the method `lora`, with its defaults for the embedded model and equal steps and
batches, over subjects on which no default was chosen and which no preset uses. Methods differ in their defaults of
prior preservation, which is one of the things that are compared; the text encoder trains where a method can train it,
as in the presets.

Each run is a line of FILE as soon as it has ended; run again, the command measures what is missing. Runs are judged
with the prompts that no search asks. The table has means over the subjects of the means over the seeds, and after each
measure the standard deviation between subjects. Of memory it has the smallest peak of a method's runs: a process, of
which each method has new ones, keeps memory that earlier runs have freed.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.support.finished_runs import FinishedRuns
from benchmarks.support.single_run import ADAPTERS, check, fields_of, one_run
from trainables.evaluation.metrics_table import METRICS
from trainables.methods.registry import method_names

NAMES = (*method_names(), *ADAPTERS)
#: Of the classes that defaults were not searched on (benchmarks.embedded_search).
SUBJECTS = ("cat-9", "rabbit-9", "bear-9", "frog-9")
#: Columns: costs by their name in the results, then measures.
COSTS = (
    "trainable_parameters",
    "artifact_bytes",
    "train_seconds",
    "train_flops",
    "peak_memory_bytes",
)
MEASURES = (
    "quality",
    "subject_fidelity_scaled",
    "prompt_fidelity_scaled",
    "prior_preservation",
    "diversity",
    "drift",
)
_KEY = ("name", "subject", "seed", "steps", "images_per_prompt", "num_class_images", "num_inference_steps")


def measured(key: Mapping[str, Any], evaluation: Mapping[str, Any], cache: str) -> dict[str, Any]:
    """Trains and judges the run of a key; its figures, as they are written to the file."""
    method, training = fields_of(key["name"], key["steps"])
    return one_run(method, key["subject"], training, evaluation, seed=key["seed"], cache=cache)


def row_of(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns a method's row of the table.

    Args:
        runs: Of all its subjects and seeds; of those that failed only the number counts.
    """
    complete = [run for run in runs if run["state"] == "COMPLETE"]
    cells = [name]
    for cost in COSTS:
        values = [run[cost] for run in complete if cost in run]
        value = (min if cost == "peak_memory_bytes" else fmean)(values) if values else None
        cells.append("-" if value is None else _cost(cost, value))
    for measure in MEASURES:
        by_subject = [
            fmean(values)
            for subject in dict.fromkeys(run["subject"] for run in complete)
            if (values := [run[measure] for run in complete if run["subject"] == subject and measure in run])
        ]
        spread = f" ({stdev(by_subject):.2f})" if len(by_subject) > 1 else ""
        cells.append(f"{fmean(by_subject):.2f}{spread}" if by_subject else "-")
    return f"| {' | '.join([*cells, f'{len(complete)}/{len(runs)}'])} |"


def _cost(name: str, value: float) -> str:
    return {
        "trainable_parameters": f"{value:,.0f}",
        "artifact_bytes": f"{value / 1e6:.2f}",
        "train_seconds": f"{value:.1f}",
        "train_flops": f"{value:.2e}",
        "peak_memory_bytes": f"{value / 2**20:.0f}",
    }[name]


def head() -> str:
    """Returns the first two lines of the table."""
    units = {"artifact_bytes": "MB", "peak_memory_bytes": "MiB", "train_seconds": "s"}
    titles = [
        f"{METRICS[name].title}, {units[name]}" if name in units else METRICS[name].title
        for name in (*COSTS, *MEASURES)
    ]
    return f"| Method | {' | '.join(titles)} | Runs |\n|---|{'--:|' * (len(titles) + 1)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a Markdown table with a row for each method, printed as each is complete."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.methods", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, help="a line for each run; an existing file is gone on with"
    )
    parser.add_argument(
        "--methods", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=2, help="of each of the sixteen prompts")
    parser.add_argument("--class-images", type=int, default=32, help="images of the class that judge a run")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    given = parser.parse_args(arguments)
    try:
        check(given.methods, given.steps, given.subjects)
    except ValueError as error:
        parser.error(str(error))
    runs = FinishedRuns(given.out, _KEY)
    evaluation = {
        "images_per_prompt": given.images,
        "num_class_images": given.class_images,
        "num_inference_steps": 8,
    }
    with tempfile.TemporaryDirectory() as cache:
        work = functools.partial(measured, evaluation=evaluation, cache=cache)

        def in_new_processes(missing: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
            if missing := list(missing):
                with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
                    yield from pool.imap(work, missing)

        print(head(), flush=True)
        for name in given.methods:
            keys = [
                {"name": name, "subject": subject, "seed": seed, "steps": given.steps, **evaluation}
                for subject, seed in itertools.product(given.subjects, given.seeds)
            ]
            print(row_of(name, runs.complete(keys, in_new_processes)), flush=True)


if __name__ == "__main__":
    main()
