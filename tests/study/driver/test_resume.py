"""Drivers that are killed: the same command again loses nothing, doubles nothing, and trains nothing twice.

With a runner that trains nothing, at many moments; `tests/study/cli/test_launch.py` kills one driver of real training.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from study.storage.layout import Storage
from study.storage.run_result import RunResult, read_result
from tests.helpers import fake_runner
from tests.helpers.driver_process import Driver, assert_sound, started
from tests.helpers.small_studies import attempts_of, run_folders, small_study, storage_of
from trainables.events import RUN_FILE, read_events
from trainables.run_config import RunConfig


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


def without_interruption(folder: Path, place: Path) -> RunResult:
    """Runs a run once more, elsewhere and here, from its beginning to its end."""
    written = RunConfig.model_validate_json((folder / RUN_FILE).read_text())
    again = place.joinpath(*folder.parts[-3:])
    list(fake_runner.execute(written.model_copy(update={"output_dir": str(again)})))
    result = read_result(again)
    assert result is not None
    return result


@pytest.mark.slow
@pytest.mark.nightly
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
