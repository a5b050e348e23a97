"""`study report`: of a study of this program, of anybody's results, or of several studies side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from study.cli.options import STORAGE, ReportsOption, StorageOption, named, stored
from study.util.printing import say_sentences
from trainables.errors import UserError


def _field(name: str, what: str) -> Any:
    """An option that may be given several times."""
    return typer.Option(name, help=what, metavar="NAME", show_default=False)


def report(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="A study that was launched; with --arm an experiment of MLflow, or a title; with --compare several, "
            "each a study or the folder of a report.",
            show_default=False,
        ),
    ] = None,
    storage: StorageOption = STORAGE,
    reports: ReportsOption = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow to read instead of the storage.")
    ] = None,
    from_mlflow: Annotated[
        bool,
        typer.Option(
            "--from-mlflow",
            help="Read MLflow instead of the storage: MLFLOW_TRACKING_URI, the study file's, or the storage's own; "
            "with --arm any experiment.",
        ),
    ] = False,
    from_csv: Annotated[
        Path | None,
        typer.Option(
            "--from-csv",
            help="An earlier report's folder (or its data/) instead of storage and MLflow; with --arm any CSV file.",
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="Put several side by side: studies of the storage, and folders of reports, also of others' results.",
        ),
    ] = False,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", help="YAML file that says what somebody else's columns mean; options win."),
    ] = None,
    arm: Annotated[
        list[str] | None, _field("--arm", "Of anybody's results: tag, param or column that tells the arm.")
    ] = None,
    quality: Annotated[
        list[str] | None,
        _field("--quality", "Metric or column that tells how good a run is; the first ranks."),
    ] = None,
    cost: Annotated[
        list[str] | None, _field("--cost", "Metric or column that tells what a run took.")
    ] = None,
    metric: Annotated[list[str] | None, _field("--metric", "Further metric or column to show.")] = None,
    subject: Annotated[
        list[str] | None,
        _field("--subject", "Tag, param or column of the subject: the unit of all statistics."),
    ] = None,
    seed: Annotated[
        list[str] | None, _field("--seed", "Tag, param or column of the seed, by which runs are paired, too.")
    ] = None,
    lower_is_better: Annotated[
        bool,
        typer.Option(
            "--lower-is-better", help="Of the --quality; where there are several, name them in a --mapping."
        ),
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option("--margin", help="Differences of the first quality within it count as equivalent."),
    ] = None,
    compact: Annotated[
        bool | None,
        typer.Option(
            "--compact/--full",
            help="A report of a few MB: one small picture a figure, and each table of the data once. Default: with "
            "--from-csv as the earlier report, else full.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the report: HTML, Markdown, tables (CSV, LaTeX) and figures (PDF, SVG, PNG)."""
    from study.results.mapping import is_given

    given = {
        "arm": arm,
        "quality": quality,
        "cost": cost,
        "metrics": metric,
        "subject": subject,
        "seed": seed,
        "lower_is_better": lower_is_better,
        "margin": margin,
    }
    external = mapping is not None or any(map(is_given, given.values()))
    found = names or []
    is_mlflow = from_mlflow or (external and tracking_uri is not None and from_csv is None)
    _check(found, compare=compare, external=external, from_mlflow=is_mlflow, from_csv=from_csv is not None)
    if compare:
        from study.any_results import compare_studies

        files = compare_studies(found, storage, reports, compact=compact)
    elif external:
        files = _external(found, mapping, given, storage, reports, tracking_uri, from_csv, compact)
    else:
        from study.api import report_study

        where = stored(storage, found[0]) if from_csv is None else named(storage, found[0])
        files = report_study(
            where,
            reports,
            from_mlflow=from_mlflow,
            tracking_uri=tracking_uri,
            csv_folder=from_csv,
            compact=compact,
        )
    say_sentences(files.verdict.headline)
    print(f"report: {files.html}")


def _external(
    names: list[str],
    mapping: Path | None,
    options: dict[str, Any],
    storage: str,
    reports: str | None,
    tracking_uri: str | None,
    file: Path | None,
    compact: bool | None,
) -> Any:
    """The report of an experiment or a table, with what file and options say of it."""
    from study.any_results import report_experiment, report_table
    from study.results.mapping import mapping_of

    if file is not None:
        meaning = mapping_of(mapping, {**options, "name": names[0] if names else None})
        return report_table(file, meaning, storage, reports, compact=compact)
    meaning = mapping_of(mapping, options)
    return report_experiment(names[0], meaning, storage, reports, tracking_uri=tracking_uri, compact=compact)


def _check(names: list[str], *, compare: bool, external: bool, from_mlflow: bool, from_csv: bool) -> None:
    """Raises UserError with everything that does not go together."""
    problems = []
    if from_mlflow and from_csv:
        problems.append("--from-csv and --from-mlflow name two sources of results; leave one of them out")
    if compare and (external or from_mlflow or from_csv):
        problems.append(
            "--compare takes studies of the storage and folders of reports, and no other source; leave --from-mlflow, "
            "--from-csv, --mapping and the like out: what they name is made a report of first, whose folder is named"
        )
    elif external and not (from_mlflow or from_csv):
        problems.append(
            "--mapping, --arm, --quality and the like say what anybody's results mean; say where they are: "
            "--from-mlflow EXPERIMENT, or --from-csv FILE"
        )
    if not names and not (external and from_csv):
        table = (
            ", or say what a table's columns mean (--arm, --quality)" if from_csv else ", or an experiment"
        )
        problems.append(f"Missing argument 'NAME': name a study (`study ls studies` lists them){table}")
    if len(names) > 1 and not compare:
        problems.append(
            f"one NAME at a time, got {', '.join(names)}; several studies stand side by side with --compare"
        )
    if problems:
        raise UserError(*problems)
