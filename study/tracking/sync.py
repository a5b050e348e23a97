"""``study sync``: MLflow from the runs' own records, whatever it held before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.storage.driver_record import read_driver
from study.storage.layout import Storage
from study.storage.study_record import frozen_spec
from study.tracking.mirror import BusyError, Mirror, OutageError
from study.tracking.mlflow_store import (
    brief,
    configure_client,
    resolve_tracking_uri,
    tracking_command,
)
from study.tracking.progress import write_state
from study.tracking.reachable import check_tracking
from study.tracking.run_ids import RunIds, TrackingRecord
from study.util.redaction import without_credentials
from trainables.errors import UserError

_RUNNING = "study {study} is running and writes to MLflow itself; sync when it has ended"


@dataclass(frozen=True)
class SyncCounts:
    """What a sync did.

    Attributes:
        runs: Runs that are now up to date in MLflow.
        created: Runs that MLflow did not have.
        left: Names of runs that could not be written, with `problem`.
    """

    runs: int
    created: int
    events: int
    metrics: int
    images: int
    left: tuple[str, ...] = ()
    problem: str | None = None


def sync(
    storage: Storage,
    tracking_uri: str | None = None,
    *,
    ids: RunIds | None = None,
    hypotheses: Sequence[Mapping[str, Any]] = (),
) -> SyncCounts:
    """Brings MLflow up to date from the event files, or rebuilds a study in an empty store; repeating
    changes nothing.

    Args:
        tracking_uri: Another store than the study's own.
        ids: Told the MLflow run ids, if the store is the study's own.
        hypotheses: See `Mirror`.

    Raises:
        UserError: The store does not answer, or a running study writes to it now.
    """
    driver = read_driver(storage)
    if storage.url is not None and driver is not None and driver.life(storage) == "alive":
        raise UserError(_RUNNING.format(study=storage.study))  # its lock may lie on another machine
    uri = resolve_tracking_uri(storage, tracking_uri)
    check_tracking(uri)
    configure_client()
    limit = ((frozen_spec(storage) or {}).get("tracking") or {}).get("log_weights_limit_mb", 32)
    own = uri == resolve_tracking_uri(storage)
    record = TrackingRecord(storage)
    told = ((record, ids) if ids is not None else (record,)) if own else ()
    mirror = Mirror(storage, uri, record, ids=told, hypotheses=hypotheses, log_weights_limit_mb=limit)
    mirror.add_all()
    try:
        mirror.update()
        mirror.update()  # a run that was deleted in MLflow meanwhile is made anew by the second pass
        mirror.finish()
    except BusyError:
        raise UserError(_RUNNING.format(study=storage.study)) from None
    except OutageError as error:
        raise UserError(
            f"MLflow stopped to answer: {brief(error)}; run `{tracking_command('sync', storage, uri)}` again later"
        ) from None
    finally:
        mirror.release()
    left = tuple(mirror.pending())
    counts = mirror.counts
    if own:
        write_state(storage, without_credentials(uri), len(left), mirror.first_problem())
    total = mirror.number_of_runs() - len(left)
    return SyncCounts(
        total, counts.created, counts.events, counts.metrics, counts.images, left, mirror.first_problem()
    )
