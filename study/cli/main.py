"""The command line: validate, plan, launch, submit, generate, export, evaluate, doctor, ls, and what watches a study.

Exit codes: 0 success, 1 something failed (a run, a check), 2 the user's mistake. Data goes to the standard output,
everything else to the standard error. Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from study.cli.monitor_commands import best, logs, status, stop, sync, trials, ui
from study.cli.options import (
    STORAGE,
    AddressOption,
    FileArgument,
    FormatOption,
    NameArgument,
    Overrides,
    ReportsOption,
    RunArgument,
    StorageOption,
    TrackingOption,
    stored,
)
from study.cli.report_command import report
from study.util.printing import Format, print_rows, print_table, say_sentences
from trainables.errors import UserError
from trainables.util.process import prepare_command, unspeakable

app = typer.Typer(
    name="study",
    help="Compare ways of fine-tuning text-to-image diffusion models, and trust the answer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(value: bool) -> None:
    if value:
        from trainables.util.packages import versions_of

        print(versions_of(["diffusion-study"])["diffusion-study"])
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
    from study.preflight.checks import check_study
    from study.preflight.notes import print_notes, study_notes
    from study.spec.downstream_plan import total_runs
    from study.spec.loading import load_study

    spec = load_study(file, overrides or [])
    problems = check_study(spec)
    if problems:
        raise UserError(*problems)
    print_notes(study_notes(spec))
    print(f"{spec.name}: valid, {len(spec.arms)} arms, {total_runs(spec)} runs")


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
    from study.api import plan_study
    from study.preflight.notes import print_notes, study_notes
    from study.spec.loading import load_study

    spec = load_study(file, overrides or [])
    planned = plan_study(spec, (), storage, address=address, probe=probe)
    print_notes(study_notes(spec))
    print_rows(planned.rows(), planned.columns(), form, shown=planned.shown())
    if form is Format.table:
        for line in planned.summary():
            print(line)


@app.command()
def launch(
    file: FileArgument,
    overrides: Overrides = None,
    storage: StorageOption = STORAGE,
    reports: ReportsOption = None,
    address: AddressOption = None,
    tracking_uri: TrackingOption = None,
    report: Annotated[bool, typer.Option(help="Write the report at the end.")] = True,
    ray_dashboard: Annotated[
        bool,
        typer.Option("--ray-dashboard", help="Also start Ray's dashboard, on 127.0.0.1 and behind a token."),
    ] = False,
) -> None:
    """Run a study, or resume it: finished runs are kept, interrupted ones continue."""
    from study.api import launch_study

    launched = launch_study(
        file,
        overrides or [],
        storage,
        address=address,
        tracking_uri=tracking_uri,
        reports=reports,
        report=report,
        ray_dashboard=ray_dashboard,
    )
    if launched.table:
        print_table(
            launched.table,
            list(launched.table[0]),
            title="Confirm runs: means, and the 95 % interval of quality",
        )
    if launched.verdict:
        say_sentences(launched.verdict)
    for line in launched.lines:
        print(line)
    raise typer.Exit(launched.exit_code)


for _command in (status, logs, stop, trials, best, report, ui, sync):
    app.command()(_command)


@app.command()
def submit(
    file: FileArgument,
    overrides: Overrides = None,
    storage: Annotated[
        str, typer.Option("--storage", help="On the cluster: a folder that all nodes see, or a URL.")
    ] = "",
    address: Annotated[
        str,
        typer.Option(
            "--address", envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard, through a tunnel."
        ),
    ] = "http://127.0.0.1:8265",
    reports: Annotated[
        str | None, typer.Option("--reports", help="On the cluster; default: reports/ in the storage folder.")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow, as the cluster's head reaches it.")
    ] = None,
    shared: Annotated[
        list[str] | None, typer.Option("--shared", help="Folder that the cluster sees under the same path.")
    ] = None,
    code: Annotated[
        bool, typer.Option(help="Take this project's code along; else the cluster has it.")
    ] = True,
    wait: Annotated[bool, typer.Option(help="Follow the log to the end and exit as the study does.")] = True,
) -> None:
    """Hand a study to a Ray cluster through its job API, with the photographs that it names; Ctrl-C lets go of it."""
    from study.submit.submit import Submission, submit_study

    asked = Submission(storage, reports, tracking_uri, tuple(shared or ()), code)
    raise typer.Exit(submit_study(file, overrides or [], asked, address=address, wait=wait))


@app.command()
def generate(
    name: NameArgument,
    run: RunArgument,
    prompt: Annotated[
        list[str], typer.Option("--prompt", "-p", help="Prompt; {subject} stands for the instance.")
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=256, help="Images of each prompt.")] = 4,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Solver steps; by default those of the run's evaluation."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Classifier-free guidance scale; by default that of the run's evaluation."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the PNG files.")] = Path("images"),
    strength: Annotated[
        str | None,
        typer.Option(
            help="Of the training, 0 to 1 and beyond, e.g. 0,0.5,1; with a grid of strengths and prompts."
        ),
    ] = None,
    storage: StorageOption = STORAGE,
) -> None:
    """Draw images from a run's weights, loaded with stock diffusers."""
    from study.generate import draw_images, parse_strengths

    strengths = () if strength is None else parse_strengths(strength)
    paths = draw_images(
        stored(storage, name),
        run,
        prompt,
        out,
        count=count,
        seed=seed,
        steps=steps,
        guidance=guidance,
        strengths=strengths,
    )
    for path in paths:
        print(path)


class _Form(StrEnum):
    """The formats of `trainables.methods.exporting`, which this module does not load."""

    diffusers = "diffusers"
    kohya = "kohya"
    a1111 = "a1111"
    comfyui = "comfyui"
    peft = "peft"
    merged = "merged"


@app.command()
def export(
    name: NameArgument,
    run: RunArgument,
    form: Annotated[
        _Form, typer.Option("--format", "-f", help="Who is to read it; merged: a whole pipeline.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write; must not exist, or be empty.")
    ] = Path("export"),
    author: Annotated[str, typer.Option(help="Of the weights, for metadata and model card.")] = "",
    license: Annotated[str, typer.Option(help="Of the weights, e.g. cc-by-4.0.")] = "",
    storage: StorageOption = STORAGE,
) -> None:
    """Write a run's weights for another program, with metadata and a model card."""
    from study.export.files import export_run
    from study.preflight.notes import print_notes

    done = export_run(stored(storage, name), run, form.value, out, author=author, license=license)
    print_notes(done.notes)
    for path in done.files:
        print(path)


@app.command()
def evaluate(
    name: NameArgument,
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="LoRA, embedding, hypernetwork, or folder of PEFT or of a pipeline."
        ),
    ],
    subject: Annotated[
        str | None,
        typer.Option("--subject", help="Confirm subject that the files show; default: the only one."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt", "-p", help="What the files call the subject; default: the study's instance prompt."
        ),
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--name", help="Of the arm foreign/NAME; default: the file's name.")
    ] = None,
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
) -> None:
    """Judge weights that were trained elsewhere by a study's plan of evaluation; files them as foreign/NAME."""
    from study.api import sync_study
    from study.export.foreign import COLUMNS, evaluate_files
    from study.preflight.notes import print_notes
    from trainables.errors import UserError

    found = stored(storage, name)
    rows = evaluate_files(
        found, files, name=arm, subject=subject, prompt=prompt, on_note=lambda note: print_notes([note])
    )
    try:
        _, left = sync_study(found)
    except UserError as error:
        print_notes([f"MLflow does not hold these runs yet, and `study sync` will bring them: {error}"])
    else:
        if left:
            print_notes([f"MLflow has refused {left} runs of the study; `study sync` tries them again"])
    if found.url is not None:
        print_notes([f"these runs lie in this machine's working copy alone, {found.runs}"])
    print_rows(rows, list(COLUMNS), form)
    raise typer.Exit(1 if any(row["state"] != "COMPLETE" for row in rows) else 0)


@app.command()
def reproduce(
    name: NameArgument,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run, a part of its name, or an arm (its best run).")
    ],
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
) -> None:
    """Train a run again from its record alone, and compare weights and scores with the first ones.

    Exit code 1 where they had to be the same to the last bit (same machine, code and versions) and are not.
    """
    from study.export.reproduced import reproduce as train_again

    found = train_again(stored(storage, name), run)
    rows = [
        {"metric": metric, "first": one, "again": two, "difference": two - one}
        for metric, (one, two) in found.metrics.items()
    ]
    print_rows(rows, ["metric", "first", "again", "difference"], form)
    for line in found.lines():
        print(line, file=sys.stderr)
    raise typer.Exit(1 if found.promised and not found.exact else 0)


@app.command()
def doctor(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", help="Also check what this study needs; or check this cluster file or manifest."
        ),
    ] = None,
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
) -> None:
    """Say what this machine has, and what a study would miss on it; or what is wrong with a cluster's file."""
    from study.preflight.doctor import Finding, examine, examine_deployment
    from study.remote.object_store import store_problem
    from study.storage.layout import root_and_url

    root, url = root_and_url(storage)
    is_file = file is not None and (file.endswith((".yaml", ".yml")) or Path(file).exists())
    deployment = examine_deployment(Path(file)) if is_file and file is not None else None
    findings = examine(root) if deployment is None else deployment
    if url is not None and deployment is None:
        problem = store_problem(url)
        findings.append(Finding("storage", problem is None, problem or f"{url} can be read and written"))
    if file is not None and deployment is None:
        from study.preflight.checks import check_study
        from study.preflight.notes import study_notes
        from study.spec.loading import load_study

        spec = load_study(file, [])
        problems = [Finding("study", False, problem) for problem in check_study(spec)]
        findings += problems or [
            *(Finding("study", None, note) for note in study_notes(spec)),
            Finding("study", True, f"{file}: nothing is missing"),
        ]
    print_rows([finding.row() for finding in findings], ["topic", "ok", "finding"], form)
    raise typer.Exit(1 if any(finding.ok is False for finding in findings) else 0)


@app.command("ls")
def list_things(
    what: Annotated[
        str, typer.Argument(help="methods, spaces, presets, metrics, subjects or studies")
    ] = "studies",
    families: Annotated[
        bool, typer.Option("--families", help="Of methods: on which families of models each runs.")
    ] = False,
    storage: StorageOption = STORAGE,
    form: FormatOption = Format.table,
) -> None:
    """List what there is: methods, search spaces, presets, metrics, embedded subjects, studies."""
    from study.cli.listing import LISTINGS, family_listing, family_obstacles, listing
    from study.spec.launched import readable_root

    if what not in LISTINGS:
        raise UserError(f"study ls knows {', '.join(LISTINGS)}; got {what!r}")
    if families:
        if what != "methods":
            raise UserError(f"--families is of `study ls methods`, not of `study ls {what}`; leave it out")
        from study.preflight.notes import print_notes

        print_rows(*family_listing(), form)
        print_notes(family_obstacles())
        return
    rows, columns = listing(what, readable_root(storage) if what == "studies" else Path())
    if not rows and form is Format.table:
        print(f"no {what} in {storage}")
        return
    # The presets lie in one folder, whose path would leave no room for what each is.
    print_rows(rows, columns, form, shown=[name for name in columns if name != "file"])
    if what == "presets" and form is Format.table:
        print(f"files: {Path(str(rows[0]['file'])).parent}/NAME.yaml")


def _fail(problems: Sequence[str]) -> NoReturn:
    console = Console(stderr=True)
    for problem in problems:
        console.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(2)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; `arguments` default to those of the process."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        prepare_command()
        app(args=arguments)
    except UserError as error:
        _fail(error.problems)
    except UnicodeEncodeError as error:
        if error.encoding != sys.getfilesystemencoding():
            raise
        _fail([unspeakable(error)])
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
