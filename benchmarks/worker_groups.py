"""What a run with several workers costs beyond one with a single, warm worker: seconds a run, apart from training.

Runs the same short trainings of the embedded model one after the other, first by one worker, then by worker groups, and
prints the mean seconds from the end of a run to the end of the next, less its seconds of training::

    python -m benchmarks.worker_groups --runs 4 --workers 2
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from study.driver.launch import launch
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from trainables.events import read_events


def main() -> None:
    """Prints a table of two rows and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=4, help="of each kind; the first is not counted")
    parser.add_argument("--workers", type=int, default=2, help="of the second kind")
    parser.add_argument("--steps", type=int, default=10, help="of a run")
    options = parser.parse_args()
    seconds = {}
    for workers in (1, options.workers):
        seconds[workers] = measure(workers, options.runs, options.steps)
        plural = "s" if workers > 1 else ""
        print(f"{workers} worker{plural}: {seconds[workers]:.1f} s a run beside its training", flush=True)
    print(f"ratio: {seconds[options.workers] / seconds[1]:.1f}")


def measure(workers: int, runs: int, steps: int) -> float:
    """Returns the mean seconds between the ends of runs, less those of training."""
    spec = StudySpec.model_validate(
        {
            "name": "worker_groups",
            "subjects": ["cat-1"],
            "arms": {"lora": {"method": "lora", "search_space": "fixed"}},
            "confirm": {"subjects": ["cat-1"], "seeds": list(range(100, 100 + runs))},
            "budget": {"max_train_steps": steps},
            "evaluation": {
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 2,
                "anchor_images": 2,
                "num_class_images": 2,
            },
            "resources": {"num_workers": workers, "max_concurrent_runs": 1},
        }
    )
    with tempfile.TemporaryDirectory(prefix="worker-groups-") as root:
        storage = Storage(Path(root), spec.name)
        outcome = launch(spec, storage)
        if outcome.complete != runs:
            raise SystemExit(f"runs did not complete: {outcome.failed}, {outcome.message}")
        ends, trained = [], []
        for seed in range(100, 100 + runs):
            folder = storage.run_folder(RunKey("confirm", "lora", 0, "cat-1", seed))
            result = read_result(folder)
            assert result is not None
            ends.append(read_events(folder)[-1].time)
            trained.append(float(result.cost["train_seconds"] or 0))
    return statistics.fmean(
        after - before - seconds
        for before, after, seconds in zip(ends[:-1], ends[1:], trained[1:], strict=True)
    )


if __name__ == "__main__":
    main()
