"""What a run costs beyond its training: trivial runs through the whole path, and how that grows with their number.

Queue, ledger, Ray actors, events, terminal, MLflow and the reading of results are the real ones; only the training
is `benchmarks.trivial`. Each size runs in a process of its own, so that memory begins anew.

    python -m benchmarks.scale [--runs 100 300] [--repeat 1] [--slots 2] [--ledger URL] [--tracking URI] [--profile]

A run's overhead is what a slot spends on it beyond the run itself: seconds x slots / runs - the run's own seconds.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.measuring import Sampler, slope, spent_in
from study.cluster.ray_cluster import cluster
from study.dispatch.run_queue import RunQueue
from study.driver.launch import Workers, launch
from study.ledger.ledger import Ledger
from study.ledger.open_ledger import open_ledger
from study.monitor.live_view import ProgressView
from study.monitor.status import StatusReader
from study.results.from_folders import local_results
from study.results.from_mlflow import mlflow_results
from study.results.run_rows import rows
from study.spec.study_spec import StudySpec
from study.storage.layout import STUDY_FILE, Storage
from study.storage.planned_run import PlannedRun
from study.tracking.mlflow_store import MlflowStore
from study.tracking.tracker import Tracker
from trainables.events import EVENTS_FILE, RESULT_FILE, read_events

ARMS = (2, 4, 8, 16)  # ranks
CATCH_UP_SECONDS = 3600.0  # MLflow may fall behind; here that is measured, not cut off


def study(runs: int, slots: int, ledger: str | None) -> StudySpec:
    """Four arms; half of the runs search, half confirm."""
    share = max(1, runs // (2 * len(ARMS)))
    return StudySpec.model_validate(
        {
            "name": f"scale-{runs}",
            "subjects": ["cat-1", "dog-1"],
            "arms": {f"lora-{rank}": {"method": "lora", "r": rank} for rank in ARMS},
            "search": {"trials": share, "subjects": ["cat-1"]},
            "confirm": {"subjects": ["dog-1"], "seeds": list(range(100, 100 + share))},
            "budget": {"max_train_steps": 100},
            "resources": {"max_concurrent_runs": slots},
            "storage": {"ledger_url": ledger},
        }
    )


class Listeners:
    """Terminal and MLflow as a launch has them, opened with the first run."""

    def __init__(self, spec: StudySpec, storage: Storage, uri: str) -> None:
        self._spec, self._storage, self._uri = spec, storage, uri
        self._tracker: Tracker | None = None
        self._view: ProgressView | None = None

    def watch(self, run: PlannedRun) -> None:
        """See `study.storage.planned_run.RunListener`."""
        if self._tracker is None:
            ids = open_ledger(self._spec, self._storage)
            self._tracker = Tracker(self._storage, self._uri, ids=ids, close_seconds=CATCH_UP_SECONDS)
            console = Console(file=io.StringIO(), width=120)
            self._view = ProgressView(StatusReader(self._storage, self._spec), console)
            self._view.start()
        self._tracker.watch(run)

    def close(self) -> None:
        """Waits until MLflow has everything."""
        if self._view is not None:
            self._view.close()
        if self._tracker is not None:
            self._tracker.close()
            if self._tracker.unsynced:
                raise SystemExit(f"MLflow lacks {len(self._tracker.unsynced)} runs: {self._tracker.problem}")


def measure(runs: int, slots: int, folder: Path, ledger: str | None, tracking: str | None) -> dict[str, Any]:
    """Runs one study and returns its figures, all as plain numbers."""
    spec = study(runs, slots, ledger)
    storage = Storage(folder, spec.name)
    storage.root.mkdir(parents=True, exist_ok=True)
    listeners = Listeners(spec, storage, tracking or storage.tracking_uri)
    begin = time.perf_counter()
    with cluster(cpus=slots):
        ray_seconds = time.perf_counter() - begin
        with (
            spent_in(Ledger) as ledger_time,
            spent_in(MlflowStore) as mlflow_time,
            Sampler(lambda: _count(storage)) as sampler,
        ):
            begin, cpu = time.perf_counter(), time.process_time()
            workers = Workers("benchmarks.trivial:execute", "")
            outcome = launch(spec, storage, listeners=(listeners,), workers=workers)
            launched = time.perf_counter() - begin
            listeners.close()
            caught_up = time.perf_counter() - begin - launched
            cpu = time.process_time() - cpu
    if outcome.failed or outcome.interrupted or outcome.complete != spec.number_of_runs():
        raise SystemExit(f"the study did not end well: {outcome}")
    times = _times(storage)
    memory = sampler.series("driver/MiB")
    figures: dict[str, Any] = {
        "runs": len(times),
        "slots": slots,
        "ray_seconds": ray_seconds,
        "launch_seconds": launched,
        "catch_up_seconds": caught_up,
        "driver_cpu_ms_a_run": 1000 * cpu / len(times),
        **_rates(times, slots),
        "ledger_ms_a_run": 1000 * ledger_time.total / len(times),
        "mlflow_ms_a_run": 1000 * mlflow_time.total / len(times),
        "ledger_by_call": _by_call(ledger_time, len(times)),
        "mlflow_by_call": _by_call(mlflow_time, len(times)),
        "driver_mib": max(value for _, value in memory),
        "driver_kib_a_run": 1024 * slope(memory, after=len(times) // 5),
        "gcs_kib_a_run": 1024 * slope(sampler.series("gcs_server/MiB"), after=len(times) // 5),
        "raylet_kib_a_run": 1024 * slope(sampler.series("raylet/MiB"), after=len(times) // 5),
        "gcs_mib": max((value for _, value in sampler.series("gcs_server/MiB")), default=0.0),
        **_files(storage, len(times)),
        **_reading(spec, storage, tracking),
    }
    return figures


def _count(storage: Storage) -> int:
    return sum(1 for _ in (storage.folder / "runs").glob(f"*/*/*/{RESULT_FILE}"))


def _times(storage: Storage) -> list[tuple[float, float, float]]:
    """Begin, end, and own seconds of every run, in the order of their ends."""
    found = []
    for path in (storage.folder / "runs").glob(f"*/*/*/{EVENTS_FILE}"):
        events = read_events(path.parent)
        own = next(event.data["train_seconds"] for event in reversed(events) if event.kind == "cost")
        found.append((events[0].time, events[-1].time, own))
    return sorted(found, key=lambda times: times[1])


def _rates(times: list[tuple[float, float, float]], slots: int) -> dict[str, float]:
    """Seconds a run from the first run's begin to the last one's end, and the same of first and last third."""
    own = statistics.fmean(times[2] for times in times)
    third = len(times) // 3
    whole = (times[-1][1] - times[0][0]) / len(times)
    first = (times[third][1] - times[0][1]) / third
    last = (times[-1][1] - times[-1 - third][1]) / third
    return {
        "seconds_a_run": whole,
        "own_seconds": own,
        "overhead_seconds": whole * slots - own,
        "last_third_to_first": last / first,
    }


def _by_call(spent: Any, runs: int) -> dict[str, tuple[float, float]]:
    """Milliseconds and calls a run, by method, the dearest first."""
    ordered = sorted(spent.seconds.items(), key=lambda item: -item[1])
    return {
        name: (round(1000 * seconds / runs, 3), round(spent.calls[name] / runs, 2))
        for name, seconds in ordered
    }


def _files(storage: Storage, runs: int) -> dict[str, float]:
    """Files and bytes that a run leaves, in its folder and in MLflow's artifacts; bytes of the databases a run."""
    figures = {}
    for name, folder in (("run", storage.folder / "runs"), ("artifact", storage.artifact_root)):
        files = [path for path in folder.rglob("*") if path.is_file()]
        figures[f"{name}_files"] = len(files) / runs
        figures[f"{name}_bytes"] = sum(path.stat().st_size for path in files) / runs
    for name, path in (("ledger", storage.folder / "ledger.db"), ("mlflow", storage.root / "mlflow.db")):
        figures[f"{name}_db_bytes"] = path.stat().st_size / runs if path.exists() else 0.0
    return figures


def _reading(spec: StudySpec, storage: Storage, tracking: str | None) -> dict[str, float]:
    """Seconds to read what a report is made of, a status, and the ledger at the next launch."""
    if not (storage.folder / STUDY_FILE).exists():
        raise SystemExit("the study was not frozen")
    actions = {
        "report_from_mlflow_seconds": lambda: mlflow_results(storage, tracking),
        "report_from_folders_seconds": lambda: local_results(storage),
        "status_seconds": lambda: rows(storage),
        "resume_seconds": lambda: RunQueue(spec, storage, open_ledger(spec, storage)),
    }
    figures = {}
    for name, action in actions.items():
        begin = time.perf_counter()
        action()
        figures[name] = time.perf_counter() - begin
    return figures


ROWS = (
    ("seconds a run (wall)", "seconds_a_run", "{:.3f}"),
    ("the run's own seconds", "own_seconds", "{:.3f}"),
    ("overhead of a run in its slot, s", "overhead_seconds", "{:.3f}"),
    ("last third / first third", "last_third_to_first", "{:.2f}"),
    ("driver CPU, ms a run", "driver_cpu_ms_a_run", "{:.0f}"),
    ("ledger, ms a run", "ledger_ms_a_run", "{:.1f}"),
    ("MLflow, ms a run (its own thread)", "mlflow_ms_a_run", "{:.1f}"),
    ("MLflow behind at the end, s", "catch_up_seconds", "{:.1f}"),
    ("driver memory, MiB", "driver_mib", "{:.0f}"),
    ("driver memory, KiB a run", "driver_kib_a_run", "{:.0f}"),
    ("Ray GCS memory, KiB a run", "gcs_kib_a_run", "{:.0f}"),
    ("files of a run", "run_files", "{:.1f}"),
    ("bytes of a run", "run_bytes", "{:.0f}"),
    ("files of a run in MLflow", "artifact_files", "{:.1f}"),
    ("ledger bytes a run", "ledger_db_bytes", "{:.0f}"),
    ("MLflow bytes a run", "mlflow_db_bytes", "{:.0f}"),
    ("results from MLflow, s", "report_from_mlflow_seconds", "{:.2f}"),
    ("results from folders, s", "report_from_folders_seconds", "{:.2f}"),
    ("status, s", "status_seconds", "{:.2f}"),
    ("resuming the ledger, s", "resume_seconds", "{:.2f}"),
)


def show(figures: list[list[dict[str, Any]]]) -> None:
    """Prints a column a size: the minimum of the repetitions, and the median where it differs."""
    print(f"{'':<36}" + "".join(f"{repeats[0]['runs']:>18} runs" for repeats in figures))
    for title, name, form in ROWS:
        cells = []
        for repeats in figures:
            values = [one[name] for one in repeats]
            low, median = form.format(min(values)), form.format(statistics.median(values))
            cells.append(low if low == median else f"{low} ({median})")
        print(f"{title:<36}" + "".join(f"{cell:>23}" for cell in cells))
    if len(figures) > 1:
        first, last = figures[0], figures[-1]
        growth = min(one["seconds_a_run"] for one in last) / min(one["seconds_a_run"] for one in first)
        print(f"growth of seconds a run from {first[0]['runs']} to {last[0]['runs']} runs: {growth:.2f}")
        for before, after in itertools.pairwise([min(repeats, key=_cpu) for repeats in figures]):
            more = (_cpu(after) - _cpu(before)) / (after["runs"] - before["runs"])
            print(f"driver CPU of a run more, {before['runs']} to {after['runs']} runs: {1000 * more:.0f} ms")
    for kind in ("ledger", "mlflow"):
        print(f"{kind}, by call (ms a run, calls a run):")
        for name, (taken, calls) in list(figures[-1][0][f"{kind}_by_call"].items())[:8]:
            print(f"  {name:<32}{taken:>9.2f}{calls:>8.2f}")


def _cpu(figures: dict[str, Any]) -> float:
    """Processor time of the driver in all, seconds."""
    return float(figures["driver_cpu_ms_a_run"] * figures["runs"] / 1000)


def main() -> None:
    """Measures every size, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 300], help="sizes of the study")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2, help="runs at once")
    parser.add_argument("--ledger", help="URL of the ledger; default: a SQLite file")
    parser.add_argument("--tracking", help="URI of MLflow; default: a SQLite file")
    parser.add_argument("--profile", type=Path, help="write a profile of the driver's main thread there")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        profile = cProfile.Profile()
        if arguments.profile:
            profile.enable()
        size = arguments.runs[0]
        figures = measure(size, arguments.slots, Path(arguments.one), arguments.ledger, arguments.tracking)
        if arguments.profile:
            profile.disable()
            profile.dump_stats(str(arguments.profile))
        print(json.dumps(figures))
        return
    collected: list[list[dict[str, Any]]] = [[] for _ in arguments.runs]
    for _ in range(arguments.repeat):
        for position, size in enumerate(arguments.runs):
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, "-m", "benchmarks.scale", *sys.argv[1:], "--one", folder]
                done = subprocess.run([*command, "--runs", str(size)], stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(done.returncode)
            collected[position].append(json.loads(done.stdout.splitlines()[-1]))
    if arguments.json:
        arguments.json.write_text(json.dumps(collected, indent=1))
    show(collected)


if __name__ == "__main__":
    main()
