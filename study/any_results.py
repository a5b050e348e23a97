"""Reports of anybody's results, and of several studies side by side, as functions.

The command line prints; a notebook calls these. What a study of its own needs is in `study.api`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from study.spec.launched import readable_storage
from study.storage.layout import DEFAULT_STORAGE, storage_at
from trainables.errors import UserError

if TYPE_CHECKING:
    from study.report import ReportFiles
    from study.results.frames import Results
    from study.results.mapping import ResultMapping
    from study.results.side_by_side import Beside


def report_experiment(
    experiment: str,
    mapping: ResultMapping,
    root: str | Path = DEFAULT_STORAGE,
    reports: str | Path | None = None,
    *,
    tracking_uri: str | None = None,
    compact: bool | None = None,
) -> ReportFiles:
    """Writes the report of any MLflow experiment, also one that this program did not make.

    Args:
        experiment: Its name or id.
        mapping: What its tags, params and metrics mean; see `study.results.mapping`.
        root: The storage folder, whose MLflow is read where none is named.
        tracking_uri: None: MLFLOW_TRACKING_URI, or the storage's own store.
        compact: Whether each figure and each table is written once, and small; here and below.
    """
    from study.results.any_experiment import experiment_source
    from study.results.external import external_results
    from study.tracking.mlflow_store import resolve_tracking_uri

    uri = resolve_tracking_uri(storage_at(root, "any"), tracking_uri, study_file="")
    return _report_external(
        external_results(experiment_source(uri, experiment), mapping), root, reports, compact
    )


def report_table(
    file: Path,
    mapping: ResultMapping,
    root: str | Path = DEFAULT_STORAGE,
    reports: str | Path | None = None,
    *,
    compact: bool | None = None,
) -> ReportFiles:
    """Writes the report of any table: a CSV file with a header, one row a run.

    Args:
        mapping: What its columns mean; see `study.results.mapping`.
        root: The storage folder, under which reports lie where `reports` names no other place.
    """
    from study.results.any_table import table_source
    from study.results.external import external_results

    return _report_external(external_results(table_source(file), mapping), root, reports, compact)


def compare_studies(
    names: Sequence[str],
    root: str | Path = DEFAULT_STORAGE,
    reports: str | Path | None = None,
    *,
    compact: bool | None = None,
) -> ReportFiles:
    """Writes one report of the confirm runs of several studies of a storage, side by side.

    Raises:
        UserError: A study is not there, is named twice, or has no runs.
    """
    from study.results.loading import load_results
    from study.results.side_by_side import Beside, side_by_side
    from study.storage.study_record import sound_study_record

    if len(set(names)) < max(2, len(names)):
        raise UserError(f"--compare takes two different studies or more, got {', '.join(names) or 'none'}")
    found: list[Beside] = []
    problems: list[str] = []
    for name in names:
        try:
            storage = readable_storage(root, name)
            record = sound_study_record(storage)
            found.append(Beside(name, load_results(storage, images=False), record.get("identity") or {}))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return _report_external(side_by_side(found), root, reports, compact)


def _report_external(
    results: Results, root: str | Path, reports: str | Path | None, compact: bool | None
) -> ReportFiles:
    """Writes a report that is no study's, and over no study's."""
    from study.report import build_report, report_problems, reports_folder
    from study.storage.study_record import is_recorded

    storage = storage_at(root, str(results.meta["study"]))
    if reports is None and is_recorded(storage):
        raise UserError(
            f"the report would take the place of that of the study {storage.study!r} of this storage; name another "
            "folder with --reports"
        )
    if problems := report_problems(storage, reports):
        raise UserError(*problems)
    return build_report(results, reports_folder(storage, reports) / storage.study, compact=compact)
