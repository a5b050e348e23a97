"""Hypotheses in the ledger: what was stated, when, and after how many trials, so that nobody states it afterwards.

Each is an attribute of the Optuna study of the search that was opened first, under its digest. What has been stated
stays, whether later study files repeat it, change it or leave it out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from study.ledger.ledger import Ledger
from study.ledger.open_ledger import open_ledger
from study.spec.hypotheses import Statement
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage, sqlite_path
from study.storage.run_key import PHASES
from study.util.units import iso_time

_PREFIX = "hypothesis "
_DIGITS = 16  # of a digest, that make an attribute's name


@dataclass(frozen=True)
class Stated:
    """One hypothesis with the circumstances of its first statement.

    Attributes:
        at: Time, ISO 8601, UTC.
        trials: How many trials the ledger had by then, in all arms and both phases.
        position: Among those that were stated at once.
    """

    statement: Statement
    at: str
    trials: int
    position: int

    def as_json(self) -> dict[str, Any]:
        """For the results' metadata, and MLflow."""
        return {
            "stated": self.at,
            "trials": self.trials,
            "position": self.position,
            "digest": self.statement.digest,
            "statement": self.statement.as_json(),
        }


def state_hypotheses(ledger: Ledger, statements: Sequence[Statement]) -> list[str]:
    """Writes down what is stated for the first time; returns a line for each that comes after the first trial."""
    arms = ledger.arms()
    if not statements or not arms:
        return []
    known = {one.statement.digest for one in stated_hypotheses(ledger)}
    new = [statement for statement in statements if statement.digest not in known]
    if not new:
        return []
    trials = sum(len(ledger.trials(arm, phase)) for phase in PHASES for arm in ledger.arms(phase))
    at = iso_time(time.time())
    for position, statement in enumerate(new):
        content = {
            "stated": at,
            "trials": trials,
            "position": position,
            "statement": statement.as_json(),
        }
        ledger.note(arms[0], 0, _PREFIX + statement.digest[:_DIGITS], content)
    if not trials:
        return []
    return [
        f"hypothesis {statement.name!r} is stated after {trials} trials: the report lists it apart from those that "
        "were stated before the first"
        for statement in new
    ]


def stated_in(spec: StudySpec, storage: Storage) -> list[Stated]:
    """Returns what the ledger of a launched study holds of hypotheses; none where it cannot be read."""
    file = sqlite_path(spec.storage.ledger_url or storage.ledger_url)
    if file is not None and not file.exists():  # opening it would create it
        return []
    try:
        return stated_hypotheses(open_ledger(spec, storage))
    except (
        Exception
    ):  # a server that is away, a damaged file: reports are made of runs, whatever became of the ledger
        return []


def stated_hypotheses(ledger: Ledger) -> list[Stated]:
    """Returns all that was ever stated, the earliest first; passes over what this version does not understand."""
    found = []
    for arm in ledger.arms():
        for name, content in ledger.notes(arm, 0).items():
            if name.startswith(_PREFIX):
                try:
                    statement = Statement.model_validate(content["statement"])
                    told = str(content["stated"]), int(content["trials"]), int(content["position"])
                    found.append(Stated(statement, *told))
                except (ValidationError, KeyError, TypeError, ValueError):
                    continue
    return sorted(found, key=lambda one: (one.trials, one.at, one.position))
