"""Works on a study's queue without training: what each run comes to is a function of its parameters."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from study.dispatch.phased_queue import StudyQueue
from study.ledger.ledger import Ledger
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_result import RunResult
from study.util.json_files import write_json
from trainables.events import RESULT_FILE

Outcome = Callable[[PlannedRun], RunResult]


def quality_of(run: PlannedRun) -> float:
    """A smooth score in 0..1 with its best near a learning rate of 1e-3 and rank 4."""
    training = run.config.training.model_dump()
    rate = math.log10(training["learning_rate"]) + 3
    return math.exp(-(rate**2) / 4 - abs(training.get("r", 4) - 4) / 10)


def complete(run: PlannedRun) -> RunResult:
    """Every run ends well."""
    return RunResult("COMPLETE", evaluation={"quality": quality_of(run)})


@dataclass
class Drive:
    """How a study is worked on.

    Attributes:
        at_once: Runs under way at most.
        seed: Of the order in which runs end.
        outcome: What a run comes to.
        resume_every: After so many ends the driver dies and another takes over from the ledger.
    """

    at_once: int = 1
    seed: int = 0
    outcome: Outcome = complete
    resume_every: int | None = None

    def work(self, spec: StudySpec, storage: Storage) -> Ledger:
        """Works until nothing is left; fails if the queue gives nothing although nothing is under way."""
        order = random.Random(self.seed)
        ends = 0
        queue = StudyQueue(spec, storage, Ledger(storage.ledger_url, spec.name))
        while not queue.finished:
            running: dict[str, PlannedRun] = {}
            died = False
            while not died:
                while len(running) < self.at_once and (run := queue.next()) is not None:
                    running[run.key.name] = run
                if not running:
                    break
                run = running.pop(order.choice(sorted(running)))
                result = self.outcome(run)
                run.folder.mkdir(parents=True, exist_ok=True)
                write_json(run.folder / RESULT_FILE, asdict(result))
                queue.end(run.key, result)
                ends += 1
                died = self.resume_every is not None and ends % self.resume_every == 0
            if died:
                queue = StudyQueue(spec, storage, Ledger(storage.ledger_url, spec.name))
            elif not queue.finished:
                raise AssertionError("the queue waits although nothing is under way")
        return Ledger(storage.ledger_url, spec.name)


def proposals(ledger: Ledger, arm: str) -> list[dict[str, Any]]:
    """The parameters of all trials of an arm, by number."""
    records = ledger.trials(arm)
    assert [record.number for record in records] == list(range(len(records)))
    return [record.params for record in records]
