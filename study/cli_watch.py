"""The commands that look at a study that was launched: status, trials, best, report, ui, sync."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli_options import (
    REPORTS,
    STORAGE,
    FormatOption,
    NameArgument,
    ReportsOption,
    StorageOption,
    TrackingOption,
    stored,
)
from study.views import Format, print_rows


def status(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print how far a study is, arm by arm; works while it runs and afterwards."""
    from study.operations import status_rows

    rows = status_rows(stored(storage, name))
    print_rows(
        rows, ["arm", "phase", "planned", "complete", "running", "pruned", "failed", "best_quality"], form
    )


def trials(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print one row a run, with everything that was measured."""
    from study.columns import RUN_COLUMNS
    from study.results import rows

    found = rows(stored(storage, name))
    extra = sorted({key for row in found for key in row} - set(RUN_COLUMNS))
    shown = [
        "arm",
        "phase",
        "trial",
        "subject",
        "seed",
        "state",
        "quality",
        "subject_fidelity",
        "prompt_fidelity",
    ]
    print_rows(found, [*RUN_COLUMNS, *extra], form, shown=[*shown, "learning_rate", "train_seconds"])


def best(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print the configuration that the search chose for each arm. Its score is not a result: see the report."""
    from study.operations import best_rows

    found = best_rows(stored(storage, name))
    columns = list(dict.fromkeys(key for row in found for key in row))
    print_rows(found, columns, form)


def report(
    name: NameArgument,
    storage: StorageOption = STORAGE,
    reports: ReportsOption = REPORTS,
    tracking_uri: TrackingOption = None,
    from_csv: Annotated[
        Path | None,
        typer.Option("--from-csv", help="Folder with an earlier report's data/ instead of MLflow."),
    ] = None,
) -> None:
    """Write the report: HTML, Markdown, tables (CSV, LaTeX) and figures (PDF, SVG, PNG)."""
    from study.operations import report_study

    files = report_study(stored(storage, name), reports, tracking_uri=tracking_uri, csv_folder=from_csv)
    typer.echo(f"report: {files.html}")


def ui(
    name: NameArgument,
    storage: StorageOption = STORAGE,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: a free port from 5000 on.")
    ] = None,
    tracking_uri: TrackingOption = None,
) -> None:
    """Open the MLflow UI of a study on 127.0.0.1 (until interrupted)."""
    from study.ui import serve

    raise typer.Exit(serve(stored(storage, name), port=port, tracking_uri=tracking_uri))


def sync(name: NameArgument, storage: StorageOption = STORAGE, tracking_uri: TrackingOption = None) -> None:
    """Bring MLflow up to date from the runs' own records, or rebuild it; harmless to repeat."""
    from study.operations import sync_study

    done, left = sync_study(stored(storage, name), tracking_uri=tracking_uri)
    typer.echo(f"{done} runs are up to date in MLflow" + (f", {left} are not" if left else ""))
    raise typer.Exit(1 if left else 0)
