"""Errors of the ledger's database: which of them waiting mends, and what they say in one line without credentials."""

from __future__ import annotations

from study.util.redaction import without_credentials

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
