"""What broke a launch off, in a line that a user can act on."""

from __future__ import annotations

from study.ledger.database_errors import first_line
from study.storage.layout import LEDGER_FILE
from trainables.errors import UserError
from trainables.storage_errors import storage_failure

# Of SQLite's own words.
_REMEDIES = {
    "database or disk is full": "; make room",
    "disk I/O error": "; check the disk, and make room",
    "attempt to write a readonly database": "; make the study's folder writable",
    "database is locked": "; end the other process that holds it (`fuser` names it)",
    "database disk image is malformed": f"; put a sound copy of {LEDGER_FILE} in its place",
}


def what_failed(error: BaseException) -> str:
    """Returns what went wrong in a line, with the remedy where the storage or the ledger is to blame."""
    lines = str(error).strip().splitlines() or [""]
    return records_failed(error) or f"{type(error).__name__}: {lines[-1]}"


def records_failed(error: BaseException) -> str | None:
    """Returns what went wrong, and the remedy, if an error comes from storage or ledger; None for any other."""
    cause: BaseException | None = error
    while cause is not None:
        if failure := storage_failure(cause):
            return failure
        if type(cause).__module__.startswith("sqlalchemy"):
            said = first_line(cause)
            return f"the ledger failed: {said}{_REMEDIES.get(said, '')}"
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return None
