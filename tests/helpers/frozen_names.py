"""The names under which a finished study stands in its CSV files and in MLflow, as text."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def written_names(folder: Path, score_columns: Iterable[str]) -> str:
    """Columns, in their order, of the CSV files that `write_csv` left in a folder, and of the scores of images."""
    parts = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            parts.append(_section(path.name, next(csv.reader(file))))
    parts.append(_section("image_scores.parquet", score_columns))
    parts.append(_section("meta.json", sorted(json.loads((folder / "meta.json").read_text()))))
    return "\n".join(parts)


def tracked_names(store: Any) -> str:
    """Names of what MLflow keeps of a study: of its experiment, its runs, and their parents."""
    parts = [_section("experiment: tags", sorted(store.find_experiment().tags))]
    for kind in ("run", "parent"):
        runs = list(store.runs({"kind": kind}))
        parts += [
            _section(f"{kind}: params", _all(run.data.params for run in runs)),
            _section(f"{kind}: metrics", _all(run.data.metrics for run in runs)),
            _section(f"{kind}: tags", _all(run.data.tags for run in runs)),
            _section(f"{kind}: artifacts", _all(_artifacts(store, run) for run in runs)),
        ]
    return "\n".join(parts)


def _all(found: Iterable[Iterable[str]]) -> list[str]:
    return sorted({name for names in found for name in names})


def _artifacts(store: Any, run: Any) -> list[str]:
    return [item.path for item in store.client.list_artifacts(run.info.run_id)]


def _section(title: str, names: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {name}" for name in names)]) + "\n"
