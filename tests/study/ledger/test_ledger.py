"""The ledger: an Optuna storage that anyone can read, and from which a resumed search goes on unchanged.

On SQLite and on PostgreSQL; what only a server can do to it: tests/servers/test_ledger_on_postgres.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from search_spaces.schema import SearchSpace
from study.ledger.ledger import Ledger
from study.ledger.proposals import propose
from study.ledger.samplers import SAMPLERS, grid_points
from study.ledger.trial import ArmSearch, TrialRecord
from study.storage.run_key import RunKey
from tests.helpers.ledgers import SPACE, arm_search, opened
from trainables.errors import UserError

FINITE = SearchSpace.model_validate(
    {
        "parameters": {
            "r": {"type": "categorical", "choices": [2, 4, 8]},
            "adam_weight_decay": {"type": "float", "low": 0.0, "high": 0.1, "step": 0.05},
        }
    }
)
CONDITIONAL = SearchSpace.model_validate(
    {
        "parameters": {
            "use_ema": {"type": "categorical", "choices": [True, False]},
            "ema_decay": {"type": "float", "low": 0.9, "high": 0.99, "when": {"use_ema": True}},
        }
    }
)


@pytest.fixture
def sqlite_url(fast_path: Path) -> str:
    return f"sqlite:///{fast_path / 'ledger.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Where the ledger lies; plain Optuna, which some tests use, wants a driver's name with PostgreSQL."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("database")).replace("postgresql://", "postgresql+psycopg2://")


def score(params: dict[str, Any], arm: ArmSearch) -> list[float]:
    value = sum(float(p or 0) for p in params.values() if not isinstance(p, str))
    return [value / (1 + index) for index in range(len(arm.objectives))]


def search(url: str, arm: ArmSearch, trials: int) -> list[TrialRecord]:
    """Opens the ledger anew and does so many further trials."""
    ledger = opened(url, arm)
    for _ in range(trials):
        record = ledger.ask(arm)
        ledger.tell(record, "COMPLETE", score(record.params, arm))
    return ledger.trials(arm.name)


def test_any_optuna_tool_can_read_it(url: str) -> None:
    arm = arm_search()
    ledger = opened(url, arm)
    record = ledger.ask(arm)
    key = RunKey("search", "lora", record.number, "cat-1", 0)
    ledger.set_config(record, {"method": "lora", "training": {"learning_rate": 1e-3}})
    ledger.update_run(record, key, state="RUNNING", attempts=1, folder="runs/" + key.name)
    ledger.set_mlflow_run_id(key, "abc")
    ledger.update_run(record, key, state="COMPLETE", attempts=2)
    ledger.tell(record, "COMPLETE", [0.5], metrics={"quality": 0.5, "drift": 0.1})
    failed = ledger.ask(arm)
    ledger.tell(failed, "FAIL", reason="nan_loss")

    study = optuna.load_study(study_name="sweep/lora", storage=url)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.user_attrs["method"] == "lora"
    first, second = study.trials
    assert (first.state.name, first.value) == ("COMPLETE", 0.5)
    assert first.params == record.params
    assert first.user_attrs["config"]["training"]["learning_rate"] == 1e-3
    run = {"state": "COMPLETE", "attempts": 2, "mlflow_run_id": "abc", "folder": "runs/" + key.name}
    assert first.user_attrs["runs"] == {key.name: run}
    assert first.user_attrs["metrics"] == {"quality": 0.5, "drift": 0.1}
    assert (second.state.name, second.user_attrs["reason"]) == ("FAIL", "nan_loss")


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("space", [SPACE, FINITE, CONDITIONAL], ids=["mixed", "finite", "conditional"])
def test_every_sampler_stays_in_the_space(sqlite_url: str, sampler: str, space: SearchSpace) -> None:
    """On one database: what is drawn does not depend on it."""
    if sampler == "grid" and space is not FINITE:
        pytest.skip("a grid needs finitely many values and knows no conditions")
    trials = search(sqlite_url, arm_search(space=space, sampler=sampler), 6)
    assert [trial.number for trial in trials] == list(range(6))
    for trial in trials:
        for name, dimension in space.parameters.items():
            assert (name in trial.params) == dimension.applies(trial.params)
            if name not in trial.params:
                continue
            value = trial.params[name]
            if dimension.type == "categorical":
                assert value in dimension.choices
            else:
                assert dimension.low <= value <= dimension.high
    assert len({str(sorted(trial.params.items(), key=str)) for trial in trials}) > 1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_asks_the_same_and_a_resumed_search_goes_on_alike(
    fast_path: Path, sampler: str
) -> None:
    space = FINITE if sampler == "grid" else SPACE
    arm = arm_search(sampler=sampler, space=space)
    whole = search(f"sqlite:///{fast_path / 'whole.db'}", arm, 6)
    parts = f"sqlite:///{fast_path / 'parts.db'}"
    for count in (2, 1, 3):
        resumed = search(parts, arm, count)
    assert [trial.params for trial in whole] == [trial.params for trial in resumed]
    other = search(f"sqlite:///{fast_path / 'other.db'}", replace(arm, seed=4), 6)
    assert [trial.params for trial in other] != [trial.params for trial in whole]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii"])
def test_several_objectives(url: str, sampler: str) -> None:
    arm = arm_search(objectives=("subject_fidelity", "drift"), sampler=sampler)
    trials = search(url, arm, 5)
    assert all(len(trial.values) == 2 for trial in trials)
    study = optuna.load_study(study_name="sweep/lora", storage=url)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["subject_fidelity", "drift"]


def test_a_grid_has_every_point_once_and_refuses_what_it_cannot_do(url: str) -> None:
    trials = search(url, arm_search(space=FINITE, sampler="grid", trials=9), 9)
    points = {tuple(sorted(trial.params.items())) for trial in trials}
    assert len(points) == 9
    with pytest.raises(UserError, match="grid of arm 'lora' has 9 points, fewer than its 10 trials"):
        opened(url, arm_search(space=FINITE, sampler="grid", trials=10))
    with pytest.raises(UserError, match=r"learning_rate of arm 'lora'.*step or choices"):
        opened(url, arm_search(space=SPACE, sampler="grid"))


def test_conditional_grids_list_each_point_once() -> None:
    space = SearchSpace.model_validate(
        {
            "parameters": {
                "use_ema": {"type": "categorical", "choices": [True, False]},
                "ema_decay": {"type": "categorical", "choices": [0.9, 0.99], "when": {"use_ema": True}},
            }
        }
    )
    points = grid_points(space, seed=0, arm="a")
    assert sorted(points, key=str) == sorted(
        [{"use_ema": False}, {"use_ema": True, "ema_decay": 0.9}, {"use_ema": True, "ema_decay": 0.99}],
        key=str,
    )


def test_a_driver_that_dies_while_asking_leaves_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = arm_search()
    ledger = opened(url, arm)

    def dies(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Trial, "suggest_int", dies)
    with pytest.raises(KeyboardInterrupt):
        ledger.ask(arm)
    monkeypatch.undo()
    again = opened(url, arm)
    assert again.trials("lora") == [], "a trial is written whole or not at all"
    assert again.ask(arm).params == propose(arm, []).params


def test_telling_twice_changes_nothing(url: str) -> None:
    arm = arm_search()
    ledger = opened(url, arm)
    record = ledger.ask(arm)
    ledger.tell(record, "COMPLETE", [0.7])
    told = ledger.tell(record, "FAIL", reason="late")
    assert (told.state, told.values, told.reason) == ("COMPLETE", (0.7,), None)


def test_pruned_trials_keep_their_last_value_and_are_fail_among_several_objectives(url: str) -> None:
    arm = arm_search()
    ledger = opened(url, arm)
    record = ledger.ask(arm)
    ledger.report(record, 1, 0.2)
    assert ledger.tell(record, "PRUNED", reason="asha").state == "PRUNED"
    assert optuna.load_study(study_name="sweep/lora", storage=url).trials[0].intermediate_values == {1: 0.2}

    several = arm_search(name="several", objectives=("quality", "drift"))
    ledger.open_search(several)
    told = ledger.tell(ledger.ask(several), "PRUNED")
    assert (told.state, told.reason) == ("FAIL", "pruned")


@pytest.mark.parametrize(("objective", "chosen"), [("quality", 1), ("drift", 2)])
def test_best_follows_the_direction_and_prefers_the_earlier_of_equals(
    url: str, objective: str, chosen: int
) -> None:
    arm = arm_search(objectives=(objective,))
    ledger = opened(url, arm)
    for value in (0.4, 0.9, 0.1, 0.9, 0.1):
        ledger.tell(ledger.ask(arm), "COMPLETE", [value])
    ledger.tell(ledger.ask(arm), "FAIL", reason="exception")
    best = ledger.best("lora")
    assert best is not None
    assert best.number == chosen
    assert ledger.best("unknown") is None


def test_best_of_several_objectives_is_the_front_s_trial_of_highest_quality(url: str) -> None:
    arm = arm_search(objectives=("subject_fidelity", "prompt_fidelity"))
    ledger = opened(url, arm)
    #                  dominated by the third; its quality must not count
    for values, quality in [((0.2, 0.9), 0.3), ((0.5, 0.5), 0.9), ((0.6, 0.6), 0.5), ((0.9, 0.1), 0.2)]:
        ledger.tell(ledger.ask(arm), "COMPLETE", values, metrics={"quality": quality})
    best = ledger.best("lora")
    assert best is not None
    assert best.number == 2


def test_confirm_runs_are_trials_of_their_own_study(url: str) -> None:
    arm = arm_search()
    ledger = opened(url, arm)
    record = ledger.tell(ledger.ask(arm), "COMPLETE", [0.5])
    ledger.open_confirm("lora", "lora", ("quality",))
    key = RunKey("confirm", "lora", record.number, "dog-1", 100)
    first = ledger.add_confirm(key, record.params)
    assert ledger.add_confirm(key, record.params) == first
    assert (first.state, first.subject, first.seed, first.params) == ("RUNNING", "dog-1", 100, record.params)
    ledger.tell(first, "COMPLETE", [0.4])
    (trial,) = optuna.load_study(study_name="sweep/lora/confirm", storage=url).trials
    assert trial.params == record.params
    assert trial.user_attrs["search_trial"] == record.number
    assert (ledger.arms("search"), ledger.arms("confirm")) == (["lora"], ["lora"])


def test_mlflow_run_ids_can_come_after_the_end(url: str) -> None:
    arm = arm_search()
    ledger = opened(url, arm)
    record = ledger.ask(arm)
    key = RunKey("search", "lora", 0, "cat-1", 0)
    assert ledger.mlflow_run_id(key) is None
    ledger.update_run(record, key, state="RUNNING")
    ledger.tell(record, "COMPLETE", [0.5])
    ledger.set_mlflow_run_id(key, "late")
    again = opened(url, arm)
    assert again.mlflow_run_id(key) == "late"
    assert again.trials("lora")[0].runs[key.name]["mlflow_run_id"] == "late"


def test_a_ledger_that_cannot_be_opened_is_a_user_error(fast_path: Path) -> None:
    (fast_path / "ledger.db").write_text("this is no database, but long enough to be looked at " * 10)
    with pytest.raises(UserError, match=r"ledger .sqlite database.* cannot be opened"):
        Ledger(f"sqlite:///{fast_path / 'ledger.db'}", "sweep")
    with pytest.raises(UserError, match="cannot be opened"):
        Ledger("nosuchdatabase://host/db", "sweep")
