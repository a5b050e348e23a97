"""What the commands do, as functions: launch, report, status, sync. The command line prints; a notebook calls these.

This is where the packages meet: the study file, the checks, Ray, MLflow, the terminal and the report.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.cluster.capacity import first_limit
from study.preflight.checks import check_study
from study.preflight.downstream import classifier_step_seconds
from study.preflight.plan import Plan, make_plan
from study.preflight.probe import probe_machine
from study.spec.launched import readable_storage, storage_of, stored_spec
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import (
    ARMS_CSV,
    DEFAULT_STORAGE,
    REPORT_FIGURES,
    REPORT_TABLES,
    Storage,
    storage_at,
)
from trainables.errors import UserError
from trainables.evaluation.metrics_table import QUALITY

if TYPE_CHECKING:
    from rich.console import Console

    from study.monitor.live_view import ProgressView
    from study.monitor.status import StudyStatus
    from study.report import Recommendation, ReportFiles
    from study.results.frames import Results
    from study.storage.planned_run import PlannedRun
    from study.storage.run_key import RunKey
    from study.tracking.tracker import Tracker


@dataclass(frozen=True)
class Launched:
    """How a launch ended.

    Attributes:
        exit_code: 0; 1 if a run failed or the launch was interrupted by its budget; 130 if by a signal.
        lines: What a person wants to know now: failures, the report's path, the command of the UI.
        table: Rows of the result table (confirm runs), empty without a report.
        verdict: The headline of the report, empty without one.
    """

    exit_code: int
    lines: list[str] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)
    verdict: str = ""


def launch_study(
    file: str | Path | StudySpec,
    overrides: Sequence[str] = (),
    root: str | Path = DEFAULT_STORAGE,
    *,
    address: str | None = None,
    tracking_uri: str | None = None,
    reports: str | Path | None = None,
    report: bool = True,
    console: Console | None = None,
    ray_dashboard: bool = False,
) -> Launched:
    """Runs or resumes a study and writes its report.

    Args:
        root: The storage folder, or its URL.
        reports: Folder of reports; None: ``reports/`` in the storage folder (see `study.report.report_folder`).
        report: Whether a report is written at the end.
        ray_dashboard: Start Ray's dashboard with the cluster of this machine.

    Raises:
        UserError: Something about the study, the machine or the servers; nothing was written then.
    """
    from study.preflight.checks import check_study
    from study.preflight.notes import print_notes, study_notes
    from study.report import report_problems

    spec = file if isinstance(file, StudySpec) else load_study(file, overrides)
    storage = storage_of(spec, root)
    problems = check_study(spec, root, address=address, tracking_uri=tracking_uri)
    if problems := problems + (report_problems(storage, reports) if report else []):
        raise UserError(*problems)
    print_notes(study_notes(spec))

    from study.driver.launch import launch
    from study.preflight.forecast import forecast
    from study.tracking.mlflow_store import resolve_tracking_uri, tracking_command

    uri = resolve_tracking_uri(storage, tracking_uri, spec.tracking.uri)
    watchers = _Watchers(spec, storage, uri, console)
    expected = forecast(spec, storage, local=address is None)
    try:
        outcome = launch(spec, storage, address=address, listeners=(watchers,), dashboard=ray_dashboard)
        try:
            watchers.open()  # also where nothing was left to run: an earlier launch may have left MLflow behind
        except OSError:
            if not outcome.interrupted:  # else it may be the disk that is full, and that has been said
                raise
    except KeyboardInterrupt:  # the second signal
        watchers.close(at_once=True)
        raise
    finally:
        watchers.close()
    if expected is not None and outcome.ended and not outcome.interrupted:  # below the live view, not in it
        print(expected.against(outcome.seconds, outcome.ended), file=sys.stderr, flush=True)
    lines = _failures(storage, outcome.failed) + list(outcome.notes)
    lines += [message for message in [watchers.unsynced(), outcome.message] if message]
    if outcome.interrupted:
        return Launched(130 if "interrupted by" in (outcome.message or "") else 1, lines)
    table: list[dict[str, Any]] = []
    verdict = ""
    unwritten = False
    if report:
        try:
            files = report_study(storage, reports)
        except (
            UserError
        ) as error:  # the place was sound before the training; the runs are none the worse for it
            unwritten = True
            lines += [*error.problems, f"write the report with: {storage.command('report')}"]
        else:
            table, verdict = result_table(files.folder), files.verdict.headline
            lines += [
                f"report: {files.html}",
                f"tables: {files.folder / REPORT_TABLES}",
                f"figures: {files.folder / REPORT_FIGURES}",
            ]
    lines.append(f"MLflow UI: {tracking_command('ui', storage, uri)}")
    without_result = [arm for arm in spec.arms if spec.confirm.seeds and not _confirmed(storage, arm)]
    return Launched(1 if outcome.failed or without_result or unwritten else 0, lines, table, verdict)


class _Watchers:
    """Terminal and MLflow, opened with the first run: a launch that is refused writes and shows nothing."""

    def __init__(self, spec: StudySpec, storage: Storage, uri: str, console: Console | None) -> None:
        self._spec, self._storage, self._uri, self._console = spec, storage, uri, console
        self._tracker: Tracker | None = None
        self._view: ProgressView | None = None

    def open(self) -> None:
        """Opens both, once."""
        if self._tracker is not None:
            return
        from study.ledger.open_ledger import open_ledger
        from study.monitor.live_view import ProgressView
        from study.monitor.status import StatusReader
        from study.tracking.tracker import Tracker

        self._tracker = Tracker(
            self._storage,
            self._uri,
            ids=open_ledger(self._spec, self._storage),
            hypotheses=_stated(self._spec, self._storage),
            log_weights_limit_mb=self._spec.tracking.log_weights_limit_mb,
        )
        self._view = ProgressView(StatusReader(self._storage, self._spec), self._console)
        self._view.start()

    def watch(self, run: PlannedRun) -> None:
        """See `study.storage.planned_run.RunListener`."""
        self.open()
        assert self._tracker is not None
        self._tracker.watch(run)

    def close(self, *, at_once: bool = False) -> None:
        """Closes both; MLflow gets a bounded time to catch up, or none."""
        if self._view is not None:
            self._view.close(at_once=at_once)
        if self._tracker is not None:
            self._tracker.close(at_once=at_once)

    def unsynced(self) -> str | None:
        """What MLflow did not get, and the remedy."""
        return self._tracker.message() if self._tracker is not None else None


def report_study(
    storage: Storage,
    reports: str | Path | None = None,
    *,
    from_mlflow: bool = False,
    tracking_uri: str | None = None,
    csv_folder: Path | None = None,
    compact: bool | None = None,
) -> ReportFiles:
    """Writes the report of a study: from its run folders, or from another source that is named.

    Args:
        reports: Folder of reports; None: ``reports/`` in the storage folder (see `study.report.report_folder`).
        from_mlflow, tracking_uri: Read MLflow; see `study.results.loading.load_results`.
        csv_folder: An earlier report, or its ``data/``; the storage then only gives name and place of the new one.
        compact: Whether each figure and each table is written once, and small; None: as the earlier report.
    """
    from study.report import build_report, reports_folder
    from study.results.loading import load_results

    target = reports_folder(storage, reports) / storage.study
    results = load_results(storage, from_mlflow=from_mlflow, tracking_uri=tracking_uri, csv_folder=csv_folder)
    if not (from_mlflow or tracking_uri or csv_folder):  # the others bring what was stated with them
        with contextlib.suppress(UserError):  # a study of an earlier version, of which nothing was stated
            results.meta.update(_hypotheses(stored_spec(storage), storage))
    if csv_folder is not None and (other := _other_study(results, storage.study)):
        raise UserError(
            f"{csv_folder} holds the results of study {other!r}, not of {storage.study!r}; write `study report {other} "
            "--from-csv ...`"
        )
    return build_report(results, target, compact=compact)


def _hypotheses(spec: StudySpec, storage: Storage) -> dict[str, Any]:
    """The part of the results' metadata that holds what was stated; empty where nothing was."""
    found = _stated(spec, storage)
    return {"hypotheses": found} if found else {}


def _stated(spec: StudySpec, storage: Storage) -> list[dict[str, Any]]:
    """The hypotheses of a study with the time of their statement: by its ledger, or else by its record alone."""
    from study.ledger.stated import stated_in

    found = [one.as_json() for one in stated_in(spec, storage)]
    told = {one["digest"] for one in found}
    unknown = [one for one in spec.statements if one.digest not in told]
    return found + [{"statement": one.as_json(), "digest": one.digest} for one in unknown]


def _other_study(results: Results, name: str) -> str | None:
    """What the study is called that results are of, if it is not `name`."""
    names = {str(results.meta["study"])} if "study" in results.meta else set(results.frame["study"])
    return None if not names or name in names else min(names)


def status_reader(storage: Storage, location: str | Path | None = None) -> Callable[[], StudyStatus]:
    """Returns what looks at a study each time that it is called; see `study.monitor.status`.

    Args:
        location: A ``--storage`` from which the study's files are fetched anew at each look, if it is a URL.
    """
    from study.monitor.status import StatusReader

    reader = StatusReader(storage, stored_spec(storage))
    looks = 0

    def look() -> StudyStatus:
        nonlocal looks
        looks += 1
        if storage.url is not None and location is not None and looks > 1:
            readable_storage(location, storage.study)
        return reader.look()

    return look


def study_status(storage: Storage) -> StudyStatus:
    """Returns everything that `study status` shows of a study now."""
    return status_reader(storage)()


def status_rows(storage: Storage) -> list[dict[str, Any]]:
    """Returns one row per arm and phase: runs planned, by state, and the best quality of the search."""
    return study_status(storage).arms


def best_rows(storage: Storage) -> list[dict[str, Any]]:
    """Returns, for each search that has a complete trial, the configuration that it chose."""
    from study.ledger.ledger import Ledger

    spec = stored_spec(storage)
    ledger = Ledger(spec.storage.ledger_url or storage.ledger_url, spec.name)
    chosen = []
    for arm in ledger.arms():
        for repeat in range(ledger.searches(arm)):
            trial = ledger.best(arm, repeat)
            if trial is None:
                continue
            values = dict(zip(spec.search.metrics, trial.values, strict=False))
            scores = {f"search_{name}": value for name, value in values.items()}
            which = {"search": repeat + 1} if spec.search.repeats > 1 else {}
            row = {"arm": arm, "method": spec.arms[arm].method, **which, "trial": trial.number}
            chosen.append({**row, **scores, **trial.params})
    return chosen


def best_within(storage: Storage, budget: str, out: Path | None = None) -> tuple[Recommendation, str]:
    """Returns the arm to take within limits, and how to train its configuration.

    Args:
        budget: Such as ``peak_memory<8GB, train_seconds<600``.
        out: Where a file for ``python -m trainables`` is written that trains the configuration; None: nowhere.

    Raises:
        UserError: A limit cannot be read, no arm keeps them all, or the file cannot be written.
    """
    from study.export.run_file import write_run_file
    from study.report import arm_within
    from study.results.loading import load_results

    found = arm_within(budget, lambda: load_results(storage, images=False))
    if out is None:
        file = f"{found.arm}.yaml"
        write = storage.command("best", "--budget", budget, "--out", file)
        return found, f"to train it: {write} && python -m trainables {shlex.quote(file)}"
    write_run_file(storage, found.chosen.run_key, out, found.chosen.words())
    return found, f"to train it: python -m trainables {shlex.quote(str(out))}"


def sync_study(storage: Storage, *, tracking_uri: str | None = None) -> tuple[int, int]:
    """Brings MLflow up to date; returns how many runs are and how many could not be brought up to date."""
    from study.ledger.open_ledger import open_ledger
    from study.tracking.sync import sync

    spec = stored_spec(storage)
    ledger, stated = open_ledger(spec, storage), _stated(spec, storage)
    counts = sync(storage, tracking_uri, ids=ledger, hypotheses=stated)
    return counts.runs, len(counts.left)


def _confirmed(storage: Storage, arm: str) -> bool:
    from study.storage.run_result import read_result

    results = (read_result(path) for path in storage.arm_folder("confirm", arm).glob("*"))
    return any(result is not None and result.state == "COMPLETE" for result in results)


def _failures(storage: Storage, failed: Sequence[tuple[RunKey, str]]) -> list[str]:
    """Names each failed run with its reason, where it failed and in which attempt, and how to see more."""
    from study.storage.attempts import where_failed

    lines = [f"FAIL {key.name}: {reason}, {where_failed(storage.run_folder(key))}" for key, reason in failed]
    return [*lines, f"why: {storage.command('logs', 'RUN')}"] if lines else []


def result_table(folder: Path) -> list[dict[str, Any]]:
    """Returns the main table of a report in a form that fits 80 columns: a row an arm, quality with its interval.

    Fidelities are those of its columns, which are not scaled where no run has a quality.
    """
    import csv

    with (folder / REPORT_TABLES / ARMS_CSV).open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    means = {
        "subject": ("subject_fidelity_scaled", "subject_fidelity"),
        "prompt": ("prompt_fidelity_scaled", "prompt_fidelity"),
        "class": ("class_kept",),
        "train s": ("train_seconds",),
    }
    return [
        {
            "arm": row["arm"],
            "n": row.get("n"),
            QUALITY: _number(row.get(QUALITY)),
            "95 %": _interval(row.get(f"{QUALITY}_low"), row.get(f"{QUALITY}_high")),
            **{
                title: _number(next((row[name] for name in names if name in row), None))
                for title, names in means.items()
            },
        }
        for row in found
    ]


def _number(text: str | None) -> float | None:
    return float(f"{float(text):.3g}") if text else None


def _interval(low: str | None, high: str | None) -> str | None:
    return f"{float(low):z.2f} .. {float(high):z.2f}" if low and high else None


def plan_study(
    file: str | Path | StudySpec,
    overrides: Iterable[str] = (),
    root: str | Path = DEFAULT_STORAGE,
    *,
    address: str | None = None,
    probe: bool = True,
) -> Plan:
    """Checks a study and returns what its launch would do.

    Args:
        file: As for `load_study`; or a study.
        root: The storage folder, or its URL.
        address: Of a Ray cluster, which is joined to see its size; its machines are not probed.
        probe: Whether to measure this machine for the estimates of time and memory.

    Raises:
        UserError: With every problem of the study.
    """
    spec = file if isinstance(file, StudySpec) else load_study(file, overrides)
    problems = check_study(spec, root, address=address)
    if problems:
        raise UserError(*problems)
    storage = storage_at(root, spec.name)
    if storage.url is not None:
        from study.remote.working_copy import refresh

        refresh(storage)
    if address:
        from study.cluster.ray_cluster import cluster

        with cluster(address) as joined:
            at_once = first_limit(spec.resources, joined.nodes, local=False)
        return make_plan(spec, storage, at_once=at_once)
    measured = probe_machine(spec, storage) if probe else None
    steps = classifier_step_seconds(spec, storage, measure=True) if probe else None
    return make_plan(spec, storage, measured, step_seconds=steps)
