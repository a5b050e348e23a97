"""One attempt at a run, without Ray: what it reports, what ends it, and what it leaves of itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.storage.attempts import attempts
from study.storage.layout import LOG_FILE, STOP_FILE, WORKER_LOCK_FILE
from study.storage.planned_run import PlannedRun
from study.storage.run_key import RunKey
from study.storage.run_result import read_result
from study.worker import attempt as module
from study.worker.attempt import SCORE, Attempt
from study.worker.order import Order, load_object
from study.worker.process import prepare_process, process_settings
from study.worker.stop_order import order_stop
from study.worker.workspace import WorkspaceError, check_inputs
from tests.helpers.small_studies import RUNNER, attempts_of, small_study, storage_of
from trainables.events import Event, read_events
from trainables.util.file_lock import is_locked


def planned(folder: Path, **rules: object) -> PlannedRun:
    spec = small_study()
    storage = storage_of(folder, spec, {"": {"step_seconds": 0.001, **rules}})
    key = RunKey("search", "cosine", 0, "cat-1", 0)
    config = spec.run_config(key, {"learning_rate": 1e-3, "r": 2}, storage)
    return PlannedRun(key, storage.run_folder(key), config)


def order_of(run: PlannedRun, **fields: Any) -> Order:
    order = Order(
        run.key.name, run.key.phase, "", run.config.model_dump_json(), "driver", RUNNER, "", cpus=1, gpus=0
    )
    return dataclasses.replace(order, **fields)


def reports_of(attempt: Attempt, seconds: float = 10.0) -> list[dict[str, Any]]:
    found = [attempt.advance(seconds)]
    while not found[-1]["done"]:
        found.append(attempt.advance(seconds))
    return found


def test_reports_grow_to_the_end_and_the_end_is_told_again(fast_path: Path) -> None:
    run = planned(fast_path)
    attempt = Attempt(order_of(run), node="here")
    reports = reports_of(attempt, 0.0)
    budgets = [report["budget"] for report in reports]
    assert budgets == sorted(budgets)
    assert reports[-1] == {"budget": 1.0, "done": True, "state": "COMPLETE", "reason": None}
    assert attempt.advance() == reports[-1]  # whoever did not hear it may ask once more
    assert not is_locked(run.folder / WORKER_LOCK_FILE)
    assert len(attempts(run.folder)) == 1


@pytest.mark.parametrize(("objective", "sign"), [("quality", 1), ("drift", -1), ("", 0)])
def test_evaluations_on_the_way_are_scored_so_that_more_is_better(
    objective: str, sign: int, fast_path: Path
) -> None:
    run = planned(fast_path)
    reports = reports_of(Attempt(order_of(run, objective=objective)))
    scores = [report[SCORE] for report in reports if SCORE in report]
    seen = [event.data.get(objective) for event in read_events(run.folder) if event.kind == "evaluation"]
    on_the_way = [value for value in seen[:-1] if value is not None]
    assert scores == [sign * value for value in on_the_way]
    assert bool(scores) == (objective == "quality")  # the fake runner measures quality alone


def test_an_interrupted_attempt_leaves_nothing_final_and_the_next_goes_on(fast_path: Path) -> None:
    run = planned(fast_path)
    first = Attempt(order_of(run))
    while (first.advance(0.0)["budget"] or 0) < 0.4:
        assert is_locked(run.folder / WORKER_LOCK_FILE)
    first.interrupt()
    first.interrupt()  # twice is once
    assert read_result(run.folder) is None
    assert not is_locked(run.folder / WORKER_LOCK_FILE)
    assert reports_of(Attempt(order_of(run)))[-1]["state"] == "COMPLETE"
    begun = attempts_of(run.folder)
    assert begun[0] == 0
    assert begun[1] > 0
    assert len(attempts(run.folder)) == 2


def test_a_stop_order_ends_a_run_as_pruned(fast_path: Path) -> None:
    run = planned(fast_path)
    attempt = Attempt(order_of(run, stoppable=True))
    attempt.advance(0.0)
    order_stop(run.folder, "behind the others")
    assert (run.folder / STOP_FILE).exists()
    last = reports_of(attempt)[-1]
    assert (last["state"], last["reason"], last["done"]) == ("PRUNED", "stopped_early", True)
    assert reports_of(Attempt(order_of(run)))[-1]["state"] == "PRUNED"  # a restarted worker obeys it too


def test_a_finished_run_is_not_begun_again(fast_path: Path) -> None:
    run = planned(fast_path)
    reports_of(Attempt(order_of(run)))
    again = Attempt(order_of(run, runner="no.such.module:function"))
    assert again.advance()["state"] == "COMPLETE"
    assert len(attempts(run.folder)) == 1


def test_what_goes_wrong_before_a_run_begins_is_its_failure(fast_path: Path) -> None:
    run = planned(fast_path)
    last = Attempt(order_of(run, runner="no.such.module:function")).advance()
    assert (last["state"], last["reason"]) == ("FAIL", "exception")
    result = read_result(run.folder)
    assert result is not None
    assert "No module named 'no'" in (result.message or "")
    assert "Traceback" in (result.traceback or "")


def _ends_without_a_word(config: Any) -> Iterator[Event]:
    return iter(())


def test_a_run_that_ends_without_a_result_has_failed(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(fast_path)
    monkeypatch.setattr(module, "load_object", lambda name: _ends_without_a_word)
    last = Attempt(order_of(run)).advance()
    assert (last["state"], last["reason"]) == ("FAIL", "no_result")


def test_one_process_at_a_time_works_on_a_run(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned(fast_path)
    first = Attempt(order_of(run))
    first.advance(0.0)
    monkeypatch.setattr(module, "LOCK_WAIT_SECONDS", 0.1)
    with pytest.raises(WorkspaceError, match=r"another process still works in .* after 0.1 s"):
        Attempt(order_of(run)).advance()
    assert read_result(run.folder) is None  # the run is not to blame
    first.interrupt()


def test_the_output_of_a_run_goes_to_its_log_and_comes_back(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = planned(fast_path)
    execute = load_object(RUNNER)

    def loud(config: Any) -> Iterator[Event]:
        for event in execute(config):
            os.write(1, b"from another one\n")
            os.write(2, b"from a library\n")
            yield event

    monkeypatch.setattr(module, "load_object", lambda name: loud)
    reports_of(Attempt(order_of(run), capture=True))
    os.write(1, b"afterwards\n")
    log = (run.folder / LOG_FILE).read_text()
    assert "from another one" in log
    assert "from a library" in log
    out, err = capfd.readouterr()
    assert (out, err) == ("afterwards\n", "")


def test_a_node_that_does_not_see_the_storage_says_so(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(fast_path)
    monkeypatch.setattr("study.worker.workspace.VISIBLE_SECONDS", 0.0)
    blind = Attempt(order_of(run, home=str(fast_path / "elsewhere")), node="node 7")
    with pytest.raises(
        WorkspaceError, match=r"does not see the storage folder .*elsewhere: .*--storage must be a URL"
    ):
        blind.advance()
    assert not run.folder.exists()  # nothing was written that nobody would ever read


def test_a_node_that_lacks_a_folder_says_which(fast_path: Path) -> None:
    run = planned(fast_path)
    model = run.config.model.model_copy(update={"path": str(fast_path / "checkpoint")})
    with pytest.raises(WorkspaceError, match=r"lacks the folder .*checkpoint; put it there"):
        check_inputs(run.config.model_copy(update={"model": model}))
    check_inputs(run.config)  # the embedded model is everywhere


def test_an_order_travels_as_plain_values(fast_path: Path) -> None:
    order = order_of(planned(fast_path), objective="quality", workers=2)
    assert Order(**order.to_dict()) == order
    assert all(isinstance(value, str | int | float) for value in order.to_dict().values())


def test_a_process_is_set_up_before_torch_is_loaded(fast_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every core has its own run: threads are the order's, none spins, and no GPU is seen that was not asked for."""
    run = planned(fast_path)
    settings = process_settings(order_of(run, cpus=2.5))
    assert settings["OMP_NUM_THREADS"] == settings["MKL_NUM_THREADS"] == "2"
    assert settings["OMP_WAIT_POLICY"] == "passive"
    assert settings["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in process_settings(order_of(run, gpus=1))
    monkeypatch.setenv("KMP_BLOCKTIME", "7")
    assert process_settings(order_of(run))["KMP_BLOCKTIME"] == "7"  # what the machine's owner has set stays
    for name in settings:
        monkeypatch.setenv(name, "before")
    prepare_process(order_of(run, cpus=1))
    assert os.environ["OMP_NUM_THREADS"] == "1"
