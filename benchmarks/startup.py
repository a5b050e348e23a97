"""Start-up of a run: a warm Ray actor that has trained before, against a process of its own.

Start-up is everything before a run's first training step: for a process its launch, imports and loading of the
model; for a warm actor the hand-over by ledger and Ray, from the end of the run before. Caches are filled first.

    python -m benchmarks.startup [--runs 6] [--cold 3]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from study.driver.launch import launch
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from trainables.events import Event, read_events

COLD = """
import sys
from pathlib import Path
from trainables.run_config import RunConfig
from trainables.run.execute import execute
for event in execute(RunConfig.model_validate_json(Path(sys.argv[1]).read_text())):
    pass
"""


def study(runs: int) -> StudySpec:
    """One arm with so many short runs, one after the other."""
    return StudySpec.model_validate(
        {
            "name": "startup",
            "subjects": ["cat-1", "dog-1"],
            "arms": {"lora": {"method": "lora", "search_space": "fixed"}},
            "search": {"trials": 1, "subjects": ["cat-1"]},
            "confirm": {"subjects": ["dog-1"], "seeds": list(range(100, 100 + runs))},
            "budget": {"max_train_steps": 2},
            "evaluation": {
                "num_prompts": 1,
                "images_per_prompt": 1,
                "num_inference_steps": 2,
                "anchor_images": 2,
                "num_class_images": 2,
            },
            "resources": {"max_concurrent_runs": 1},
        }
    )


def training_began(events: list[Event]) -> float:
    """When the phase of training was entered."""
    return next(event.time for event in events if event.kind == "phase" and event.data["name"] == "train")


def warm_seconds(storage: Storage) -> list[float]:
    """From the end of a run to the first step of the next one in the same process."""
    runs = [read_events(path.parent) for path in (storage.folder / "runs").glob("*/*/*/events.jsonl")]
    runs.sort(key=lambda events: events[0].time)
    gaps = []
    for before, after in itertools.pairwise(runs):
        if before[0].data["pid"] == after[0].data["pid"]:
            gaps.append(training_began(after) - before[-1].time)
    return gaps[1:]  # the first one still fills the caches of another subject


def cold_seconds(spec: StudySpec, storage: Storage, folder: Path, count: int) -> list[float]:
    """From the launch of a process to its first step."""
    key = spec.confirm_keys("lora", 0)[0]
    taken = []
    for number in range(count):
        output = folder / f"cold-{number}"
        config = spec.run_config(key, {}, storage).model_copy(update={"output_dir": str(output)})
        file = folder / f"cold-{number}.json"
        file.write_text(config.model_dump_json())
        begin = time.time()
        subprocess.run([sys.executable, "-c", COLD, str(file)], check=True, capture_output=True)
        taken.append(training_began(read_events(output)) - begin)
    return taken


def main() -> None:
    """Measures both and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=6, help="runs in the warm actor")
    parser.add_argument("--cold", type=int, default=3, help="runs in processes of their own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec, storage = study(arguments.runs), Storage(folder / "storage", "startup")
        outcome = launch(spec, storage)
        if outcome.failed or outcome.interrupted:
            sys.exit(f"the study did not end well: {outcome}")
        warm = warm_seconds(storage)
        cold = cold_seconds(spec, storage, folder, arguments.cold)
    print(f"{'start-up of a run':<22}{'n':>4}{'median s':>11}{'min s':>9}{'max s':>9}")
    for title, values in (("process of its own", cold), ("warm actor", warm)):
        print(
            f"{title:<22}{len(values):>4}{statistics.median(values):>11.2f}{min(values):>9.2f}{max(values):>9.2f}"
        )
    print(f"ratio of the medians: {statistics.median(cold) / statistics.median(warm):.1f}")


if __name__ == "__main__":
    main()
