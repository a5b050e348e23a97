"""The queue of a study with a downstream phase: models first, then classifiers, the same after any interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.dispatch.phased_queue import StudyQueue
from study.ledger.ledger import Ledger
from study.spec.downstream_plan import DownstreamPlan, total_runs
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import DOWNSTREAM, RunKey
from study.storage.run_result import RunResult
from tests.helpers.downstream_studies import downstream_study
from tests.helpers.search_driver import Drive, complete
from trainables.classifier_run_config import ClassifierRunConfig
from trainables.events import EventLog


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "prepared"))


def outcome(run: PlannedRun) -> RunResult:
    """Fine-tuning draws its images; a classifier is the better the lower its learning rate."""
    if isinstance(run.config, ClassifierRunConfig):
        rate = run.config.training.learning_rate
        return RunResult("COMPLETE", evaluation={"validation_balanced_accuracy": 1 - rate, "accuracy": 0.5})
    assert run.config.generation is not None
    for label, count in run.config.generation.images.items():
        EventLog(run.folder).append("generated", 2, label=label, entries=[f"generated/{label}"], images=count)
    return complete(run)


def ended(spec: StudySpec, storage: Storage) -> dict[str, tuple[str, dict[str, object]]]:
    ledger = Ledger(storage.ledger_url, spec.name)
    plan = DownstreamPlan(spec)
    found: dict[str, tuple[str, dict[str, object]]] = {}
    for cell in plan.arms:
        for phase in ("search", "confirm"):
            for record in ledger.downstream.trials(cell, phase):
                for name in record.runs:
                    found[name] = (record.state, record.params)
    return found


def test_classifiers_come_after_all_models_and_each_cell_confirms_its_best(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path)
    storage = Storage(tmp_path / "storage", spec.name)
    order: list[RunKey] = []

    def noted(run: PlannedRun) -> RunResult:
        order.append(run.key)
        return outcome(run)

    Drive(at_once=3, outcome=noted).work(spec, storage)
    assert len(order) == total_runs(spec)
    first = next(number for number, key in enumerate(order) if key.trains_classifier)
    assert first == spec.number_of_runs()
    assert all(key.trains_classifier for key in order[first:])
    runs = ended(spec, storage)
    assert len(runs) == DownstreamPlan(spec).number_of_runs()
    finals = {name: params for name, (_, params) in runs.items() if name.startswith(f"{DOWNSTREAM}/")}
    assert {params["learning_rate"] for params in finals.values()} == {0.001}


@pytest.mark.parametrize("every", [1, 4])
def test_a_driver_that_dies_at_any_end_is_gone_on_with_to_the_same(tmp_path: Path, every: int) -> None:
    spec = downstream_study(tmp_path)
    whole, broken = (Storage(tmp_path / name, spec.name) for name in ("whole", "broken"))
    Drive(at_once=2, outcome=outcome).work(spec, whole)
    Drive(at_once=2, outcome=outcome, resume_every=every).work(spec, broken)
    assert ended(spec, whole) == ended(spec, broken)


def test_every_cell_tries_the_same_different_configurations(tmp_path: Path) -> None:
    spec = downstream_study(
        tmp_path,
        learning_rates=[0.001, 0.01, 0.1],
        optimizers=["adam", "sgd"],
        weight_decays=[0, 0.1],
        trials=5,
    )
    storage = Storage(tmp_path / "storage", spec.name)
    ledger = Drive(at_once=2, outcome=outcome).work(spec, storage)
    tried = [
        [tuple(sorted(record.params.items())) for record in ledger.downstream.trials(cell, "search")]
        for cell in DownstreamPlan(spec).arms
    ]
    assert len(tried) > 3
    assert all(one == tried[0] for one in tried)
    assert len(set(tried[0])) == len(tried[0]) == 5
    assert dict(tried[0][0]) == {"learning_rate": 0.001, "optimizer": "adam", "weight_decay": 0}


def test_what_a_failed_model_would_have_drawn_is_missing_for_its_seed_alone(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path)
    storage = Storage(tmp_path / "storage", spec.name)
    missing: dict[str, set[str]] = {}

    def one_fails(run: PlannedRun) -> RunResult:
        if isinstance(run.config, ClassifierRunConfig):
            why = {one.missing for one in run.config.generated if one.missing}
            missing.setdefault(run.key.subject, set()).update(map(str, why))
            return outcome(run)
        if (run.key.subject, run.key.seed) == ("owl", 101):
            return RunResult("FAIL", reason="nan_loss", message="the loss is no number")
        return outcome(run)

    Drive(outcome=one_fails).work(spec, storage)
    assert missing == {"real": set(), "g100": set(), "g101": {"the loss is no number"}}


def test_ids_in_mlflow_are_kept_with_the_run(tmp_path: Path) -> None:
    spec = downstream_study(tmp_path)
    storage = Storage(tmp_path / "storage", spec.name)
    ledger = Drive(outcome=outcome).work(spec, storage)
    key = DownstreamPlan(spec).confirm_keys("real.small_cnn", 0)[0]
    key = next(RunKey.parse(name) for name in ended(spec, storage) if name.endswith(key.name[-8:]))
    assert ledger.mlflow_run_id(key) is None
    ledger.set_mlflow_run_id(key, "abc")
    assert Ledger(storage.ledger_url, spec.name).mlflow_run_id(key) == "abc"
    assert set(ledger.arms()) == {"lora"} - set()  # no cell passes for an arm
    assert StudyQueue(spec, storage, ledger).finished
