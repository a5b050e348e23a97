"""The study file: what is compared, on what, with which budget; validated, frozen, complete.

``load_study`` reads a file or a preset; ``StudySpec.model_validate`` takes a dict. Nothing here imports
torch, ray, mlflow or optuna. What can only be judged across sections stands in ``study/rules.py``, what
depends on the machine and on other files in ``study/checks.py``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from search_spaces.schema import SearchSpace
from study.contents import NOT_RECORDED, StudyContents, differing, of_run, without_paths
from study.defaults import default_point
from study.errors import UserError
from study.overrides import apply_overrides
from study.phases import ConfirmSpec, EvaluationSpec, SearchSpec
from study.rules import Sections, broken_rules
from study.sections import (
    BASE,
    Arm,
    Budget,
    Name,
    ReportSpec,
    Resources,
    StorageSpec,
    Tracking,
    arm_space,
    code_of,
    dump,
    merged_training,
    method_defaults,
    sound_name,
)
from study.separation import default_subjects
from study.storage.layout import Storage, is_storage_entry
from study.storage.run_key import RunKey
from trainables.config.fields import EMBEDDED, Frozen, ModelConfig, SubjectConfig
from trainables.config.messages import did_you_mean
from trainables.config.yaml_reader import Document, RuleError, load_document, problems_of, tell
from trainables.methods.registry import method_config_class
from trainables.run.contents import digests
from trainables.run_config import RunConfig
from trainables.util.process import expanded

RECORDED = {"recorded": True}  # context of validation: the study has been launched
PRESETS = Path(__file__).parent / "presets"


def _subject(value: Any) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, dict) and isinstance(value.get("name"), str):
        sound_name(value["name"])
    return value


def _model(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _names_in_use(study: str, subjects: Iterable[SubjectConfig]) -> list[tuple[tuple[str | int, ...], str]]:
    """Names whose folders are those of something else, if only where upper and lower case are the same (macOS)."""
    problems: list[tuple[tuple[str | int, ...], str]] = []
    if is_storage_entry(study):
        problems.append((("name",), f"{study!r} is used by the storage folder itself; choose another name"))
    known: dict[str, str] = {}
    for position, subject in enumerate(subjects):
        other = known.setdefault(subject.name.casefold(), subject.name)
        if other != subject.name:
            same = (
                f"differs from {other!r} only in case, which some file systems do not tell apart; rename one"
            )
            problems.append((("subjects", position, "name"), same))
    return problems


class StudySpec(Frozen):
    """A whole study. After validation nothing is left to defaults that could change later."""

    name: Name
    description: str = ""
    model: Annotated[ModelConfig, BeforeValidator(_model)] = ModelConfig()
    subjects: tuple[Annotated[SubjectConfig, BeforeValidator(_subject)], ...] = Field(min_length=1)
    training: dict[str, Any] = Field(default_factory=dict)
    arms: dict[Name, Arm] = Field(min_length=1)
    search: SearchSpec = SearchSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    budget: Budget = Budget()
    evaluation: EvaluationSpec = EvaluationSpec()
    report: ReportSpec = ReportSpec()
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    storage: StorageSpec = StorageSpec()
    _contents: StudyContents = PrivateAttr(default_factory=dict)
    _digests: dict[str, str] = PrivateAttr(default_factory=dict)  # of `_contents`, for each run

    @model_validator(mode="after")
    def _complete_and_check(self, info: ValidationInfo) -> Self:
        problems = broken_rules(Sections.of(self), recorded=info.context == RECORDED)
        problems += _names_in_use(self.name, self.subjects)
        if problems:
            raise RuleError(problems)
        searched, confirmed = default_subjects(self.subjects, self.search, self.confirm)
        object.__setattr__(self, "search", self.search.model_copy(update={"subjects": searched}))
        object.__setattr__(self, "confirm", self.confirm.model_copy(update={"subjects": confirmed}))
        return self

    # ------------------------------------------------------------------ what it means

    def subject(self, name: str) -> SubjectConfig:
        """Returns the subject called `name`; raises KeyError."""
        return next(subject for subject in self.subjects if subject.name == name)

    def space(self, arm: str) -> SearchSpace:
        """Returns what is searched in an arm: the method's space, changed by the arm, less what is fixed."""
        return arm_space(self.arms[arm], self.training, self.budget, self.model)

    def trials_of(self, arm: str) -> int:
        """Returns the number of trials of each search of an arm: 0 without a space, at most the points of a grid."""
        space = self.space(arm)
        if not space.parameters:
            return 0
        trials = self.search.trials or 8
        if self.search.trials_per_method is not None:
            code = code_of(self.arms[arm].method)
            alike = sorted(  # by name, because the order of arms means nothing
                n
                for n, other in self.arms.items()
                if code_of(other.method) == code and self.space(n).parameters
            )
            share, rest = divmod(self.search.trials_per_method, len(alike))
            trials = share + (alike.index(arm) < rest)
        return min(trials, space.grid_size()) if self.search.sampler == "grid" else trials

    def default_params(self, arm: str) -> dict[str, Any]:
        """Returns the parameters of each search's first trial: the method's defaults, and all of the budget."""
        defaults = {**self.method_fields(arm), **self.budget.fields}
        return default_point(self.space(arm), defaults)

    def method_fields(self, arm: str) -> dict[str, Any]:
        """Returns the value of every training field of an arm where nothing is searched."""
        method = self.arms[arm].method
        fixed = self.method_config(arm, {})
        embedded = method_config_class(method).EMBEDDED_DEFAULTS if self.model.path == EMBEDDED else {}
        searched = self.space(arm).parameters
        stated = {name: value for name, value in fixed.items() if name not in searched}
        return {**method_defaults(method), **embedded, **stated}

    def search_keys(self, arm: str, trial: int) -> list[RunKey]:
        """Returns the runs of one search trial, on the subjects of its search (see `repeat_of`)."""
        subjects = self.subjects_of("search", self.repeat_of(arm, trial))
        return self._keys("search", arm, trial, subjects, self.search.seeds)

    def confirm_keys(self, arm: str, trial: int, repeat: int | None = None) -> list[RunKey]:
        """Returns the confirm runs of an arm whose search chose `trial`.

        Args:
            repeat: The search: only the subjects that are dealt out to it. None: all subjects.
        """
        subjects = self.confirm.subjects if repeat is None else self.subjects_of("confirm", repeat)
        return self._keys("confirm", arm, trial, subjects, self.confirm.seeds)

    def repeat_of(self, arm: str, trial: int) -> int:
        """Returns to which of an arm's searches a trial number belongs."""
        return trial // max(1, self.trials_of(arm)) if self.search.repeats > 1 else 0

    def subjects_of(self, phase: Literal["search", "confirm"], repeat: int) -> tuple[str, ...]:
        """Returns the subjects of one search, or those on which its choice is confirmed: dealt out one by one, the
        same for every arm.
        """
        subjects = (self.search if phase == "search" else self.confirm).subjects or ()
        return subjects[repeat :: self.search.repeats]

    def _keys(
        self,
        phase: Literal["search", "confirm"],
        arm: str,
        trial: int,
        subjects: Iterable[str] | None,
        seeds: Iterable[int],
    ) -> list[RunKey]:
        return [RunKey(phase, arm, trial, subject, seed) for subject in subjects or () for seed in seeds]

    def number_of_runs(self) -> int:
        """Returns the number of runs of both phases, if no early stopping happens."""
        return sum(self.search_runs_of(arm) + len(self.confirm_keys(arm, 0)) for arm in self.arms)

    def search_runs_of(self, arm: str) -> int:
        """Returns the number of runs in all searches of an arm, if no early stopping happens."""
        return self.search.repeats * self.trials_of(arm) * len(self.search_keys(arm, 0))

    def values_of(self, field: str) -> set[Any]:
        """Returns every value of a training field in the arms that train, or its ends where it is searched."""
        values: set[Any] = set()
        for name, arm in self.arms.items():
            if arm.method == BASE and field != "resolution":
                continue
            dimension = self.space(name).parameters.get(field)
            if dimension is not None:
                values |= set(dimension.probes())
            else:
                values.add(self.method_config(name, {}).get(field))
        return values

    def method_config(self, arm: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the training fields of a trial: the common ones, the budget, the fixed ones, `params`."""
        return merged_training(self.training, self.budget, self.arms[arm].fixed, params)

    def run_config(self, key: RunKey, params: Mapping[str, Any], storage: Storage) -> RunConfig:
        """Returns the full configuration of one run of a trial with the given parameters."""
        training = self.method_config(key.arm, params)
        captions = training.get("captions") == "files"
        return RunConfig(
            method=self.arms[key.arm].method,
            model=self.model,
            subject=self.subject(key.subject),
            training=training,
            evaluation=self.evaluation.of_phase(key.phase),
            seed=key.seed,
            device="cuda" if self.resources.worker_gpus > 0 else "cpu",
            cpu_threads=self.resources.worker_cpus,
            gpu_share=min(self.resources.worker_gpus, 1) or 1,
            output_dir=str(storage.run_folder(key)),
            cache_dir=str(storage.cache),
            contents=of_run(self._digests, key.subject, captions=captions),
        )

    # ------------------------------------------------------------------ identity and storage

    @property
    def contents(self) -> StudyContents:
        """What lies in the folders that the study names, if it has been read (`with_contents`)."""
        return self._contents

    def with_contents(self, contents: StudyContents) -> Self:
        """Returns the study with what lies in its folders, which then belongs to its identity; their paths do not."""
        copy = self.model_copy()
        copy._contents, copy._digests = dict(contents), digests(contents)
        return copy

    def identity(self) -> dict[str, Any]:
        """Returns, as JSON values, everything that decides which runs there are and what they do.

        The effective search spaces are included; resources, tracking, storage and report are not, so that a study
        may be resumed with other resources.
        """
        without = {"resources", "tracking", "storage", "report", "description"}
        content = self.model_dump(mode="json", exclude=without)
        content["budget"].pop("max_hours")
        content["arms"] = {
            name: {**arm.model_dump(mode="json"), "search_space": dump(self.space(name))["parameters"]}
            for name, arm in self.arms.items()
        }
        if self._contents:
            without_paths(content, self._contents)
            content["contents"] = self._contents
        return content

    def digest(self) -> str:
        """Returns the hex SHA-256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Returns what ``study.json`` holds: the spec, its identity and its digest."""
        return {"digest": self.digest(), "identity": self.identity(), "spec": self.model_dump(mode="json")}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Returns the spec of a ``study.json``; raises UserError if this version no longer understands it."""
        try:
            spec = cls.model_validate(record["spec"], context=RECORDED)
            return spec.with_contents(record.get("identity", {}).get("contents") or {})
        except (ValidationError, KeyError) as error:
            raise UserError(f"study.json is not a study of this version: {error}") from None

    def to_yaml(self) -> str:
        """Returns the study as a YAML file that loads to the same study."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def difference(old: Mapping[str, Any] | StudySpec, new: StudySpec) -> list[str]:
    """Returns one line for every value that differs between two studies, e.g. ``search.trials: 4 -> 8``.

    Args:
        old: A study, or the record of one.
        new: The study to compare with it.
    """
    before = dict(old.identity() if isinstance(old, StudySpec) else old["identity"])
    held = before.pop("contents", None)
    after = (new if held is not None else new.with_contents({})).identity()
    after.pop("contents", None)
    left, right = _flatten(before), _flatten(after)
    lines = []
    for path in sorted(
        {**left, **right}, key=lambda path: (list(left).index(path) if path in left else len(left), path)
    ):
        a, b = left.get(path, _ABSENT), right.get(path, _ABSENT)
        if a != b:
            lines.append(f"{path}: {_show(a)} -> {_show(b)}")
    if held is None:
        return lines + ([NOT_RECORDED] if new.contents else [])
    return lines + differing(held, new.contents)


# ---------------------------------------------------------------------- loading


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
    """Validates a parsed study file, whose relative paths start at `folder`; raises UserError."""
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
        data["model"] = {**data["model"], "path": _model_path(data["model"]["path"], folder)}
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
    return {
        key: str(_absolute(value, folder))
        if key in ("images", "references") and isinstance(value, str) and value
        else value
        for key, value in subject.items()
    }


def _model_path(value: str, folder: Path) -> str:
    """A folder as an absolute path; ``embedded`` and hub ids (``organisation/model``) stay as they are."""
    is_path = (
        value.startswith((".", "/", "~"))
        or value.count("/") > 1
        or (value != EMBEDDED and (folder / value).is_dir())
    )
    return str(_absolute(value, folder)) if is_path else value


def _absolute(value: str, folder: Path) -> Path:
    return (folder / expanded(value)).resolve()


# ---------------------------------------------------------------------- helpers

_ABSENT = object()


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted path -> leaf; lists of named things (subjects) by name, other lists are leaves."""
    if isinstance(value, dict) and value:
        items = value.items()
    elif (
        isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value)
    ):
        items = {item["name"]: item for item in value}.items()
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _show(value: Any) -> str:
    return "(absent)" if value is _ABSENT else json.dumps(value)
