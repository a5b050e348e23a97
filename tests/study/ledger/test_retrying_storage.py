"""The storage that waits for its server, on a SQLite file whose answers are lost on purpose.

What a real server does to it: tests/servers/test_ledger_on_postgres.py.
"""

from __future__ import annotations

import inspect
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import TrialState

from study.ledger import retrying_storage
from study.ledger.database import open_storage
from study.ledger.retrying_storage import RetryingStorage, SingleCreationStorage
from trainables.errors import UserError

URL = "postgresql://someone:geheim@db/ledger"


class Commits:
    """Lets as many commits of what was written fail as `lost` says: before they are done, or after."""

    def __init__(self, dialect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost, self.after = 0, True
        self._commit: Callable[[Any], None] = dialect.do_commit
        monkeypatch.setattr(dialect, "do_commit", self._answer)

    def _answer(self, connection: Any) -> None:
        wrote = connection.in_transaction  # a transaction that only reads does not begin in SQLite
        if self.lost and wrote and not self.after:
            self.lost -= 1
            raise sqlite3.OperationalError("server closed the connection unexpectedly")
        self._commit(connection)
        if self.lost and wrote:
            self.lost -= 1
            raise sqlite3.OperationalError("server closed the connection unexpectedly")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying_storage, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(
        "time.sleep", lambda seconds: None
    )  # Optuna pauses for seconds between tries of its own


@pytest.fixture
def database(tmp_path: Path) -> SingleCreationStorage:
    return SingleCreationStorage(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.fixture
def commits(database: SingleCreationStorage, monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(database.engine.dialect, monkeypatch)


@pytest.fixture
def study(database: SingleCreationStorage, commits: Commits) -> optuna.Study:
    return optuna.create_study(storage=RetryingStorage(database, URL, 5.0), study_name="one")


@pytest.mark.parametrize(
    ("after", "times"), [(False, 1), (False, 3), (True, 1)], ids=["not committed", "thrice", "committed"]
)
def test_a_trial_is_made_once(study: optuna.Study, commits: Commits, after: bool, times: int) -> None:
    for number in range(3):
        commits.after, commits.lost = after, times
        assert study.ask().number == number
        assert commits.lost == 0
    assert [trial.number for trial in study.get_trials()] == [0, 1, 2]


def test_without_a_lost_answer_every_creation_is_another_trial(study: optuna.Study) -> None:
    template = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"a": 1})
    made = [study._storage.create_new_trial(study._study_id, template_trial=template) for _ in range(3)]
    assert len(set(made)) == 3
    assert study._storage.get_trial(made[1]).user_attrs == {"a": 1}


@pytest.mark.parametrize("after", [False, True], ids=["not committed", "committed"])
def test_writes_are_repeated(study: optuna.Study, commits: Commits, after: bool) -> None:
    trial = study.ask()

    def losing(write: Callable[[], Any]) -> None:
        commits.after, commits.lost = after, 1
        write()
        assert commits.lost == 0

    losing(lambda: trial.suggest_float("x", 0, 1))
    losing(lambda: trial.set_user_attr("note", "kept"))
    losing(lambda: trial.report(0.25, 1))
    losing(lambda: study.set_user_attr("arm", "lora"))
    losing(lambda: study.tell(trial, 0.5))
    (found,) = optuna.load_study(study_name="one", storage=study._storage).get_trials()
    assert (found.state, found.value) == (TrialState.COMPLETE, 0.5)
    assert (found.user_attrs, found.intermediate_values) == ({"note": "kept"}, {1: 0.25})
    assert study.user_attrs == {"arm": "lora"}


def test_a_study_whose_creation_was_not_answered_is_found(
    database: SingleCreationStorage, commits: Commits
) -> None:
    commits.lost = 1
    storage = RetryingStorage(database, URL, 5.0)
    optuna.create_study(storage=storage, study_name="one", load_if_exists=True)
    assert optuna.get_all_study_names(storage) == ["one"]


def test_a_finished_trial_is_refused_as_optuna_does(study: optuna.Study) -> None:
    trial = study.ask()
    study.tell(trial, 0.5)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        study._storage.set_trial_user_attr(trial._trial_id, "late", 1)


def test_a_server_that_stays_away_is_named_without_its_password(
    database: SingleCreationStorage, commits: Commits
) -> None:
    study = optuna.create_study(storage=RetryingStorage(database, URL, 0.0), study_name="one")
    commits.lost = 1000
    with pytest.raises(
        UserError, match=r"has not answered for 0 seconds: server closed the connection"
    ) as caught:
        study.set_user_attr("arm", "lora")
    assert "run the same command again: finished runs are kept" in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_what_waiting_does_not_mend_is_raised_at_once(
    study: optuna.Study, database: SingleCreationStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def refuse(connection: Any) -> None:
        tries.append(connection)
        raise sqlite3.OperationalError("permission denied for table trials")

    monkeypatch.setattr(database.engine.dialect, "do_commit", refuse)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.set_user_attr("arm", "lora")
    assert len(tries) == 1


def test_every_method_that_reaches_the_database_is_handed_on() -> None:
    """What the class does not define comes from `BaseStorage`, which builds it from what is defined."""
    own = {name for name, value in vars(RetryingStorage).items() if inspect.isfunction(value)}
    wanted = {
        name for name in vars(_CachedStorage) if hasattr(BaseStorage, name) and not name.startswith("_")
    }
    assert wanted - own == set()
    assert own - {"__init__", "_until_answered"} == wanted


def test_a_database_file_needs_no_waiting(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert isinstance(storage, _CachedStorage)
    assert type(storage._backend) is RDBStorage
