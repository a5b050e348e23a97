"""The command line: validate, plan, launch, status, trials, best, report, ui, sync, generate, doctor, ls.

Exit codes: 0 success, 1 something failed (a run, a check), 2 the user's mistake. Data goes to the standard output,
everything else to the standard error. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from study.errors import UserError
from study.views import Format, print_rows, print_table

if TYPE_CHECKING:
    from study.runs import Storage

app = typer.Typer(
    name="study",
    help="Compare ways of fine-tuning text-to-image diffusion models, and trust the answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="Study file (YAML), or the name of a preset.")
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of a study that was launched.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Override fields, e.g. search.trials=8.")
]
StorageOption = Annotated[
    Path,
    typer.Option(
        "--storage", envvar="STUDY_STORAGE", help="Folder of ledgers, runs, caches and MLflow store."
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

STORAGE, REPORTS = Path("storage"), Path("reports")


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(version("diffusion-study"))
        raise typer.Exit


@app.callback()
def _global(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compare ways of fine-tuning text-to-image diffusion models, and trust the answer."""


@app.command()
def validate(file: FileArgument, overrides: Overrides = None) -> None:
    """Check a study file and everything that it names; print all problems at once."""
    from study.checks import check_study
    from study.spec import load_study

    spec = load_study(file, overrides or [])
    problems = check_study(spec)
    if problems:
        raise UserError(*problems)
    typer.echo(f"{spec.name}: valid, {len(spec.arms)} arms, {spec.number_of_runs()} runs")


@app.command()
def plan(
    file: FileArgument,
    overrides: Overrides = None,
    storage: StorageOption = STORAGE,
    address: AddressOption = None,
    probe: Annotated[
        bool, typer.Option(help="Measure this machine for a few seconds; --no-probe skips estimates.")
    ] = True,
    form: FormatOption = Format.table,
) -> None:
    """Print what a launch would do: trials, runs, time, memory, disk, and what it would resume."""
    from study.operations import plan_study

    planned = plan_study(file, overrides or [], storage, address=address, probe=probe)
    print_rows(planned.rows(), planned.columns(), form, shown=planned.shown())
    if form is Format.table:
        for line in planned.summary():
            typer.echo(line)


@app.command()
def launch(
    file: FileArgument,
    overrides: Overrides = None,
    storage: StorageOption = STORAGE,
    reports: ReportsOption = REPORTS,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
) -> None:
    """Run a study, or resume it: finished runs are kept, interrupted ones continue."""
    from study.operations import launch_study

    launched = launch_study(
        file,
        overrides or [],
        storage,
        address=address,
        tracking_uri=tracking_uri,
        reports=reports if report else None,
    )
    if launched.table:
        print_table(
            launched.table,
            list(launched.table[0]),
            title="Confirm runs: means, and the 95 % interval of quality",
        )
    for line in launched.lines:
        typer.echo(line)
    raise typer.Exit(launched.exit_code)


@app.command()
def status(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print how far a study is, arm by arm; works while it runs and afterwards."""
    from study.operations import status_rows

    rows = status_rows(_storage(storage, name))
    print_rows(
        rows, ["arm", "phase", "planned", "complete", "running", "pruned", "failed", "best_quality"], form
    )


@app.command()
def trials(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print one row a run, with everything that was measured."""
    from study.columns import RUN_COLUMNS
    from study.results import rows

    found = rows(_storage(storage, name))
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


@app.command()
def best(name: NameArgument, storage: StorageOption = STORAGE, form: FormatOption = Format.table) -> None:
    """Print the configuration that the search chose for each arm. Its score is not a result: see the report."""
    from study.operations import best_rows

    found = best_rows(_storage(storage, name))
    columns = list(dict.fromkeys(key for row in found for key in row))
    print_rows(found, columns, form)


@app.command()
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

    files = report_study(_storage(storage, name), reports, tracking_uri=tracking_uri, csv_folder=from_csv)
    typer.echo(f"report: {files.html}")


@app.command()
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

    raise typer.Exit(serve(_storage(storage, name), port=port, tracking_uri=tracking_uri))


@app.command()
def sync(name: NameArgument, storage: StorageOption = STORAGE, tracking_uri: TrackingOption = None) -> None:
    """Bring MLflow up to date from the runs' own records, or rebuild it; harmless to repeat."""
    from study.operations import sync_study

    done, left = sync_study(_storage(storage, name), tracking_uri=tracking_uri)
    typer.echo(f"{done} runs are up to date in MLflow" + (f", {left} are not" if left else ""))
    raise typer.Exit(1 if left else 0)


@app.command()
def generate(
    name: NameArgument,
    run: Annotated[
        str, typer.Argument(help="A run as `study trials` names it: phase/arm/0000-subject-s0, or an arm.")
    ],
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="Prompt; {subject} stands for the instance.")
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=256, help="Images of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Solver steps.")] = 25,
    guidance: Annotated[float, typer.Option(min=0.0, help="Classifier-free guidance scale.")] = 3.0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNG files.")] = Path("images"),
    storage: StorageOption = STORAGE,
) -> None:
    """Draw images from a run's weights, loaded with stock diffusers."""
    from study.generate import draw_images

    for path in draw_images(
        _storage(storage, name), run, prompt, out, count=count, seed=seed, steps=steps, guidance=guidance
    ):
        typer.echo(path)


@app.command()
def doctor(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="Also check what this study needs.")
    ] = None,
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
) -> None:
    """Say what this machine has, and what a study would miss on it."""
    from study.doctor import Finding, examine

    findings = examine(storage.absolute())
    if file is not None:
        from study.checks import check_study
        from study.spec import load_study

        findings += [Finding("study", False, problem) for problem in check_study(load_study(file, []))] or [
            Finding("study", True, f"{file}: nothing is missing")
        ]
    print_rows([finding.row() for finding in findings], ["topic", "ok", "finding"], form)
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


@app.command("ls")
def list_things(
    what: Annotated[
        str, typer.Argument(help="methods, spaces, presets, metrics, subjects or studies")
    ] = "studies",
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
) -> None:
    """List what there is: methods, search spaces, presets, metrics, embedded subjects, studies."""
    from study.listing import LISTINGS, listing

    if what not in LISTINGS:
        raise UserError(f"study ls knows {', '.join(LISTINGS)}; got {what!r}")
    rows, columns = listing(what, storage.absolute())
    print_rows(rows, columns, form)


def _storage(root: Path, name: str) -> Storage:
    from study.runs import Storage

    storage = Storage(root.absolute(), name)
    if "/" in name or name.startswith(".") or not (storage.folder / "study.json").exists():
        known = sorted(path.parent.name for path in root.absolute().glob("*/study.json"))
        there = (
            f"studies there: {', '.join(known)}" if known else "there are none; launch one, or give --storage"
        )
        raise UserError(f"no study called {name!r} in {root}; {there}")
    return storage


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; `arguments` default to those of the process."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    console = Console(stderr=True)
    try:
        app(args=arguments)
    except UserError as error:
        for problem in error.problems:
            console.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)


if __name__ == "__main__":
    main()
