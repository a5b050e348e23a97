"""The study file: what is compared, on what, with which budget; validated, frozen, complete.

``loading.py`` reads a file or a preset; ``StudySpec.model_validate`` takes a dict. Nothing here imports
torch, ray, mlflow or optuna. What can only be judged across sections stands in ``study/spec/rules.py``, what
depends on the machine and on other files in ``study/preflight/checks.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from search_spaces.schema import SearchSpace
from study.spec.contents import StudyContents, of_run, without_paths
from study.spec.defaults import default_point
from study.spec.downstream import DownstreamSpec
from study.spec.downstream_data import downstream_problems, generation_of, identity_of
from study.spec.hypotheses import Hypothesis, Statement, statement_of
from study.spec.hypothesis_rules import levels_in
from study.spec.implied import with_implied
from study.spec.phases import ConfirmSpec, EvaluationSpec, SearchSpec
from study.spec.rules import broken_rules
from study.spec.sections import (
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
from study.spec.separation import default_subjects
from study.spec.sound_sections import Sections
from study.storage.layout import STUDY_FILE, Storage, is_storage_entry
from study.storage.run_key import Phase, RunKey
from trainables.config.fields import EMBEDDED, Frozen, ModelConfig, SubjectConfig
from trainables.config.frozen import without
from trainables.config.yaml_reader import RuleError
from trainables.errors import UserError
from trainables.methods.registry import BASE, method_config_class
from trainables.run.contents import digests
from trainables.run_config import RunConfig

LATER_FIELDS = ("restore_best", "restore_best_prompts", "inference_steps")  # of the evaluation
RECORDED = {"recorded": True}  # context of validation: the study has been launched


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
    hypotheses: dict[Name, Hypothesis] = Field(default_factory=dict)
    downstream: DownstreamSpec | None = None
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    storage: StorageSpec = StorageSpec()
    _contents: StudyContents = PrivateAttr(default_factory=dict)
    _digests: dict[str, str] = PrivateAttr(default_factory=dict)  # of `_contents`, for each run
    _spaces: dict[str, SearchSpace] = PrivateAttr(
        default_factory=dict
    )  # of a study that has begun; see `resuming`

    @model_serializer(mode="wrap")
    def _as_before_downstream(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out a downstream phase that is not there, so that records of studies stay what they were."""
        content: dict[str, Any] = dump(self)
        return content if content.get("downstream") is not None else without(content, "downstream")

    @model_validator(mode="after")
    def _complete_and_check(self, info: ValidationInfo) -> Self:
        object.__setattr__(self, "training", with_implied(self.subjects, self.training))
        problems = broken_rules(Sections.of(self), recorded=info.context == RECORDED)
        problems += _names_in_use(self.name, self.subjects)
        if self.downstream is not None and info.context != RECORDED:
            problems += downstream_problems(self.downstream, self.arms, self.confirm)
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

    def subjects_in(self, phase: Phase) -> list[SubjectConfig]:
        """Returns the subjects on which a phase has runs: none if nothing is searched, or confirmed."""
        section = self.search if phase == "search" else self.confirm
        used = any(map(self.trials_of, self.arms)) if phase == "search" else bool(self.confirm.seeds)
        return [self.subject(name) for name in section.subjects or ()] if used else []

    def space(self, arm: str) -> SearchSpace:
        """Returns what is searched in an arm: the method's space, changed by the arm, less what is fixed."""
        begun_with = self._spaces.get(arm)
        return begun_with or arm_space(self.arms[arm], self.training, self.budget, self.model)

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
        searched = self.space(arm).parameters
        stated = {name: value for name, value in fixed.items() if name not in searched}
        embedded = self.model.path == EMBEDDED
        beside = method_config_class(method).defaults_beside(stated, embedded=embedded)
        return {**method_defaults(method), **beside, **stated}

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

    def confirmed_subjects(self, arm: str, repeat: int) -> tuple[str, ...]:
        """Returns the subjects on which the choice of one of an arm's searches is confirmed."""
        return self.subjects_of("confirm", repeat) if self.trials_of(arm) else self.confirm.subjects or ()

    def subjects_of(self, phase: Phase, repeat: int) -> tuple[str, ...]:
        """Returns the subjects of one search, or those on which its choice is confirmed: dealt out one by one, the
        same for every arm.
        """
        subjects = (self.search if phase == "search" else self.confirm).subjects or ()
        return subjects[repeat :: self.search.repeats]

    def _keys(
        self,
        phase: Phase,
        arm: str,
        trial: int,
        subjects: Iterable[str] | None,
        seeds: Iterable[int],
    ) -> list[RunKey]:
        return [RunKey(phase, arm, trial, subject, seed) for subject in subjects or () for seed in seeds]

    def number_of_runs(self) -> int:
        """Returns the number of runs that fine-tune, in both phases, if no early stopping happens."""
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
                values.add(self.method_fields(name).get(field))
        return values

    def method_config(self, arm: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the training fields of a trial: the common ones, the budget, the fixed ones, `params`."""
        return merged_training(self.training, self.budget, self.arms[arm].fixed, params)

    def run_config(self, key: RunKey, params: Mapping[str, Any], storage: Storage) -> RunConfig:
        """Returns the full configuration of one run of a trial with the given parameters."""
        training = self.method_config(key.arm, params)
        captions = {**self.method_fields(key.arm), **training}["captions"] == "files"
        return RunConfig(
            method=self.arms[key.arm].method,
            model=self.model,
            subject=self.subject(key.subject),
            training=training,
            evaluation=self.evaluation.of_phase(key.planned_phase),
            seed=key.seed,
            device="cuda" if self.resources.worker_gpus > 0 else "cpu",
            cpu_threads=self.resources.worker_cpus,
            gpu_share=min(self.resources.worker_gpus, 1) or 1,
            output_dir=str(storage.run_folder(key)),
            cache_dir=str(storage.cache),
            contents=of_run(self._digests, key.subject, captions=captions),
            **self._generation(key),
        )

    def _generation(self, key: RunKey) -> dict[str, Any]:
        """What a confirm run draws for classifiers, as a field of its configuration."""
        if self.downstream is None or key.phase != "confirm":
            return {}
        method = self.arms[key.arm].method
        return {"generation": generation_of(self.downstream, key.subject, untrained=method == BASE)}

    def digest_of(self, field: str) -> str | None:
        """Returns the digest of what lies in a folder that the study names, if it has been read."""
        return self._digests.get(field)

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The hypotheses, with the arms that their conditions mean."""
        arms, levels = tuple(self.arms), levels_in(Sections.of(self))
        return tuple(statement_of(name, one, arms, levels) for name, one in self.hypotheses.items())

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

    def resuming(self, record: Mapping[str, Any]) -> Self:
        """Returns the study with the search spaces that it was begun with, by its record.

        Ranges that come with the program may change from version to version: a study that has begun keeps its own, in
        every arm of which the study file still says the same.
        """
        begun, stated = record.get("identity", {}).get("arms", {}), record.get("spec", {}).get("arms", {})
        copy = self.model_copy()
        copy._spaces = {}
        for name, arm in self.arms.items():
            if name in begun and _stated(stated.get(name) or {}) == _stated(arm.model_dump(mode="json")):
                with contextlib.suppress(ValidationError):  # of a version that this one does not understand
                    own = SearchSpace.model_validate({"parameters": begun[name]["search_space"]})
                    if own != copy.space(name):
                        copy._spaces[name] = own
        return copy

    def identity(self) -> dict[str, Any]:
        """Returns, as JSON values, everything that decides which runs there are and what they do.

        The effective search spaces are included; resources, tracking, storage, report and hypotheses are not, so that
        a study may be resumed with other resources.
        """
        without = {"resources", "tracking", "storage", "report", "hypotheses", "description"}
        content = self.model_dump(mode="json", exclude=without)
        content["budget"].pop("max_hours")
        for field in LATER_FIELDS:  # as before there were any, a study without them is the same
            if content["evaluation"][field] in (None, []):
                del content["evaluation"][field]
        if self.downstream is not None:
            content["downstream"] = identity_of(self.downstream)
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
            return spec.with_contents(record.get("identity", {}).get("contents") or {}).resuming(record)
        except (ValidationError, KeyError) as error:
            raise UserError(f"{STUDY_FILE} is not a study of this version: {error}") from None

    def to_yaml(self) -> str:
        """Returns the study as a YAML file that loads to the same study."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110)


def _stated(arm: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arm.items() if value is not None}
