"""The order of runs, and what a driver that dies at any moment leaves: all without Ray."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from study.dispatch.run_queue import RunQueue
from study.ledger.ledger import Ledger
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from study.worker.attempt import Attempt
from study.worker.order import Order
from study.worker.stop_order import order_stop
from tests.helpers.small_studies import RUNNER, attempts_of, results, run_folders, small_study, storage_of
from trainables.run_config import WITHOUT_EFFECT


class Killed(BaseException):
    """Stands for SIGKILL of the driver: nothing may catch it."""


def order_for(run: PlannedRun, driver_id: str = "one") -> Order:
    return Order(
        run.key.name,
        run.key.phase,
        "",
        run.config.model_dump_json(),
        driver_id,
        RUNNER,
        "",
        1,
        0,
        objective="quality",
    )


def train(run: PlannedRun) -> None:
    attempt = Attempt(order_for(run))
    while not attempt.advance(10)["done"]:
        pass


def queue_of(spec: StudySpec, storage: Storage) -> RunQueue:
    return RunQueue(spec, storage, Ledger(storage.ledger_url, spec.name))


def work(queue: RunQueue, order: list[RunKey] | None = None) -> None:
    """Does all runs, one after the other."""
    while (run := queue.next()) is not None:
        if order is not None:
            order.append(run.key)
        train(run)
        result = read_result(run.folder)
        assert result is not None
        queue.end(run.key, result)
    assert queue.finished


def states(spec: StudySpec, storage: Storage) -> dict[str, list[str]]:
    ledger = Ledger(storage.ledger_url, spec.name)
    return {
        f"{phase}/{arm}": [record.state for record in ledger.trials(arm, phase)]
        for arm in spec.arms
        for phase in ("search", "confirm")
    }


def test_arms_take_turns_and_confirm_as_soon_as_their_own_search_is_complete(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec)
    order: list[RunKey] = []
    work(queue_of(spec, storage), order)
    assert len(order) == len(set(order)) == spec.number_of_runs()
    assert [key.arm for key in order[:6]] == ["base", "cosine", "constant"] * 2
    for arm in spec.arms:
        mine = [key for key in order if key.arm == arm]
        assert [key.phase for key in mine] == sorted((key.phase for key in mine), reverse=True)
        assert [key.trial for key in mine if key.phase == "search"] == list(range(spec.trials_of(arm)))
        chosen = {key.trial for key in mine if key.phase == "confirm"}
        best = Ledger(storage.ledger_url, spec.name).best(arm)
        assert chosen == {best.number if best else 0}


def test_every_arm_gets_the_same_budget_though_one_fails_always(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec, {"search/cosine": {"nan_at": 2}})
    queue = queue_of(spec, storage)
    work(queue)
    found = states(spec, storage)
    assert found["search/cosine"] == ["FAIL"] * 3
    assert found["search/constant"] == ["COMPLETE"] * 3
    assert found["confirm/cosine"] == []
    assert queue.notes == ["arm 'cosine': no search trial is complete, so there is nothing to confirm"]
    assert Ledger(storage.ledger_url, spec.name).trials("cosine")[0].reason == "nan_loss"


def test_a_trial_s_value_is_the_mean_over_its_runs_and_none_without_all_of_them(fast_path: Path) -> None:
    spec = small_study(
        subjects=["cat-1", "dog-1", "bird-1"],
        search={"subjects": ["cat-1", "dog-1"], "seeds": [0, 1]},
        confirm={"subjects": ["bird-1"]},
    )
    rules = {
        "search/cosine/0000-cat-1-s0": {"quality": 0.2},
        "search/cosine/0000-cat-1-s1": {"quality": 0.4},
        "search/cosine/0000-dog-1-s0": {"quality": 0.6},
        "search/cosine/0000-dog-1-s1": {"quality": 0.8},
        "search/cosine/0001-cat-1-s1": {"fail_at": 3},
        "search/cosine/0002-dog-1-s1": {"quality": None},
    }
    storage = storage_of(fast_path, spec, rules)
    work(queue_of(spec, storage))
    first, second, third = Ledger(storage.ledger_url, spec.name).trials("cosine")
    assert first.values == pytest.approx((0.5,))
    assert (second.state, second.reason) == ("FAIL", "exception")
    assert {name.split("-", 1)[1]: run["state"] for name, run in second.runs.items()} == {
        "cat-1-s0": "COMPLETE",
        "cat-1-s1": "FAIL",
    }
    assert (third.state, third.reason) == ("FAIL", "no_value")


def test_runs_of_a_decided_trial_that_are_under_way_are_still_ended(fast_path: Path) -> None:
    spec = small_study(search={"seeds": [0, 1]})
    storage = storage_of(fast_path, spec, {"search/cosine/0000-cat-1-s0": {"fail_at": 1}})
    queue = queue_of(spec, storage)
    given = [queue.next() for _ in range(5)]
    mine = [run for run in given if run is not None and run.key.arm == "cosine"]
    assert [run.key.seed for run in mine] == [0, 1]
    for run in mine:
        train(run)
        result = read_result(run.folder)
        assert result is not None
        queue.end(run.key, result)
    (record, *_) = Ledger(storage.ledger_url, spec.name).trials("cosine")
    assert record.state == "FAIL"
    assert [run["state"] for run in record.runs.values()] == ["FAIL", "COMPLETE"]


def test_several_objectives_are_searched_and_the_chosen_one_is_confirmed(fast_path: Path) -> None:
    spec = small_study(search={"objectives": ["subject_fidelity", "prompt_fidelity"], "trials": 4})
    storage = storage_of(fast_path, spec)
    work(queue_of(spec, storage))
    ledger = Ledger(storage.ledger_url, spec.name)
    trials = ledger.trials("cosine")
    assert all(len(trial.values) == 2 for trial in trials)
    # The fake runner trades one for the other: all are on the front, and quality decides.
    chosen = max(trials, key=lambda trial: trial.metrics["quality"]).number
    assert {record.number for record in ledger.trials("cosine", "confirm")} == {chosen}


def test_the_ledger_s_configuration_of_a_trial_is_what_its_results_follow_from(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec)
    run = queue_of(spec, storage).next()
    assert run is not None
    (record,) = Ledger(storage.ledger_url, spec.name).trials(run.key.arm, run.key.phase)
    whole = run.config.model_dump(mode="json")
    assert record.config == {
        name: value for name, value in whole.items() if name not in {*WITHOUT_EFFECT, "subject", "seed"}
    }
    assert not {"gpu_share", "device", "seed"} & set(record.config)


def test_interrupted_runs_come_first_under_their_own_names(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec)
    queue = queue_of(spec, storage)
    given = [queue.next() for _ in range(4)]
    names = [run.key.name for run in given if run is not None]
    for run in given[2:]:
        assert run is not None
        attempt = Attempt(order_for(run))
        attempt.advance(0.0)
        attempt.advance(0.05)
        attempt.interrupt()
        assert read_result(run.folder) is None
    resumed = queue_of(spec, storage)
    assert sorted(key.name for key in resumed.resumed) == sorted(names)
    again = [resumed.next() for _ in range(4)]
    assert sorted(run.key.name for run in again if run is not None) == sorted(names)
    runs = Ledger(storage.ledger_url, spec.name).trials("cosine")[0].runs
    assert [run["attempts"] for run in runs.values()] == [2]


def test_pruned_runs_make_pruned_trials(fast_path: Path) -> None:
    spec = small_study(arms={"cosine": {"method": "lora", "lr_scheduler": "cosine"}})
    storage = storage_of(fast_path, spec)
    queue = queue_of(spec, storage)
    run = queue.next()
    assert run is not None
    attempt = Attempt(order_for(run))
    report = attempt.advance(10)
    assert (report["budget"], report["done"]) == (0.5, False)
    assert report["score"] > 0
    order_stop(run.folder, "asha at 0.50")
    assert attempt.advance(10)["state"] == "PRUNED"
    result = read_result(run.folder)
    assert result is not None
    queue.end(run.key, result)
    (record,) = Ledger(storage.ledger_url, spec.name).trials("cosine")
    assert (record.state, record.reason) == ("PRUNED", "asha")
    assert queue.ended[run.key].state == "PRUNED"


def test_what_has_ended_is_never_given_out_again(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec, {"search/cosine/0001": {"nan_at": 1}})
    first = queue_of(spec, storage)
    work(first)
    before = {key: folder.stat().st_mtime_ns for key, folder in run_folders(storage).items()}
    second = queue_of(spec, storage)
    assert second.finished
    assert second.next() is None
    assert {key: result.state for key, result in second.ended.items()} == {
        key: result.state for key, result in first.ended.items()
    }
    assert before == {key: folder.stat().st_mtime_ns for key, folder in run_folders(storage).items()}


WRITES = (
    "create_new_trial",
    "set_trial_user_attr",
    "set_trial_param",
    "set_trial_state_values",
    "set_study_user_attr",
    "create_new_study",
)


def _kill_at(monkeypatch: pytest.MonkeyPatch, moment: int, *, after: bool) -> list[int]:
    """Lets the driver die before or after its ledger write number `moment`; returns the counter."""
    from optuna.storages import RDBStorage

    count = [0]

    def wrap(original: Any) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            if count[0] == moment and not after:
                raise Killed
            result = original(self, *args, **kwargs)
            if count[0] == moment and after:
                raise Killed
            return result

        return method

    for name in WRITES:
        monkeypatch.setattr(RDBStorage, name, wrap(getattr(RDBStorage, name)))
    return count


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_driver_may_die_at_any_write_to_the_ledger(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Every fifth write of the study, other ones in the two cases, is the driver's last one once."""
    spec = small_study(
        arms={"base": {"method": "base"}, "cosine": {"method": "lora", "lr_scheduler": "cosine"}},
        search={"trials": 2},
        confirm={"seeds": [100]},
        budget={"max_train_steps": 2},
    )
    whole = storage_of(fast_path / "whole", spec, {"": {"step_seconds": 0}})
    Ledger(whole.ledger_url, spec.name)
    shutil.copytree(whole.folder, fast_path / "empty")
    with monkeypatch.context() as patch:
        writes = _kill_at(patch, -1, after=after)
        work(queue_of(spec, whole))
    expected = {key: result.evaluation for key, result in results(whole).items() if result is not None}
    assert len(expected) == spec.number_of_runs()
    for moment in itertools.islice(range(1, writes[0] + 1), 2 * after, None, 5):
        storage = storage_of(fast_path / f"at-{moment}", spec, {"": {"step_seconds": 0}})
        shutil.copytree(fast_path / "empty", storage.folder)
        with monkeypatch.context() as patch:
            _kill_at(patch, moment, after=after)
            with pytest.raises(Killed):
                work(queue_of(spec, storage))
        work(queue_of(spec, storage))
        found = results(storage)
        assert {key: result.evaluation for key, result in found.items() if result} == expected, moment
        assert all(len(attempts_of(folder)) == 1 for folder in run_folders(storage).values()), moment
        assert Counter(itertools.chain(*states(spec, storage).values())) == {"COMPLETE": 4}, moment


def test_a_result_that_the_ledger_was_not_told_is_told_at_the_next_start(fast_path: Path) -> None:
    spec = small_study()
    storage = storage_of(fast_path, spec)
    queue = queue_of(spec, storage)
    runs = [queue.next() for _ in range(3)]
    for run in runs:
        assert run is not None
        train(run)
    assert "COMPLETE" not in itertools.chain(*states(spec, storage).values())
    resumed = queue_of(spec, storage)
    assert {key.name for key in resumed.ended} == {run.key.name for run in runs if run is not None}
    assert list(itertools.chain(*states(spec, storage).values())).count("COMPLETE") == 3
    work(resumed)
    assert all(len(attempts_of(folder)) == 1 for folder in run_folders(storage).values())


@pytest.mark.parametrize("told", [0, 1, 3])
def test_a_trial_of_several_runs_that_ended_untold_is_told_of_all(fast_path: Path, told: int) -> None:
    """One that was told of its first results alone had their mean for ever."""
    spec = small_study(
        subjects=["cat-1", "dog-1", "bird-1"],
        arms={"cosine": {"method": "lora"}},
        search={"subjects": ["cat-1", "dog-1"], "seeds": [0, 1]},
        confirm={"subjects": ["bird-1"]},
    )
    values = {"cat-1-s0": 0.2, "cat-1-s1": 0.4, "dog-1-s0": 0.6, "dog-1-s1": 0.8}
    rules = {f"search/cosine/0000-{name}": {"quality": value} for name, value in values.items()}
    storage = storage_of(fast_path, spec, rules)
    queue = queue_of(spec, storage)
    runs = [queue.next() for _ in values]
    for number, run in enumerate(runs):
        assert run is not None
        assert run.key.trial == 0
        train(run)
        if number < told:
            result = read_result(run.folder)
            assert result is not None
            queue.end(run.key, result)
    resumed = queue_of(spec, storage)
    (first, *_) = Ledger(storage.ledger_url, spec.name).trials("cosine")
    assert first.values == pytest.approx((0.5,))
    work(resumed)
