"""Arguments and options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.watch.views import Format

if TYPE_CHECKING:
    from study.runs import Storage

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Study file (YAML), or the name of a preset.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study that was launched.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override fields, e.g. search.trials=8.")
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="STUDY_STORAGE",
        help="Folder of ledgers, runs, caches and MLflow store; or s3://bucket/prefix, gs://bucket/prefix.",
    ),
]
ReportsOption = Annotated[Path, typer.Option("--reports", help="Folder under which reports are written.")]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print rows.")]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", envvar="RAY_ADDRESS", help="Ray cluster to join; without it one is started here."
    ),
]
TrackingOption = Annotated[
    str | None,
    typer.Option("--tracking-uri", help="MLflow; default: MLFLOW_TRACKING_URI, the study file, the storage."),
]

STORAGE, REPORTS = "storage", Path("reports")


def stored(place: str, name: str) -> Storage:
    """Returns where a launched study lies; raises UserError with the known names if there is none called so."""
    from study.operations import readable_storage

    return readable_storage(place, name)
