"""Reads study files and presets, and makes their paths absolute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from study.spec.contents import StudyContents
from study.spec.overrides import apply_overrides
from study.spec.rules import broken_rules
from study.spec.sound_sections import Sections
from study.spec.study_spec import StudySpec
from trainables.config.fields import ALPHA, DATA_SET_FOLDERS, EMBEDDED, SUBJECT_FOLDERS
from trainables.config.messages import did_you_mean
from trainables.config.yaml_reader import Document, load_document, problems_of, tell
from trainables.errors import UserError
from trainables.run.contents import contents_of, fetch_commit
from trainables.util.process import expanded

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
    data = absolute_paths(document.data, folder)
    try:
        return StudySpec.model_validate(data)
    except ValidationError as error:
        problems = problems_of(error, document, StudySpec)
        if not any(entry["loc"] == () for entry in error.errors()):
            # Some section is malformed, so the rules that span sections have not been asked yet.
            problems += broken_rules(Sections.sound(data, StudySpec))
        raise UserError(*tell(problems, document)) from None


def absolute_paths(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the raw data of a study with its relative paths resolved against `folder`."""
    data = dict(data)
    subjects = data.get("subjects")
    if isinstance(subjects, list):
        data["subjects"] = [_subject_paths(subject, folder) for subject in subjects]
    if isinstance(data.get("model"), str):
        data["model"] = _model_path(data["model"], folder)
    elif isinstance(data.get("model"), dict) and isinstance(data["model"].get("path"), str):
        paths = {
            key: data["model"][key] for key in ("path", "config") if isinstance(data["model"].get(key), str)
        }
        data["model"] = {
            **data["model"],
            **{key: _model_path(value, folder) for key, value in paths.items()},
        }
    evaluation = data.get("evaluation")
    if isinstance(evaluation, dict):
        data["evaluation"] = {
            key: _model_path(value, folder)
            if key in ("image_encoder", "clip") and isinstance(value, str)
            else value
            for key, value in evaluation.items()
        }
    return data


def _subject_paths(subject: Any, folder: Path) -> Any:
    if not isinstance(subject, dict):
        return subject
    found = {
        key: str(_absolute(value, folder))
        if isinstance(value, str) and value and (key, value) != ("masks", ALPHA) and key in SUBJECT_FOLDERS
        else value
        for key, value in subject.items()
    }
    if isinstance(data_set := found.get("dataset"), dict):
        found["dataset"] = {
            key: str(_absolute(value, folder))
            if isinstance(value, str) and value.strip() and key in DATA_SET_FOLDERS
            else value
            for key, value in data_set.items()
        }
    return found


def _model_path(value: str, folder: Path) -> str:
    """A folder or file as an absolute path; ``embedded`` and hub ids (``organisation/model``) stay as they are."""
    is_path = (
        value.startswith((".", "/", "~"))
        or value.count("/") > 1
        or (value != EMBEDDED and (folder / value).is_dir())
        or value.endswith(".safetensors")
    )
    return str(_absolute(value, folder)) if is_path else value


def _absolute(value: str, folder: Path) -> Path:
    return (folder / expanded(value)).resolve()


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
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); change its permissions"
        ) from None
    return found
