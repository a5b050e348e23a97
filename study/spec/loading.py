"""Reads study files and presets, and makes their paths absolute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.spec.contents import StudyContents
from study.spec.downstream_data import DATA, with_class_data
from study.spec.overrides import apply_overrides
from study.spec.rules import broken_rules
from study.spec.sound_sections import Sections
from study.spec.study_spec import StudySpec
from trainables.config.messages import did_you_mean
from trainables.config.paths import (
    MODELS,
    absolute_class_data,
    absolute_model,
    absolute_models,
    absolute_subject,
)
from trainables.config.yaml_reader import Document, load_document, problems_of, tell
from trainables.errors import UserError
from trainables.evaluation.prepared_classes import prepared_contents
from trainables.run.contents import contents_of, fetch_commit

PRESETS = Path(__file__).parents[1] / "presets"


def preset_names() -> list[str]:
    """Returns the names of the studies that come with the program."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Returns the file of a preset; raises UserError with the nearest name."""
    if name not in preset_names():
        hint = did_you_mean(name, preset_names())
        raise UserError(
            f"there is no file and no preset {name!r}; {hint}Presets: {', '.join(preset_names())}"
        )
    return PRESETS / f"{name}.yaml"


def load_study(source: str | Path, overrides: Iterable[str] = ()) -> StudySpec:
    """Loads a study file, or a preset by its name.

    Args:
        source: Path of a YAML file, or the name of a preset. Relative paths in a file are relative to the
            file, those in a preset to the working directory.
        overrides: ``key=value`` with dotted keys, e.g. ``search.trials=8`` or ``arms.lora.r=4``.

    Raises:
        UserError: With every problem of the file, each with its line.
    """
    source = str(source)
    is_file = source.endswith((".yaml", ".yml")) or "/" in source or Path(source).exists()
    path = Path(source) if is_file else preset_path(source)
    document = load_document(path)
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "must be a mapping of keys to values"
        raise UserError(f"{path.name} {what}; a study begins with `name:`, `subjects:` and `arms:`")
    document = apply_overrides(document, overrides, StudySpec)
    return study_of(document, folder=path.parent.absolute() if is_file else Path.cwd())


def study_of(document: Document, folder: Path) -> StudySpec:
    """Validates a parsed study file, whose relative paths start at `folder`.

    Keys that no section knows are refused as everywhere in configurations, by `trainables.config.frozen.Frozen`.

    Raises:
        UserError: All that is wrong with it, each with its line.
    """
    data, of_classes, split = with_class_data(absolute_paths(document.data, folder))
    try:
        spec = StudySpec.model_validate(data)
        if of_classes:
            raise UserError(*tell(of_classes, document))
        if split is not None:  # nothing is written for a study that is refused
            split.write()
        return spec
    except ValidationError as error:
        problems = problems_of(error, document, StudySpec) + of_classes
        if not any(entry["loc"] == () for entry in error.errors()):
            # Some section is malformed, so the rules that span sections have not been asked yet.
            problems += broken_rules(Sections.sound(data, StudySpec))
        raise UserError(*tell(problems, document)) from None


def absolute_paths(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the raw data of a study with its relative paths resolved against `folder`."""
    data = dict(data)
    if isinstance(data.get("subjects"), list):
        data["subjects"] = [absolute_subject(subject, folder) for subject in data["subjects"]]
    if isinstance(data.get("model"), str):
        data["model"] = absolute_model(data["model"], folder)
    downstream = data.get("downstream")
    if isinstance(downstream, dict) and "dataset" in downstream:
        data["downstream"] = {**downstream, "dataset": absolute_class_data(downstream["dataset"], folder)}
    for section, keys in MODELS.items():
        if section in data:
            data[section] = absolute_models(data[section], keys, folder)
    return data


def read_contents(spec: StudySpec) -> StudyContents:
    """Reads every file that a study's runs will read; raises UserError for one that cannot be read.

    Of a hub id the commit is asked for; where the hub cannot be had, it is left out, and runs look for themselves.
    """
    metric_models = {"image_encoder": spec.evaluation.image_encoder, "clip": spec.evaluation.clip}
    captions = "files" in spec.values_of("captions")
    for name in metric_models.values():
        fetch_commit(name)
    try:
        found = contents_of(None, spec.model, metric_models)
        for subject in spec.subjects:
            for field, contents in contents_of(subject, captions=captions).items():
                found[field.replace("subject.", f"subjects.{subject.name}.", 1)] = contents
        if spec.downstream is not None and spec.downstream.prepared is not None:
            found[DATA] = prepared_contents(Path(spec.downstream.prepared))
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); change its permissions"
        ) from None
    return found
