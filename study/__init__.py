"""Which runs happen and what they mean: study file, plan, ledger, Ray, MLflow, results, reports.

The functions of a notebook are here: ``load_study``, ``launch``, ``load_results``, ``Figures``, ``build_report``, and
for weights that no stock tool loads ``load_hypernetwork``. Each loads what it needs on first use.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"]:  # Python looks for a command of this package, and has put the working folder first
    from trainables.util.import_paths import forget_working_folder

    forget_working_folder()

from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.storage.layout import DEFAULT_STORAGE

if TYPE_CHECKING:
    from study.api import Launched
    from study.report import Figures, build_report
    from study.results.frames import Results
    from study.spec.loading import load_study
    from study.spec.study_spec import StudySpec
    from trainables.methods.hypernetwork_files import load_hypernetwork, unload_hypernetwork

__all__ = [
    "Figures",
    "build_report",
    "launch",
    "load_hypernetwork",
    "load_results",
    "load_study",
    "unload_hypernetwork",
]


def launch(
    study: str | Path | StudySpec, *overrides: str, storage: str | Path = DEFAULT_STORAGE, **options: Any
) -> Launched:
    """Runs or resumes a study; see `study.api.launch_study` for the options and the result."""
    from study.api import launch_study

    return launch_study(study, overrides, storage, **options)


def load_results(name: str, *, storage: str | Path = DEFAULT_STORAGE, **options: Any) -> Results:
    """Returns the results of a study that was launched; options: `study.results.loading.load_results`."""
    from study.remote.working_copy import refresh
    from study.results.loading import load_results as load
    from study.spec.launched import readable_storage
    from study.storage.layout import storage_at

    if isinstance(options.get("csv_folder"), str):
        options["csv_folder"] = Path(options["csv_folder"])
    if not any(options.get(name) for name in ("from_mlflow", "tracking_uri", "csv_folder")):
        return load(readable_storage(storage, name), **options)
    found = storage_at(storage, name)
    if found.url is not None and options.get("csv_folder") is None:
        refresh(found)
    return load(found, **options)


def __getattr__(name: str) -> Any:
    if name == "load_study":
        from study.spec.loading import load_study

        return load_study
    if name in ("Figures", "build_report"):
        from study import report

        return getattr(report, name)
    if name in ("load_hypernetwork", "unload_hypernetwork"):
        from trainables.methods import hypernetwork_files

        return getattr(hypernetwork_files, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
