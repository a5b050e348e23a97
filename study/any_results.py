"""Reports of anybody's results, and of several studies side by side, as functions.

The command line prints; a notebook calls these. What a study of its own needs is in `study.api`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from study.spec.launched import readable_storage
from study.storage.layout import DEFAULT_STORAGE, META_JSON, REPORT_DATA, REPORTS, storage_at
from study.storage.run_key import is_sound_name
from trainables.errors import UserError
from trainables.util.process import expanded

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
    """Writes one report of the runs that are compared in several studies or reports, side by side.

    Studies of this program keep all of their measures, and are paired by subject and seed. Where one of them is a
    report of others' results, the measures are those that all have, and arms are paired by subject.

    Args:
        names: Of each the name of a study of the storage, or the folder of a report (which holds ``data/``). A name
            that is both is the study; ``./NAME`` is the folder.
        root: The storage folder, which need not be there where all are folders.

    Raises:
        UserError: One of them is not there, is named twice, or has no runs; or they have no measure in common.
    """
    from study.results.beside_others import beside_others
    from study.results.side_by_side import side_by_side

    if len(set(names)) < max(2, len(names)):
        raise UserError(f"--compare takes two different studies or more, got {', '.join(names) or 'none'}")
    found: list[_Named] = []
    problems: list[str] = []
    for name in names:
        try:
            found.append(_named(name, root))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    besides = _told_apart(found)
    together = beside_others if any(one.results.meta.get("external") for one in besides) else side_by_side
    return _report_external(together(besides), root, reports, compact)


@dataclass(frozen=True)
class _Named:
    """One of those that are compared: as it was named, its data folder unless it is in the storage, and what it is."""

    given: str
    data: Path | None
    beside: Beside


def _named(name: str, root: str | Path) -> _Named:
    """Reads a study of the storage, or a folder of a report.

    Raises:
        UserError: There is neither, or what there is cannot be compared.
    """
    from study.results.csv_files import holds_report
    from study.results.loading import load_results
    from study.results.side_by_side import Beside
    from study.storage.study_record import sound_study_record

    folder = expanded(name)
    if is_sound_name(name):
        try:
            storage = readable_storage(root, name)
        except UserError as error:
            if not holds_report(folder):
                remedy = _folder_remedy(name, root)
                raise UserError(*(f"{problem}{remedy}" for problem in error.problems)) from None
        else:
            record = sound_study_record(storage)
            results = load_results(storage, images=False)
            return _Named(name, None, Beside(name, results, record.get("identity") or {}))
    return _report_named(name, folder)


def _report_named(given: str, folder: Path) -> _Named:
    """Reads what a report's folder holds."""
    from study.results.csv_files import data_folder, read_csv
    from study.results.external import folder_name
    from study.results.side_by_side import Beside

    if not folder.exists():
        raise UserError(
            f"there is no folder {given}; name the folder of a report, which holds {REPORT_DATA}/, or a study of the "
            "storage"
        )
    results = read_csv(folder)
    data = data_folder(folder)
    facts = results.meta.get("external")
    if not facts and not results.meta.get("spec"):
        raise UserError(
            f"{data} has no {META_JSON} that says what was compared; take it from the report again, or make the report "
            "anew"
        )
    if facts and facts.get("studies"):
        raise UserError(
            f"{given} is a report of several already ({', '.join(facts['studies'])}); name these themselves"
        )
    name = folder_name(str(results.meta.get("study") or folder.resolve().name))
    return _Named(given, data.resolve(), Beside(name, results))


def _folder_remedy(name: str, root: str | Path) -> str:
    """What to name in the place of a study that the storage does not have."""
    from study.report import reports_folder
    from study.results.csv_files import holds_report

    shipped, written = Path(REPORTS) / name, reports_folder(storage_at(root, name)) / name
    for folder in (shipped, written):
        if holds_report(folder):
            return f"; there is a report of that name, whose folder can be given instead: {folder}"
    return "; the folder of a report can be given, too"


def _told_apart(found: Sequence[_Named]) -> list[Beside]:
    """What is compared, each with a name of its own, and all known as well as the one of which least is known.

    A report's folder says what a study file says, and not what lies in the folders of its images. Beside one, subjects
    of the storage's studies are the same by their study files, too.

    Raises:
        UserError: The same report is named twice.
    """
    folders = [one.data for one in found if one.data is not None]
    if twice := [one.given for one in found if one.data is not None and folders.count(one.data) > 1]:
        raise UserError(
            f"--compare takes two different studies or more, and {', '.join(twice)} are one report"
        )
    names = [one.beside.name for one in found]
    told = []
    for one in found:
        is_clear = one.data is None or names.count(one.beside.name) == 1
        name = one.beside.name if is_clear else _name_by_place(one)
        identity = {} if folders else one.beside.identity
        told.append(replace(one.beside, name=name, identity=identity))
    return told


def _name_by_place(one: _Named) -> str:
    """The path of a report as a name, for one of several that bear the same: e.g. "reports-methods"."""
    from study.results.external import folder_name

    return folder_name(one.given if any(part.isalnum() for part in one.given) else str(one.data))


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
