"""The ledger's database: opened with a password that is recorded nowhere, and patient while the server restarts.

A password never stands in a URL that is recorded. It comes from ``STUDY_LEDGER_PASSWORD``, or as PostgreSQL's own
clients get it: from ``PGPASSWORD`` or the file ``~/.pgpass`` (``PGPASSFILE``).

What waits for a server is `study.ledger.retrying_storage`.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.ledger.database_errors import first_line, is_away
from study.util.redaction import without_credentials
from trainables.errors import UserError

if TYPE_CHECKING:
    import optuna
    import sqlalchemy

PASSWORD_VARIABLE = "STUDY_LEDGER_PASSWORD"
LOCK_WAIT_SECONDS = 60
CONNECT_SECONDS = 10
PATIENCE_SECONDS = 300.0


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

    from study.ledger.retrying_storage import RetryingStorage, SingleCreationStorage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        parsed = with_driver(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        arguments = {
            "url": parsed.render_as_string(hide_password=False),
            "engine_kwargs": {"pool_pre_ping": True, "connect_args": _connect_arguments(parsed)},
        }
        if sqlite:
            return optuna.storages.get_storage(optuna.storages.RDBStorage(**arguments))
        return RetryingStorage(SingleCreationStorage(**arguments), url, patience)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError, ValueError) as error:
        raise UserError(_cannot_open(url, error)) from None


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
