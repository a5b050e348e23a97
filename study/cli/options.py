"""Arguments and options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from study.storage.layout import DEFAULT_STORAGE
from study.util.printing import Format
from trainables.errors import UserError
from trainables.util.process import unspeakable

if TYPE_CHECKING:
    from study.storage.layout import Storage

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Study file (YAML), or the name of a preset.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study that was launched.")]
RunArgument = Annotated[
    str, typer.Argument(help="A run as `study trials` names it: phase/arm/0000-subject-s0, or an arm.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Override fields, e.g. budget.max_train_steps=200."),
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="STUDY_STORAGE",
        help="Folder of ledgers, runs, caches and MLflow store; or s3://bucket/prefix, gs://bucket/prefix.",
    ),
]


def _utf8(reports: str | None) -> str | None:
    try:
        (reports or "").encode()
        (os.getcwd() if reports and not os.path.isabs(reports) else "").encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--reports: {unspeakable(error)}") from None
    return reports


ReportsOption = Annotated[
    str | None,
    typer.Option(
        "--reports",
        help="Folder under which reports are written; default: reports/ in the storage folder, and with a storage at "
        "a URL in the working folder.",
        show_default=False,
        callback=_utf8,
    ),
]
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

STORAGE = DEFAULT_STORAGE


def stored(location: str, name: str) -> Storage:
    """Returns where a launched study lies; raises UserError with the known names if there is none called so."""
    from study.spec.launched import readable_storage

    return readable_storage(location, name)


def named(location: str, name: str) -> Storage:
    """Returns where a study would lie, whether it does or not; raises UserError if it cannot be a study's name."""
    from study.storage.layout import storage_at
    from study.storage.run_key import is_sound_name

    if not is_sound_name(name):
        raise UserError(
            f"{name!r} cannot be the name of a study, because names become folders; see `study ls`"
        )
    return storage_at(location, name)
