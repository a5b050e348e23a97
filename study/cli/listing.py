"""What ``study ls`` lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from study.storage.layout import Storage
from study.storage.study_record import read_study_record, recorded_spec, recorded_studies

Rows = list[dict[str, Any]]


def listing(what: str, storage: Path) -> tuple[Rows, list[str]]:
    """Returns the rows and columns of one of `LISTINGS`."""
    rows = LISTINGS[what](storage)
    return rows, list(rows[0]) if rows else ["name"]


def _methods(_: Path) -> Rows:
    from trainables.methods.registry import get_method, method_names

    rows = []
    for name in method_names():
        method = get_method(name)
        defaults = method.config_class()
        rows.append(
            {
                "name": name,
                "title": method.title,
                "learning_rate": defaults.learning_rate if method.trains else None,
                "max_train_steps": defaults.max_train_steps if method.trains else None,
                "prior_preservation": defaults.with_prior_preservation,
                "weights": method.artifact if method.trains else None,
            }
        )
    return rows


def family_listing() -> tuple[Rows, list[str]]:
    """Returns which method runs on which family of models, and the columns."""
    from trainables.methods.fit import matrix

    rows: Rows = [
        {"method": method, **{title: "no" if against else "yes" for title, against in families.items()}}
        for method, families in matrix().items()
    ]
    return rows, list(rows[0])


def family_obstacles() -> list[str]:
    """Returns the reason for each pair of method and family that does not go together."""
    from trainables.methods.fit import matrix

    return [against for families in matrix().values() for against in families.values() if against]


def _spaces(_: Path) -> Rows:
    from search_spaces.loader import load_space
    from trainables.methods.registry import get_method, method_names

    rows = []
    for method in method_names():
        if not get_method(method).trains:
            continue
        for model in ("embedded", "default"):
            for name, domain in load_space(method, embedded=model == "embedded").parameters.items():
                rows.append(
                    {"method": method, "model": model, "parameter": name, "domain": domain.describe()}
                )
    return rows


def _presets(_: Path) -> Rows:
    from study.spec.loading import preset_names, preset_path

    return [
        {"name": name, "file": str(preset_path(name)), "about": _description(preset_path(name))}
        for name in preset_names()
    ]


def _description(path: Path) -> str:
    """What a preset says of itself; of a template, whose places are still to be filled in, its first comment."""
    import yaml

    text = path.read_text(encoding="utf-8")
    told = yaml.safe_load(text).get("description")
    return str(told or text.splitlines()[0].lstrip("# ").strip())


def _metrics(_: Path) -> Rows:
    from trainables.evaluation.metrics_table import METRICS

    return [
        {"name": m.name, "kind": m.kind, "better": m.direction, "unit": m.unit, "description": m.description}
        for m in METRICS.values()
    ]


def _subjects(_: Path) -> Rows:
    from trainables.embedded import DATA_SETS, load_data_set, load_subject, subject_names

    rows: Rows = []
    for name in subject_names():
        subject = load_subject(name)
        rows.append({"name": name, "class": subject.class_name, "instance_prompt": subject.instance_prompt})
    for name in DATA_SETS:
        rows.append(
            {"name": name, "class": "data set", "instance_prompt": f"{load_data_set(name).trigger}, ..."}
        )
    return rows


def _studies(storage: Path) -> Rows:
    rows = []
    for name in recorded_studies(storage):
        study = Storage(storage, name)
        spec = recorded_spec(read_study_record(study))
        rows.append({"name": name, "arms": len(spec.get("arms", ())), "folder": str(study.folder)})
    return rows


LISTINGS: dict[str, Callable[[Path], Rows]] = {
    "methods": _methods,
    "spaces": _spaces,
    "presets": _presets,
    "metrics": _metrics,
    "subjects": _subjects,
    "studies": _studies,
}
