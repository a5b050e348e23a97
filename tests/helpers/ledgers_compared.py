"""A ledger held against the run folders."""

from __future__ import annotations

from study.ledger.open_ledger import open_ledger
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.small_studies import results


def check_ledger(spec: StudySpec, storage: Storage) -> None:
    """Every planned trial is there once and COMPLETE, and every run has its result."""
    ledger = open_ledger(spec, storage)
    for arm in spec.arms:
        searched = ledger.trials(arm)
        assert [trial.number for trial in searched] == list(range(spec.search_runs_of(arm)))
        confirmed = ledger.trials(arm, "confirm")
        wanted = {(key.subject, key.seed) for key in spec.confirm_keys(arm, 0)}
        assert len(confirmed) == len(wanted)
        assert {(trial.subject, trial.seed) for trial in confirmed} == wanted
        assert {trial.state for trial in [*searched, *confirmed]} == {"COMPLETE"}
    found = results(storage)
    assert len(found) == spec.number_of_runs()
    assert {result.state if result else None for result in found.values()} == {"COMPLETE"}
