"""Records from any experiment of MLflow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from study.results.records import PARAMS, Record, Source
from study.storage.run_key import State
from study.tracking.any_experiment import experiment_runs
from study.util.redaction import without_credentials
from trainables.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

PARENT = "mlflow.parentRunId"
_STATES: dict[str, State] = {"FINISHED": "COMPLETE", "FAILED": "FAIL", "KILLED": "FAIL"}


def experiment_source(uri: str, name: str) -> Source:
    """Reads an experiment: of each run its params, its tags and the last value of each metric.

    Raises:
        UserError: MLflow does not answer, has no such experiment, or that has no runs.
    """
    records = records_of(experiment_runs(uri, name))
    if not records:
        raise UserError(f"the MLflow experiment {name!r} has no runs (deleted ones do not count)")
    return Source(
        f"the MLflow experiment {name!r}",
        name,
        records,
        "tag or param",
        "metric",
        (PARAMS, "tags."),
        origin={"tracking_uri": without_credentials(uri)},
    )


def records_of(runs: Iterable[Any]) -> list[Record]:
    """Makes records of MLflow's runs."""
    return [_record(run) for run in runs]


def _record(run: Any) -> Record:
    tags, params = run.data.tags, run.data.params
    return Record(
        key=run.info.run_id,
        fields={
            **{f"{PARAMS}{name}": text for name, text in params.items()},
            **{f"tags.{name}": text for name, text in tags.items()},
        },
        metrics={name: value for name, value in run.data.metrics.items() if math.isfinite(value)},
        state=_STATES.get(run.info.status, "RUNNING"),
        parent=tags.get(PARENT),
        reason=f"MLflow's status is {run.info.status}",
    )
