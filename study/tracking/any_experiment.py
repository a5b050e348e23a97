"""Reads any experiment of MLflow, also one that this program did not make: its runs, page by page, and no artifacts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.storage.layout import sqlite_path
from study.tracking.mlflow_store import brief, configure_client
from study.util.redaction import without_credentials
from trainables.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

PAGE = 1_000  # runs of one request
_MOST_NAMED = 8


def experiment_runs(uri: str, name: str) -> Iterator[Run]:
    """Yields all active runs of an experiment, nested ones too, in the order of their start.

    Args:
        uri: A tracking URI that `study.tracking.mlflow_store.resolve_tracking_uri` has approved.
        name: The experiment's name, or its id.

    Raises:
        UserError: MLflow does not answer, or has no such experiment; with those that it has.
    """
    shown = without_credentials(uri)
    path = sqlite_path(uri)
    if path is not None and not path.exists():  # opening would create it
        raise UserError(
            f"there is no MLflow at {shown}; name it with --tracking-uri, or set MLFLOW_TRACKING_URI"
        )
    configure_client()
    import mlflow

    try:
        client = mlflow.MlflowClient(uri)
        experiment = _experiment(client, name, shown)
        yield from _pages(client, experiment)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"MLflow at {shown} cannot be read ({brief(error)}); start it, or give another --tracking-uri"
        ) from error


def _pages(client: MlflowClient, experiment: Experiment) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(
            [experiment.experiment_id],
            max_results=PAGE,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def _experiment(client: MlflowClient, name: str, shown: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    known: list[Experiment] = []
    if found is None:
        known = list(client.search_experiments(max_results=1_000))
        found = next((one for one in known if one.experiment_id == name), None)
    if found is None:
        names = [one.name for one in known]
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        hint = f"nearest: {', '.join(map(repr, near))}" if near else f"there are: {_listed(names)}"
        raise UserError(f"MLflow at {shown} has no experiment {name!r}; {hint if names else 'it has none'}")
    if found.lifecycle_stage != "active":
        raise UserError(
            f"the experiment {name!r} was deleted; restore it with: mlflow experiments restore --experiment-id "
            f"{found.experiment_id}"
        )
    return found


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more
