"""The ledger's database: opened with a password that is recorded nowhere, and patient while the server restarts.

A password never stands in a URL that is recorded. It comes from ``STUDY_LEDGER_PASSWORD``, or as PostgreSQL's own
clients get it: from ``PGPASSWORD`` or the file ``~/.pgpass`` (``PGPASSFILE``).

Every method of Optuna's storage is one transaction. One that a lost connection broke off is tried again, with growing
pauses, for `PATIENCE_SECONDS`. All but one may be repeated blindly; a trial whose creation was committed while the
answer was lost is looked for before another one is made (there is one writer: the study's driver).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.util.redaction import without_credentials
from trainables.errors import UserError

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

PASSWORD_VARIABLE = "STUDY_LEDGER_PASSWORD"
LOCK_WAIT_SECONDS = 60
CONNECT_SECONDS = 10
PATIENCE_SECONDS = 300.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 15.0

# What waiting does not mend; sqlalchemy has the same class for these and for a server that is away.
_LASTING = (
    "does not support ssl",
    "password",
    "authentication",
    "does not exist",
    "no pg_hba.conf",
    "permission denied",
    "not permitted",
)
_REPEATED = (
    "create_new_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name",
    "get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs",
    "get_all_studies", "_create_new_trial", "_set_trial_param", "get_trial_id_from_study_id_trial_number",
    "_get_best_trial_id", "set_trial_state_values", "set_trial_intermediate_value", "set_trial_user_attr",
    "set_trial_system_attr", "get_trial", "_get_trials",
)  # fmt: skip


def open_storage(url: str, *, patience: float = PATIENCE_SECONDS) -> optuna.storages.BaseStorage:
    """Opens the database at an SQLAlchemy URL as a storage of Optuna, and makes its tables if it has none.

    Args:
        url: Such as ``sqlite:////abs/ledger.db`` or ``postgresql://user@host/database``.
        patience: Seconds for which a server that went away is waited for, once it has been reached.

    Raises:
        UserError: The database cannot be opened; without the password. Also raised by every later call when the
            server stays away.
    """
    import optuna
    import sqlalchemy

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        parsed = with_driver(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(
            parsed.render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True, "connect_args": _connect_arguments(parsed)},
        )
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(_cannot_open(url, error)) from None
    if not sqlite:
        _make_patient(storage, url, patience)
    return optuna.storages.get_storage(storage)


def with_driver(url: str) -> sqlalchemy.URL:
    """Returns a URL with the password of the environment, and with the PostgreSQL driver that is installed here.

    SQLAlchemy reads ``postgresql://`` as the driver psycopg (3) since 2.1; most installations have psycopg2.
    """
    import sqlalchemy

    parsed = sqlalchemy.make_url(
        "postgresql" + url.removeprefix("postgres") if url.startswith("postgres:") else url
    )
    if parsed.drivername == "postgresql":
        installed = (name for name in ("psycopg2", "psycopg") if importlib.util.find_spec(name))
        parsed = parsed.set(drivername=f"postgresql+{next(installed, 'psycopg2')}")
    password = os.environ.get(PASSWORD_VARIABLE)
    if parsed.get_backend_name() == "postgresql":
        password = password or os.environ.get("PGPASSWORD")
    if password and parsed.username and parsed.password is None and parsed.get_backend_name() != "sqlite":
        parsed = parsed.set(password=password)
    return parsed


def first_line(error: BaseException) -> str:
    """Returns the most telling line of a database's error, without credentials."""
    original = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(original).splitlines() if line.strip()]
    return without_credentials(lines[0] if lines else type(error).__name__)


def is_away(error: BaseException | None) -> bool:
    """Whether an error says that the server could not be reached or broke off; looks through its causes."""
    import sqlalchemy.exc as exc

    while error is not None:
        if isinstance(error, exc.PendingRollbackError):
            return True  # Optuna reads on after a lost connection
        if isinstance(error, exc.DBAPIError):
            if error.connection_invalidated:
                return True
            text = str(error.orig).lower()
            lost = isinstance(error, (exc.OperationalError, exc.InterfaceError))
            return lost and not any(word in text for word in _LASTING)
        error = error.__cause__
    return False


def _connect_arguments(url: sqlalchemy.URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"timeout": LOCK_WAIT_SECONDS}
    if url.get_backend_name() != "postgresql":
        return {}
    # A host that vanished without a word would else be waited for as long as the system's TCP likes: hours.
    alive = {"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 60_000, **alive}


def _cannot_open(url: str, error: Exception) -> str:
    shown = without_credentials(url)
    kind = url.partition(":")[0]
    if isinstance(error, ImportError) or type(error).__name__ == "NoSuchModuleError":
        remedy = "install its driver"
        if kind.startswith("postgres"):
            remedy += " (pip install 'diffusion-study[postgresql]')"
        return f"the ledger ({kind} database) cannot be opened: {first_line(error)}; {remedy}"
    text = str(error).lower()
    remedy = "check its URL and access"
    if "password" in text or "authentication" in text:
        remedy = f"give the password in {PASSWORD_VARIABLE}, PGPASSWORD or ~/.pgpass (mode 0600), the user in the URL"
    elif "does not exist" in text:
        remedy = "make it (`createdb NAME`, `createuser NAME`) or correct storage.ledger_url"
    elif is_away(error):
        remedy = "start the server, or correct host and port in storage.ledger_url"
    return f"the ledger ({kind} database, {shown}) cannot be opened: {first_line(error)}; {remedy}"


def _make_patient(storage: optuna.storages.RDBStorage, url: str, patience: float) -> None:
    """Lets every method of the storage wait for a server that is away."""
    for name in _REPEATED:
        setattr(storage, name, _patient(getattr(storage, name), url, patience))
    _create_once(storage)


def _patient(method: Callable[..., Any], url: str, patience: float) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        import optuna

        deadline, pause, repeated = time.monotonic() + patience, FIRST_PAUSE_SECONDS, False
        while True:
            try:
                return method(*arguments, **named)
            except optuna.exceptions.UpdateFinishedTrialError:
                if not repeated:
                    raise
                return True  # the first try was committed, only its answer was lost
            except Exception as error:
                if not is_away(error):
                    raise
                if time.monotonic() + pause > deadline:
                    cause = error.__cause__ or error
                    raise UserError(
                        f"the ledger at {without_credentials(url)} has not answered for {patience:g} seconds: "
                        f"{first_line(cause)}; start its server and run the same command again: finished runs are kept"
                    ) from None
            repeated = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    return call


def _create_once(storage: optuna.storages.RDBStorage) -> None:
    """Makes the creation of a trial repeatable; Optuna itself repeats it, too, after a lost connection."""
    from optuna.storages._rdb import models

    create, prepare = storage._create_new_trial, storage._get_prepared_new_trial
    local = threading.local()

    def prepare_once(study_id: int, template: Any, session: Any) -> Any:
        found = session.query(models.TrialModel).filter(models.TrialModel.study_id == study_id)
        newest = found.order_by(models.TrialModel.trial_id.desc()).first()
        if local.before is None:
            local.before = newest.trial_id if newest is not None else -1
        elif newest is not None and newest.trial_id > local.before:
            return newest  # an earlier try was committed, only its answer was lost
        return prepare(study_id, template, session)

    def create_once(study_id: int, template: Any = None) -> Any:
        local.before = None
        return create(study_id, template)

    storage._get_prepared_new_trial = prepare_once
    storage._create_new_trial = create_once
