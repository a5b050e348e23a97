"""Whether an MLflow server or store can be reached: before a launch without loading MLflow, later by asking it."""

from __future__ import annotations

import os
import urllib.request
from urllib.parse import urlsplit

from study.storage.layout import sqlite_file_problem, sqlite_path
from study.tracking.mlflow_store import brief, chosen_uri, configure_client, tracking_uri_problem
from study.util.disk import existing
from study.util.network import TIMEOUT, connection_problem, reason_of
from study.util.redaction import without_credentials
from trainables.errors import UserError

_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_problems(explicit: str | None, study_file: str | None = None) -> list[str]:
    """Tells whether the MLflow that a study would write to can be used; the default store always can.

    Args:
        explicit: ``--tracking-uri``; then ``MLFLOW_TRACKING_URI`` and `study_file` (``tracking.uri``) are asked.
    """
    chosen = chosen_uri(explicit, study_file)
    if chosen is None:
        return []
    origin, uri = chosen
    if problem := tracking_uri_problem(uri):
        return [f"{origin}: {problem}"]
    shown = without_credentials(uri)
    parts = urlsplit(uri)
    scheme = parts.scheme.split("+")[0]
    remedy = f"start it, correct {origin}, or leave it out for the default store"
    if scheme in ("http", "https"):
        reason = _http_problem(uri)
        return [f"the MLflow server {shown} does not answer ({reason}); {remedy}"] if reason else []
    if scheme == "sqlite":
        return [f"{origin}: {problem}; choose another"] if (problem := _sqlite_problem(uri)) else []
    if scheme in _PORTS and parts.hostname:
        reason = connection_problem(parts.hostname, parts.port or _PORTS[scheme])
        return [f"the MLflow database {shown} does not answer ({reason}); {remedy}"] if reason else []
    return []


def _sqlite_problem(uri: str) -> str | None:
    """Returns why a SQLite store cannot be used, without a remedy; None for other stores. Creates nothing."""
    path = sqlite_path(uri)
    if path is None:
        return None
    if problem := sqlite_file_problem(uri):
        return problem
    if not os.access(existing(path.parent), os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        return f"the MLflow store {path} cannot be written"
    return None


def _http_problem(uri: str) -> str | None:
    """Any answer at all, even a refusal for lack of credentials, shows that a server is there."""
    # Without user and password, which urllib would take for a part of the host's name.
    request = urllib.request.Request(without_credentials(uri).rstrip("/") + "/health", method="GET")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            return None
    except urllib.error.HTTPError as error:
        return f"it says {error.code} {error.reason}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return reason_of(reason if isinstance(reason, BaseException) else error)


def check_tracking(uri: str) -> None:
    """Raises UserError unless the tracking store answers; creates nothing (a SQLite file may be missing)."""
    shown = without_credentials(uri)
    if problem := _sqlite_problem(uri):
        raise UserError(f"{problem}; mend that, or give another --tracking-uri")
    if sqlite_path(uri) is not None:
        return
    configure_client()
    import mlflow

    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:
        raise UserError(f"MLflow does not answer at {shown} ({brief(error)}); {_remedy(error)}") from None


def _remedy(error: Exception) -> str:
    text = str(error)
    if "error code 401" in text:
        return "give user and password: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or ~/.netrc (mode 0600)"
    if "error code 403" in text:
        return "let this host in (`mlflow server --allowed-hosts HOST,HOST:PORT`), or ask for the permission"
    return (
        "start it (`mlflow server`), or give another --tracking-uri, or unset MLFLOW_TRACKING_URI to keep results in "
        "the storage"
    )
