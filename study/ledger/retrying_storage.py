"""A storage of Optuna on a database server that may restart: every call waits until the server answers again.

Every method of Optuna's storage is one transaction. One that a lost connection broke off is tried again, with growing
pauses, for a bounded time. All but one may be repeated blindly; a trial whose creation was committed while the answer
was lost is looked for before another one is made (there is one writer: the study's driver).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.storages._rdb import models

from study.ledger.database_errors import first_line, is_away
from study.util.redaction import without_credentials
from trainables.errors import UserError

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 15.0


class SingleCreationStorage(RDBStorage):
    """Optuna's storage in a database, whose creation of a trial may be repeated: `create` makes it once.

    The look for a trial that is already there stands inside the transaction, because Optuna itself repeats a creation
    after a lost connection, too.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._creation = threading.local()

    def create(self, repeated: Callable[[], int]) -> int:
        """Returns the id of the one trial that `repeated`, which may try several times, has made."""
        self._creation.newest_before = None
        try:
            return repeated()
        finally:
            del self._creation.newest_before

    def _get_prepared_new_trial(self, study_id: int, template_trial: Any, session: Any) -> Any:
        if not hasattr(self._creation, "newest_before"):
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        found = session.query(models.TrialModel).filter(models.TrialModel.study_id == study_id)
        newest = found.order_by(models.TrialModel.trial_id.desc()).first()
        if self._creation.newest_before is None:
            self._creation.newest_before = newest.trial_id if newest is not None else -1
        elif newest is not None and newest.trial_id > self._creation.newest_before:
            return newest  # an earlier try was committed, only its answer was lost
        return super()._get_prepared_new_trial(study_id, template_trial, session)


def _repeated(name: str) -> Callable[..., Any]:
    """Returns a method that hands a call on to Optuna's storage, again and again while its server is away."""

    def method(self: RetryingStorage, *arguments: Any, **named: Any) -> Any:
        call = getattr(self._storage, name)
        return self._until_answered(lambda: call(*arguments, **named))

    return method


class RetryingStorage(BaseStorage):
    """Optuna's own storage (its cache included) with calls that wait for a server that is away.

    Args:
        database: What calls are handed on to.
        url: Of the database, for messages.
        patience: Seconds for which a call waits.
    """

    def __init__(self, database: SingleCreationStorage, url: str, patience: float) -> None:
        self._database = database
        self._storage = get_storage(database)
        self._url, self._patience = url, patience

    create_new_study = _repeated("create_new_study")
    delete_study = _repeated("delete_study")
    set_study_user_attr = _repeated("set_study_user_attr")
    set_study_system_attr = _repeated("set_study_system_attr")
    get_study_id_from_name = _repeated("get_study_id_from_name")
    get_study_name_from_id = _repeated("get_study_name_from_id")
    get_study_directions = _repeated("get_study_directions")
    get_study_user_attrs = _repeated("get_study_user_attrs")
    get_study_system_attrs = _repeated("get_study_system_attrs")
    get_all_studies = _repeated("get_all_studies")
    set_trial_param = _repeated("set_trial_param")
    set_trial_state_values = _repeated("set_trial_state_values")
    set_trial_intermediate_value = _repeated("set_trial_intermediate_value")
    set_trial_user_attr = _repeated("set_trial_user_attr")
    set_trial_system_attr = _repeated("set_trial_system_attr")
    get_trial_id_from_study_id_trial_number = _repeated("get_trial_id_from_study_id_trial_number")
    get_trial = _repeated("get_trial")
    get_all_trials = _repeated("get_all_trials")
    get_best_trial = _repeated("get_best_trial")

    def create_new_trial(self, study_id: int, template_trial: Any = None) -> int:
        """Makes a trial, one and no more, and returns its id."""
        return self._database.create(
            lambda: self._until_answered(lambda: self._storage.create_new_trial(study_id, template_trial))
        )

    def _until_answered(self, call: Callable[[], Any]) -> Any:
        deadline, pause, repeated = time.monotonic() + self._patience, FIRST_PAUSE_SECONDS, False
        while True:
            try:
                return call()
            except UpdateFinishedTrialError:
                if not repeated:
                    raise
                return True  # the first try was committed, only its answer was lost
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() + pause > deadline:
                    cause = error.__cause__ or error
                    raise UserError(
                        f"the ledger at {without_credentials(self._url)} has not answered for {self._patience:g} "
                        f"seconds: {first_line(cause)}; start its server and run the same command again: finished runs "
                        "are kept"
                    ) from None
            repeated = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
