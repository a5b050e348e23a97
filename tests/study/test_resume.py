"""Drivers that are killed: the same command again loses nothing, doubles nothing, and trains nothing twice.

With a runner that trains nothing; `tests/faults` kills drivers and workers of real training.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from study.ledger.ledger import Ledger
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.storage.run_result import RunResult, read_result
from tests.processes import wait_gone
from tests.study import fake_runner
from tests.study.small_studies import attempts_of, results, run_folders, small_study, storage_of
from trainables.events import RUN_FILE, read_events
from trainables.run_config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # a busy machine starts Ray in a minute


class Driver:
    """A launch in a process of its own, with everything that it starts."""

    def __init__(self, spec: StudySpec, storage: Storage, *runner: str) -> None:
        spec_file = storage.root / "spec.json"
        spec_file.parent.mkdir(parents=True, exist_ok=True)
        spec_file.write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "tests.study.drive", storage.place, str(spec_file), *runner]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._family: set[psutil.Process] = set()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits for a moment in the study; fails if the driver ends before."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.process.poll() is None, f"the driver has ended: {self.process.communicate()}"
            assert time.monotonic() < end, "the moment never came"
            time.sleep(0.05)

    def remember_family(self) -> None:
        """Notes the processes that it has started so far."""
        self._family |= set(psutil.Process(self.process.pid).children(recursive=True))

    def kill(self) -> None:
        """SIGKILL to the driver alone; what it started must end by itself.

        Ray's two agents, which train nothing, look for their raylet only now and then and end a minute later.
        """
        self.remember_family()
        self.process.kill()
        self.process.communicate()
        family = [process for process in self._family if not _is_agent(process)]
        alive = wait_gone(family, 60)
        assert not alive, f"left behind: {alive}"

    def finish(self) -> dict[str, Any]:
        """Waits for the end and returns the outcome."""
        output, errors = self.process.communicate(timeout=PATIENCE)
        assert self.process.returncode == 0, errors
        outcome: dict[str, Any] = json.loads(output.splitlines()[-1])
        return outcome


def _is_agent(process: psutil.Process) -> bool:
    try:
        return "agent" in " ".join([process.name(), *process.cmdline()]).lower()
    except psutil.Error:
        return False


def started(storage: Storage, phase: str = "*") -> int:
    """Runs that have begun."""
    return len(list((storage.folder / "runs").glob(f"{phase}/*/*/events.jsonl")))


def ended(storage: Storage) -> int:
    """Runs that have ended."""
    return len(list((storage.folder / "runs").glob("*/*/*/result.json")))


def halfway(storage: Storage) -> list[Path]:
    """Folders of runs that are in the middle of their training, with a checkpoint."""
    found = []
    for folder in run_folders(storage).values():
        checkpoint = folder / "checkpoint" / "state.json"
        if checkpoint.exists() and not (folder / "result.json").exists():
            found.append(folder)
    return found


def assert_sound(spec: StudySpec, storage: Storage) -> None:
    """Every trial and run there once, with its final state, in the ledger as on disk."""
    ledger = Ledger(storage.ledger_url, spec.name)
    found = results(storage)
    assert len(found) == spec.number_of_runs()
    assert None not in found.values()
    in_ledger: Counter[str] = Counter()
    for arm in spec.arms:
        search, confirm = ledger.trials(arm), ledger.trials(arm, "confirm")
        assert [record.number for record in search] == list(range(spec.trials_of(arm)))
        places = [(record.subject, record.seed) for record in confirm]
        assert len(places) == len(set(places)) == len(spec.confirm_keys(arm, 0))
        for record in (*search, *confirm):
            assert record.ended
            for name, run in record.runs.items():
                in_ledger[name] += 1
                result = found[RunKey.parse(name)]
                assert result is not None
                assert run["state"] == result.state == record.state
    assert in_ledger == Counter({key.name: 1 for key in found})
    for folder in run_folders(storage).values():
        events = read_events(folder)
        assert [event.number for event in events] == list(range(1, len(events) + 1))
        assert [event.kind for event in events].count("finished") == 1


def without_interruption(folder: Path, place: Path) -> RunResult:
    """Runs a run once more, elsewhere and here, from its beginning to its end."""
    written = RunConfig.model_validate_json((folder / RUN_FILE).read_text())
    again = place.joinpath(*folder.parts[-3:])
    list(fake_runner.execute(written.model_copy(update={"output_dir": str(again)})))
    result = read_result(again)
    assert result is not None
    return result


@pytest.mark.slow
def test_drivers_that_are_killed_or_interrupted_at_several_moments(fast_path: Path) -> None:
    spec = small_study(budget={"max_train_steps": 20})
    storage = storage_of(fast_path, spec, {"": {"step_seconds": 0.05}})
    moments: list[tuple[Callable[[], bool], bool]] = [
        (lambda: (storage.folder / "ledger.db").exists(), False),  # before the first run
        (lambda: bool(halfway(storage)) and ended(storage) >= 2, False),  # in the middle of the search
        (lambda: bool(halfway(storage)) and ended(storage) >= 5, True),  # by SIGINT, to the whole group
        (lambda: bool(halfway(storage)) and started(storage, "confirm") >= 4, False),  # in the confirm phase
    ]
    done: dict[Path, float] = {}
    resumable: set[Path] = set()
    for moment, gently in moments:
        driver = Driver(spec, storage)
        driver.wait_until(moment)
        if gently:
            os.killpg(driver.process.pid, signal.SIGINT)
            outcome = driver.finish()
            assert outcome["interrupted"]
            assert "interrupted by SIGINT" in outcome["message"]
            assert "run the same command again" in outcome["message"]
        else:
            driver.kill()
        for folder, changed in done.items():
            assert (folder / "result.json").stat().st_mtime_ns == changed
        folders = run_folders(storage).values()
        done = {f: (f / "result.json").stat().st_mtime_ns for f in folders if read_result(f) is not None}
        resumable |= set(halfway(storage))

    outcome = Driver(spec, storage).finish()
    assert (outcome["interrupted"], outcome["failed"]) == (False, [])
    assert outcome["complete"] == spec.number_of_runs()
    assert_sound(spec, storage)
    for folder, changed in done.items():
        assert (folder / "result.json").stat().st_mtime_ns == changed
    assert len(resumable) >= 2
    for folder in run_folders(storage).values():
        first, *later = attempts_of(folder)
        assert first == 0
        if folder not in resumable:
            assert not any(later), folder
    assert any(step > 0 for folder in resumable for step in attempts_of(folder)[1:])
    for folder in resumable:
        steps = [event.step for event in read_events(folder) if event.kind == "progress"]
        redone = len(steps) - len(set(steps))
        assert redone <= len(attempts_of(folder)) - 1, (
            "more than the step since the last checkpoint was repeated"
        )

    storage_of(fast_path, spec, {"": {"step_seconds": 0}})
    for folder in run_folders(storage).values():
        resumed = read_result(folder)
        assert resumed is not None
        assert resumed.evaluation == without_interruption(folder, fast_path / "untouched").evaluation
