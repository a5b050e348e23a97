"""Where results are read from: the run folders, or, if asked for, MLflow or the CSV files of an earlier report."""

from __future__ import annotations

import sys
from pathlib import Path

from study.results.frames import Results
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from study.tracking.run_ids import read_record
from trainables.errors import UserError


def load_results(
    storage: Storage,
    *,
    from_mlflow: bool = False,
    tracking_uri: str | None = None,
    csv_folder: Path | None = None,
    images: bool = True,
) -> Results:
    """Reads a study's results; all sources give the same frames.

    Args:
        storage: Names the study; its folder need not exist when `tracking_uri` or `csv_folder` is given.
        from_mlflow: Read MLflow instead of the run folders.
        tracking_uri: Read this MLflow instead of the run folders.
        csv_folder: Read what `study.results.csv_files.write_csv` wrote, an earlier report or its ``data/``.
        images: Whether sample grids are wanted.

    Raises:
        UserError: The source cannot be read, or knows no run of the study.
    """
    if csv_folder is not None:
        from study.results.csv_files import read_csv

        if from_mlflow:
            raise UserError("--from-csv and --from-mlflow name two sources of results; leave one of them out")
        return read_csv(csv_folder)
    if from_mlflow or tracking_uri:
        from study.results.from_mlflow import mlflow_results

        return mlflow_results(storage, tracking_uri, images=images)
    from study.results.from_folders import local_results

    results = local_results(storage, images=images)
    if results.frame.empty:
        raise UserError(
            f"no run of study {storage.study!r} has begun in {storage.folder}; launch it, or read MLflow "
            "(--from-mlflow) or the CSV of an earlier report (--from-csv)"
        )
    if lost := runs_without_folder(storage, set(results.frame["run_key"])):
        print(
            f"note: {lost} runs that were written to MLflow have no folder in {storage.folder} any more and are left "
            "out; --from-mlflow has them, too",
            file=sys.stderr,
        )
    return results


def runs_without_folder(storage: Storage, there: set[str]) -> int:
    """Counts the runs that MLflow was told of and that are not among those `there`: somebody removed their folders."""
    record = read_record(storage)
    if record is None:
        return 0
    names = {name for name in record.run_names() if not RunKey.parse(name).trains_classifier}
    return len(names - there)
