"""Builds a report folder: everything is written beside it first and then put in its place in one move."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from study.report.compact import COMPACT, compact_name, compact_picture
from study.report.comparisons import Settings
from study.report.content import Report
from study.report.external import META
from study.report.external_sections import compose_external
from study.report.figures.canvas import render
from study.report.latex import to_latex
from study.report.pages import to_page, to_text
from study.report.paper import paper_files
from study.report.prepared import ResultsLike
from study.report.report_folder import KIND, MANIFEST, keep_foreign_files, refuse_foreign_folder
from study.report.sections import compose
from study.report.tables import to_csv
from study.report.verdict import Verdict
from study.results.columns import IMAGE_COLUMNS
from study.storage.layout import (
    REBUILT,
    REPORT_DATA,
    REPORT_FIGURES,
    REPORT_HTML,
    REPORT_IMAGES,
    REPORT_MD,
    REPORT_PAPER,
    REPORT_TABLES,
)
from trainables.errors import UserError
from trainables.util.files import sha256_of
from trainables.util.packages import versions_of

_PACKAGES = ("diffusion-study", "numpy", "scipy", "pandas", "matplotlib", "jinja2", "pillow")


@dataclass(frozen=True)
class ReportFiles:
    """Where a report lies.

    Attributes:
        folder: The report's folder; html, markdown and manifest are files in it.
        tables, figures, data: All files of these folders.
        verdict: The verdict, for who prints it.
    """

    folder: Path
    html: Path
    markdown: Path
    manifest: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    data: tuple[Path, ...]
    verdict: Verdict


def build_report(
    results: ResultsLike, out_dir: str | os.PathLike[str], *, rng_seed: int = 0, compact: bool | None = None
) -> ReportFiles:
    """Writes the report of a study into `out_dir`, replacing an earlier report there.

    The same results and seed give the same bytes. Nothing is left half-written: the folder is either the earlier
    report or the new one. What somebody else has put into the earlier report's folder stays there.

    Args:
        results: What ``study.results.loading.load_results`` gives.
        out_dir: The report's folder, e.g. ``reports/quickstart``.
        rng_seed: Seed of all resampling.
        compact: Whether each figure is one small picture, and each table of the data one file: a report that takes a
            few MB, and from whose folder a whole one can be built. None: as the report that the results were read
            from, otherwise not.

    Raises:
        UserError: `out_dir` is a file, or a folder that holds something other than a report, or cannot be
        written.
    """
    target = Path(out_dir)
    refuse_foreign_folder(target)
    composed = compose_external if META in (results.meta or {}) else compose
    report = composed(results, Settings(seed=rng_seed))
    small = bool((results.meta or {}).get(COMPACT)) if compact is None else compact
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
    except OSError as error:
        raise UserError(f"the report cannot be written to {target}: {error.strerror or error}") from error
    try:
        _write_all(report, results, work, small)
        work.chmod(0o755)
        keep_foreign_files(target, work)
        _swap(work, target)
    except OSError as error:
        raise UserError(f"the report cannot be written to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report_files(target, report.verdict)


def report_files(folder: Path, verdict: Verdict) -> ReportFiles:
    """Lists the files of a report."""

    def files(name: str) -> tuple[Path, ...]:
        return tuple(sorted(path for path in (folder / name).rglob("*") if path.is_file()))

    return ReportFiles(
        folder=folder,
        html=folder / REPORT_HTML,
        markdown=folder / REPORT_MD,
        manifest=folder / MANIFEST,
        tables=files(REPORT_TABLES),
        figures=files(REPORT_FIGURES),
        data=files(REPORT_DATA),
        verdict=verdict,
    )


def _swap(work: Path, target: Path) -> None:
    """Puts the finished folder in its place; on failure the earlier one comes back."""
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old-", dir=target.parent))
    try:
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(work, target)
        except OSError:
            if not target.exists() and any(old.iterdir()):
                os.replace(old, target)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_all(report: Report, results: ResultsLike, folder: Path, compact: bool) -> None:
    rendered = {figure.key: render(figure) for figure in report.figures}
    for key, drawn in rendered.items():
        named = {f"{key}.{kind}": content for kind, content in drawn.files.items()}
        for name, content in dict([compact_picture(key, drawn.files)] if compact else named).items():
            _write(folder / REPORT_FIGURES / name, content)
    for table in report.tables:
        _write(folder / REPORT_TABLES / f"{table.key}.csv", to_csv(table))
        _write(folder / REPORT_TABLES / f"{table.key}.tex", to_latex(table))
    for name, text in paper_files(report).items():
        _write(folder / REPORT_PAPER / name, text)
    _write(folder / REPORT_HTML, to_page(report, rendered))
    _write(folder / REPORT_MD, to_text(report, compact_name if compact else "{}.png".format))
    _write_data(report, results, folder / REPORT_DATA, compact)
    _write(folder / MANIFEST, json.dumps(_manifest(report, folder), indent=1, ensure_ascii=False) + "\n")


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)


def _write_data(report: Report, results: ResultsLike, folder: Path, compact: bool) -> None:
    """Writes the rows, so that this folder alone gives the same report again; of the images those that it shows."""
    from study.results.csv_files import write_csv
    from study.results.frames import Results

    kept = []
    for run_key, shot in (*report.gallery.kept(), *report.class_shots):
        content = shot.picture.content
        copy = folder / REPORT_IMAGES / f"{hashlib.sha256(content).hexdigest()[:20]}.webp"
        _write(copy, content)
        kept.append((run_key, shot.step, shot.key, str(copy)))
    images = pd.DataFrame(kept, columns=list(IMAGE_COLUMNS)).astype({"step": "Int64"})
    scores = getattr(results, "image_scores", None)
    meta = {name: value for name, value in report.rows.meta.items() if name != COMPACT}
    data = Results(results.frame, results.curves, images, meta | ({COMPACT: True} if compact else {}))
    data = dataclasses.replace(data, downstream=getattr(results, "downstream", None))
    data = data if scores is None else dataclasses.replace(data, image_scores=scores)
    write_csv(data, folder, compact=compact)


def _manifest(report: Report, folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
    frame, under_data = report.rows.frame, f"{REPORT_DATA}/"
    return {
        "kind": KIND,
        "study": report.rows.study,
        # To be run in this folder, wherever it was copied to; the storage is not needed.
        "rebuild": shlex.join(
            ["study", "report", report.rows.study, "--from-csv", REPORT_DATA, "--reports", REBUILT]
        ),
        "statistics": {
            **dataclasses.asdict(report.analysis.settings),
            "margin": report.analysis.margin,
            "interval": "Student's t on subject means, from three subjects on",
            "test": "two-sided paired t over subjects and two one-sided tests against the margin, Holm's "
            f"adjustment over {report.analysis.family}",
        },
        "inputs": {
            "runs": len(frame),
            "states": {str(k): int(v) for k, v in sorted(frame["state"].value_counts().items())},
            "spec_digest": report.rows.meta.get("spec_digest"),
            "hashes": {name: value for name, value in hashes.items() if name.startswith(under_data)},
        },
        "versions": versions_of(_PACKAGES),
        "files": {name: value for name, value in hashes.items() if not name.startswith(under_data)},
    }
