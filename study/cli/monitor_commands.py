"""The commands for a study that was launched: status, logs, stop, trials, best, ui, sync."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from study.cli.options import (
    STORAGE,
    FormatOption,
    NameArgument,
    StorageOption,
    TrackingOption,
    stored,
)
from study.util.printing import Format, print_blocks, print_document, print_rows, say, say_sentences
from trainables.errors import UserError
from trainables.evaluation.metrics_table import QUALITY

if TYPE_CHECKING:
    from study.monitor.status import StudyStatus


class Section(StrEnum):
    """Parts of a study's status."""

    all = "all"
    summary = "summary"
    arms = "arms"
    nodes = "nodes"
    running = "running"
    failed = "failed"


class Shown(StrEnum):
    """Dashboards that `study ui` opens."""

    mlflow = "mlflow"
    optuna = "optuna"
    ray = "ray"


def status(
    name: NameArgument,
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
    section: Annotated[
        Section | None,
        typer.Option(
            "--section", "-s", help="One part in full; default: all as a table, arms as JSON and CSV."
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 2.0,
) -> None:
    """Show how far a study is: driver, queue, rate, cost, time left, arms, nodes, running and failed runs.

    Reads the study's folder alone, so that it works from any machine that sees it, while the study runs and after
    its driver died.
    """
    from study.api import status_reader

    reader = status_reader(stored(storage, name), location=storage)
    if watch:
        if form is not Format.table:
            raise UserError(f"--watch draws a table; got --format {form.value}; leave one of the two out")
        from study.monitor.status_watch import watch_status

        watch_status(reader, section.value if section else "all", every)
        return
    print_status(reader(), form, section)


def print_status(found: StudyStatus, form: Format, section: Section | None) -> None:
    """Prints a status to the standard output."""
    from study.monitor import status as columns
    from study.monitor import status_view

    if form is Format.table:
        part = section.value if section else "all"
        status_view.show(status_view.glance(found) if part == "all" else status_view.section(found, part))
        return
    chosen = section or Section.arms
    if chosen in (Section.all, Section.summary):
        if form is Format.csv:
            raise UserError(
                f"--section {chosen.value} is no table; as CSV there are arms, nodes, running and failed"
            )
        document = asdict(found)
        if chosen is Section.summary:
            document = {key: value for key, value in document.items() if not isinstance(value, list)}
        print_document(document)
        return
    rows: list[dict[str, Any]] = getattr(found, chosen.value)
    print_rows(rows, getattr(columns, f"{chosen.name.upper()}_COLUMNS"), form)


def logs(
    name: NameArgument,
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="A run, or a part of its name; without it all runs are listed."),
    ] = None,
    storage: StorageOption = STORAGE,
    attempt: Annotated[int | None, typer.Option("--attempt", "-a", min=1, help="Only this attempt.")] = None,
    tail: Annotated[
        int | None, typer.Option("--tail", "-n", min=0, help="Only the last so many lines.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on as the log grows, until the run ends.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Print what a run printed, wherever it ran, with its attempts and the traceback of its failure.

    The log goes to the standard output, what is said of it to the standard error. Without RUN the runs are listed,
    failed ones first.
    """
    from study.monitor.run_logs import list_runs, show_log

    if run is None:
        rows, columns = list_runs(stored(storage, name))
        if form is Format.table:
            from study.monitor.status_view import all_runs_table, show

            show(all_runs_table(rows))
        else:
            print_rows(rows, columns, form)
    else:
        show_log(storage, stored(storage, name), run, attempt=attempt, tail=tail, follow=follow)


def stop(
    name: NameArgument,
    storage: StorageOption = STORAGE,
    now: Annotated[bool, typer.Option("--now", help="Ask, and do not wait for the end.")] = False,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds to wait for the end.")] = 600.0,
) -> None:
    """End a running study in order, from any machine that sees its storage; the same launch goes on with it later.

    Running runs keep their checkpoints, as after the first Ctrl-C. Exit code 0 when nothing drives the study any more
    (or, with --now, when it was asked), 1 when it still did after the timeout. The launch itself exits with 130.
    """
    from study.monitor.stop import stop_study

    raise typer.Exit(stop_study(stored(storage, name), wait=not now, timeout=timeout))


def trials(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print one row a run, with everything that was measured."""
    from study.results.columns import RUN_COLUMNS
    from study.results.run_rows import rows

    found = rows(stored(storage, name))
    extra = sorted({key for row in found for key in row} - set(RUN_COLUMNS))
    shown = [
        "arm",
        "phase",
        "trial",
        "subject",
        "seed",
        "state",
        QUALITY,
        "subject_fidelity",
        "prompt_fidelity",
    ]
    print_rows(found, [*RUN_COLUMNS, *extra], form, shown=[*shown, "learning_rate", "train_seconds"])


def best(
    name: NameArgument,
    storage: StorageOption = STORAGE,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="LIMITS",
            help='The arm to take within limits instead, such as "peak_memory<8GB, train_seconds<600, dollars<1".',
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="With --budget: where to write the file that trains it.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Print the configuration that the search chose for each arm. Its score is not a result: see the report."""
    from study.api import best_rows, best_within

    if budget is not None:
        within, remedy = best_within(stored(storage, name), budget, out)
        row = within.shown() if form is Format.table else within.row()
        print_rows([row], list(row), form)
        say_sentences(*within.lines())
        say(remedy)  # a command, which a line break would spoil
        return
    if out is not None:
        raise UserError("--out is for --budget, which names one configuration; give both, or leave --out out")
    found = best_rows(stored(storage, name))
    columns = list(dict.fromkeys(key for row in found for key in row))
    if form is Format.table:
        print_blocks(found, columns, ["arm", "method"])
        return
    print_rows(found, columns, form)


def ui(
    name: NameArgument,
    storage: StorageOption = STORAGE,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Default: a free one from 5000 on (Optuna: 5100).")
    ] = None,
    tracking_uri: TrackingOption = None,
    what: Annotated[
        Shown,
        typer.Option(
            "--what", help="mlflow: runs, curves, images; optuna: the search of each arm; ray: the cluster."
        ),
    ] = Shown.mlflow,
) -> None:
    """Open a dashboard of a study on 127.0.0.1 (until interrupted): MLflow's, Optuna's, or say where Ray's is.

    All three work while the study runs. Optuna's only shows; Ray's needs `study launch --ray-dashboard`, or a cluster
    of your own.
    """
    where = stored(storage, name)
    if what is Shown.mlflow:
        from study.monitor.ui_server import serve

        raise typer.Exit(serve(where, port=port, tracking_uri=tracking_uri))
    from study.monitor.dashboards import name_ray_dashboard, serve_optuna

    if what is Shown.ray:
        name_ray_dashboard(where)
    else:
        raise typer.Exit(serve_optuna(where, port))


def sync(name: NameArgument, storage: StorageOption = STORAGE, tracking_uri: TrackingOption = None) -> None:
    """Bring MLflow up to date from the runs' own records, or rebuild it; harmless to repeat."""
    from study.api import sync_study

    done, left = sync_study(stored(storage, name), tracking_uri=tracking_uri)
    print(f"{done} runs are up to date in MLflow" + (f", {left} are not" if left else ""))
    raise typer.Exit(1 if left else 0)
