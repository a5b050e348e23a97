"""A driver in a process of its own, and what a study must be like however often it was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from study.ledger.ledger import Ledger
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from tests.helpers.small_studies import results, run_folders
from tests.helpers.waiting import wait_gone
from trainables.events import read_events

ROOT = Path(__file__).resolve().parents[2]

PATIENCE = 240.0  # a busy machine starts Ray in a minute


class Driver:
    """A launch in a process of its own, with everything that it starts."""

    def __init__(self, spec: StudySpec, storage: Storage, *runner: str) -> None:
        spec_file = storage.root / "spec.json"
        spec_file.parent.mkdir(parents=True, exist_ok=True)
        spec_file.write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "tests.helpers.launch_study", storage.uri, str(spec_file), *runner]
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


def started(storage: Storage, phase: str = "*") -> int:
    """Runs that have begun."""
    return len(list((storage.folder / "runs").glob(f"{phase}/*/*/events.jsonl")))
