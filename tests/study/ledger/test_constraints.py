"""A constrained objective: what samplers, dashboards and the choice make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from study.dispatch.run_queue import RunQueue
from study.ledger.ledger import Ledger
from study.spec.phases import Constraint, SearchSpec
from study.spec.study_spec import StudySpec
from study.storage.planned_run import PlannedRun
from study.storage.run_result import RunResult
from tests.helpers.search_driver import Drive, proposals, quality_of
from tests.helpers.small_studies import SPACE, small_study, storage_of

WANTED = {"maximize": "quality_subject_prompt", "subject_to": {"class_kept": ">= 0.8"}}


def study(objective: Any = WANTED, trials: int = 6, **search: Any) -> StudySpec:
    return small_study(
        arms={"lora": {"method": "lora", "lr_scheduler": "cosine", "search_space": SPACE}},
        search={"objective": objective, "trials": trials, **search},
        confirm={"seeds": [100]},
    )


def forgetting(most: float = 1.0) -> Any:
    """Better runs keep less of the class, from `most` down."""

    def outcome(run: PlannedRun) -> RunResult:
        quality = quality_of(run)
        return RunResult(
            "COMPLETE", evaluation={"quality_subject_prompt": quality, "class_kept": most - quality / 2}
        )

    return outcome


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "random"])
def test_the_best_trial_that_meets_the_constraint_is_confirmed(fast_path: Path, sampler: str) -> None:
    spec = study(sampler=sampler)
    storage = storage_of(fast_path, spec)
    ledger = Drive(at_once=2, outcome=forgetting()).work(spec, storage)
    records = ledger.trials("lora")
    met = [record for record in records if record.metrics["class_kept"] >= 0.8]
    assert 0 < len(met) < len(records), "or the test says nothing"
    best = ledger.best("lora")
    assert best is not None
    assert best.values[0] == max(record.values[0] for record in met)
    assert best.values[0] < max(record.values[0] for record in records)
    assert {record.number for record in ledger.trials("lora", "confirm")} == {best.number}
    stored = optuna.load_study(study_name="small/lora", storage=storage.ledger_url)
    assert stored.user_attrs["constraints"] == ["class_kept >= 0.8"]
    assert stored.user_attrs["constraints_unmet"] is False
    for trial, record in zip(stored.trials, records, strict=True):
        missed = 0.8 - record.metrics["class_kept"]
        assert trial.system_attrs["constraints"] == [pytest.approx(missed)], "as optuna-dashboard reads it"
    assert stored.best_trial.number == best.number, "Optuna itself chooses the same"


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_samplers_learn_from_constraints(fast_path: Path, sampler: str) -> None:
    free = study("quality_subject_prompt", sampler=sampler, trials=12)
    one = Drive(outcome=forgetting()).work(free, storage_of(fast_path / "free", free))
    bound = study(sampler=sampler, trials=12)
    other = Drive(outcome=forgetting()).work(bound, storage_of(fast_path / "bound", bound))
    assert proposals(one, "lora")[:2] == proposals(other, "lora")[:2]
    assert proposals(one, "lora") != proposals(other, "lora")


def test_if_none_meets_the_constraint_the_least_violation_is_confirmed_and_said(fast_path: Path) -> None:
    spec = study(trials=4)
    storage = storage_of(fast_path, spec)
    ledger = Drive(outcome=forgetting(most=0.7)).work(spec, storage)
    best = ledger.best("lora")
    assert best is not None
    assert best.metrics["class_kept"] == max(record.metrics["class_kept"] for record in ledger.trials("lora"))
    (note,) = RunQueue(spec, storage, Ledger(storage.ledger_url, spec.name)).notes
    assert "no search trial has class_kept >= 0.8" in note
    stored = optuna.load_study(study_name="small/lora", storage=storage.ledger_url)
    assert stored.user_attrs["constraints_unmet"] is True


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii"])
def test_a_run_without_the_constrained_metric_counts_as_infeasible(fast_path: Path, sampler: str) -> None:
    spec = study(sampler=sampler)

    def outcome(run: PlannedRun) -> RunResult:
        result = forgetting(most=0.7)(run)
        if run.key.trial != 2:
            result.evaluation["class_kept"] = None
        return result

    ledger = Drive(outcome=outcome).work(spec, storage_of(fast_path, spec))
    assert [record.violations is None for record in ledger.trials("lora")] == [
        number != 2 for number in range(6)
    ]
    best = ledger.best("lora")
    assert best is not None
    assert best.number == 2, "it misses the bound, but by how much is known"


# ---------------------------------------------------------------------- in the file


@pytest.mark.parametrize(
    "objective",
    [
        "quality",
        "drift",
        {"maximize": "quality"},
        {"minimize": "drift"},
        WANTED,
        {"maximize": "quality", "subject_to": {"class_kept": ">= 0.123456789", "drift": "<= 1e-07"}},
    ],
)
def test_objectives_come_back_from_record_and_file(tmp_path: Path, objective: Any) -> None:
    from study.spec.loading import load_study

    spec = study(objective)
    assert StudySpec.from_record(json.loads(json.dumps(spec.record()))) == spec
    file = tmp_path / "study.yaml"
    file.write_text(spec.to_yaml())
    assert load_study(file) == spec
    assert load_study(file).digest() == spec.digest()


def test_what_a_constrained_objective_means() -> None:
    search = SearchSpec.model_validate({"objective": WANTED})
    assert search.metrics == ("quality_subject_prompt",)
    assert search.directions == ("maximize",)
    (constraint,) = search.constraints
    assert constraint == Constraint(metric="class_kept", relation=">=", bound=0.8)
    assert constraint.violation(0.7) == pytest.approx(0.1)
    assert constraint.violation(0.9) <= 0
    assert Constraint(metric="drift", relation="<=", bound=0.2).violation(0.3) == pytest.approx(0.1)
    assert SearchSpec().constraints == ()


def test_one_objective_written_in_two_ways_is_one_study() -> None:
    assert study("quality").digest() == study({"maximize": "quality"}).digest()
    assert study("quality").identity()["search"]["objective"] == "quality"
    assert study().identity()["search"]["objective"] == WANTED | {"subject_to": {"class_kept": ">= 0.8"}}
