"""The sections of a study file: what may stand in each, with its default."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_serializer, model_validator

from search_spaces.documents import RuleError
from search_spaces.loader import load_space, merge
from search_spaces.schema import Dimension, SearchSpace
from search_spaces.wording import did_you_mean
from study.provenance import carries_password
from study.runs import sqlite_problem, unportable
from trainables.catalogue import method_config_class, method_names
from trainables.config import EMBEDDED, Frozen, ModelConfig
from trainables.metrics_table import METRICS, unknown_metric

BASE = "base"
NAME_RULE = "letters, digits, '_', '-' and '.', beginning with a letter or digit, at most 64 characters"

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def sound_name(value: Any) -> Any:
    """Names become folders, MLflow experiments and file names in papers."""
    if isinstance(value, str):
        sound = 0 < len(value) <= 64 and set(value) <= _NAME_CHARACTERS and value[0].isalnum()
        if not sound:
            raise ValueError(f"{value!r} cannot be a name, because names become folders: use {NAME_RULE}")
        if problem := unportable(value):
            raise ValueError(f"{value!r} cannot be a name, because names become folders: {problem}")
    return value


def _method(value: Any) -> Any:
    if not isinstance(value, str) or value not in method_names():
        hint = did_you_mean(value, method_names())
        raise ValueError(f"unknown method {value!r}; {hint}Methods: {', '.join(method_names())}")
    return value


def _metric(value: Any) -> Any:
    if isinstance(value, str) and (problem := unknown_metric(value)):
        raise ValueError(problem)
    return value


Name = Annotated[str, BeforeValidator(sound_name)]
MethodName = Annotated[str, BeforeValidator(_method)]
MetricName = Annotated[str, BeforeValidator(_metric)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Arm(Frozen):
    """One thing that is compared. In the file its fields stand flat beside `method`.

    Attributes:
        method: A name of the catalogue.
        fixed: Fields of the method's configuration that this arm fixes; they leave its search space.
        search_space: Dimensions that replace or extend those of the method; None removes one.
        searched: False for ``search_space: fixed``: one configuration, confirmed without a search.
    """

    method: MethodName
    fixed: dict[str, Any] = Field(default_factory=dict)
    search_space: dict[str, Dimension | None] | None = None
    searched: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_flat(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        structured: dict[str, Any] = {
            key: values.pop(key) for key in ("method", "search_space") if key in values
        }
        if structured.get("search_space") == "fixed":
            structured |= {"search_space": None, "searched": False}
        elif isinstance(structured.get("search_space"), SearchSpace):
            structured["search_space"] = structured["search_space"].parameters
        return {**structured, "fixed": values}

    @model_serializer
    def _to_flat(self) -> dict[str, Any]:
        space: Any = None if self.searched else "fixed"
        if self.search_space is not None:
            space = {name: dump(dim) for name, dim in self.search_space.items()}
        return {"method": self.method, **self.fixed, **({} if space is None else {"search_space": space})}


class Asha(Frozen):
    """Early stopping in the search phase: at each rung the worse runs of an arm are stopped.

    Attributes:
        grace_fraction: No run is stopped before this fraction of its training steps.
        reduction_factor: One in so many runs passes each rung.
    """

    type: Literal["asha"] = "asha"
    grace_fraction: float = Field(default=0.25, gt=0, lt=1)
    reduction_factor: float = Field(default=3, gt=1)


def _scheduler(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


class SearchSpec(Frozen):
    """The search phase: chooses one configuration per arm; its scores are not results.

    Attributes:
        trials: Configurations per arm; arms without anything to search have none, and go straight to their
            confirm runs.
        objective: The metric to optimise; `objectives` for several at once (a front).
        subjects: Names; default: the first subject. A trial runs on every subject with every seed.
        scheduler: Early stopping (Ray Tune), or None.
    """

    hints: ClassVar[dict[str, str]] = {
        "pruner": "Optuna's pruners do not act here; write `scheduler: {type: asha}` instead",
        "direction": "the direction follows from the metric (`study ls metrics`); remove it",
    }

    sampler: Literal["tpe", "random", "gp", "nsgaii", "grid"] = "tpe"
    trials: int = Field(default=8, ge=1)
    seed: Seed = 0
    objective: MetricName | None = None
    objectives: tuple[MetricName, ...] | None = None
    subjects: tuple[str, ...] | None = None
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    scheduler: Annotated[Asha | None, BeforeValidator(_scheduler)] = None

    @model_validator(mode="after")
    def _one_kind_of_objective(self) -> Self:
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.objective is not None and self.objectives is not None:
            problems.append(
                (("objectives",), "give either objective (one metric) or objectives (several), not both")
            )
        elif self.objectives is not None and not self.objectives:
            problems.append((("objectives",), "is empty; name at least one metric, for example [quality]"))
        if len(set(self.metrics)) < len(self.metrics):
            problems.append((("objectives",), "names a metric twice; remove one"))
        several = len(self.metrics) > 1
        if several and self.sampler in ("gp", "grid"):
            why = f"{self.sampler} searches for one objective, but there are {len(self.metrics)}"
            problems.append((("sampler",), f"{why}; use tpe, random or nsgaii, or a single objective"))
        if several and self.scheduler is not None:
            problems.append(
                (
                    ("scheduler",),
                    "asha compares runs by one objective; use a single objective or no scheduler",
                )
            )
        if len(set(self.seeds)) < len(self.seeds):
            problems.append((("seeds",), "contains a seed twice; each seed is one run"))
        if problems:
            raise RuleError(problems)
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are optimised; ``quality`` by default."""
        return self.objectives or (self.objective or "quality",)

    @property
    def directions(self) -> tuple[Literal["maximize", "minimize"], ...]:
        """Optuna's direction of each of `metrics`."""
        return tuple(
            "maximize" if METRICS[name].direction == "higher" else "minimize" for name in self.metrics
        )


class ConfirmSpec(Frozen):
    """The confirm phase: each arm's chosen configuration on fresh seeds and subjects. Only this is compared.

    Attributes:
        subjects: Names; default: all subjects but those of the search, or all if that leaves none.
        seeds: None of those of the search; an empty list leaves the phase out.
    """

    subjects: tuple[str, ...] | None = None
    seeds: tuple[Seed, ...] = (100, 101, 102)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise RuleError([(("seeds",), "contains a seed twice; each seed is one run")])
        return self


class Budget(Frozen):
    """What every arm may spend.

    Attributes:
        max_train_steps: Optimizer steps of a run; an arm may fix or search fewer.
        max_hours: Wall hours after which a launch starts no further runs (it can be resumed); None: no limit.
    """

    max_train_steps: int = Field(default=200, ge=1)
    max_hours: float | None = Field(default=None, gt=0)


class Resources(Frozen):
    """What Ray reserves for a run. Not part of the study's identity: a resume may use another machine, and
    another number of workers.

    Attributes:
        cpus_per_run: Of a run that one process trains; also its threads on the CPU.
        gpus_per_run: GPUs of such a run; fractions share one.
        num_workers: Processes that train one run together, each on its slice of every batch.
        cpus_per_worker: Of each of them; None: 1.
        gpus_per_worker: 0 or 1; None: 0.
        parallel_strategy: How they hold the model: each the whole of it (``ddp``), or each a part of its weights,
            gradients and optimizer state (``fsdp``).
        max_concurrent_runs: None: as many as the cluster's CPUs and GPUs hold.
        max_attempts: How often a run that crashes is started.
    """

    cpus_per_run: int = Field(default=1, ge=1)
    gpus_per_run: float = Field(default=0, ge=0)
    num_workers: int = Field(default=1, ge=1)
    cpus_per_worker: int | None = Field(default=None, ge=1)
    gpus_per_worker: int | None = Field(default=None, ge=0)
    parallel_strategy: Literal["ddp", "fsdp"] = "ddp"
    max_concurrent_runs: int | None = Field(default=None, ge=1)
    max_attempts: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.gpus_per_run > 1 and self.gpus_per_run != int(self.gpus_per_run):
            problems.append((("gpus_per_run",), f"above 1 must be a whole number, got {self.gpus_per_run:g}"))
        for kind in ("cpus", "gpus"):
            # A default that is written out, as study.json does, says nothing.
            run, worker = getattr(self, f"{kind}_per_run"), getattr(self, f"{kind}_per_worker")
            if run == type(self).model_fields[f"{kind}_per_run"].default:
                continue
            if worker is not None:
                what = f"stands beside {kind}_per_worker: {worker}; give one of them"
                problems.append(((f"{kind}_per_run",), f"{run:g} {what}"))
            elif self.num_workers > 1:
                each = max(1, int(run // self.num_workers)) if kind == "cpus" else 1
                problems.append(
                    (
                        (f"{kind}_per_run",),
                        f"{run:g} is for runs with one worker, but num_workers is {self.num_workers}; "
                        f"write {kind}_per_worker: {each} (of each worker) instead",
                    )
                )
        if self.gpus_per_worker is not None and self.gpus_per_worker > 1:
            problems.append(
                (
                    ("gpus_per_worker",),
                    f"must be 0 or 1, since a worker computes on one GPU, got {self.gpus_per_worker}; "
                    "for more GPUs take more workers (num_workers)",
                )
            )
        if self.sharded and self.num_workers == 1:
            problems.append(
                (
                    ("parallel_strategy",),
                    "fsdp deals the model out to the workers of a run, but num_workers is 1; take at least 2 "
                    "workers, or remove it",
                )
            )
        if problems:
            raise RuleError(problems)
        return self

    @property
    def sharded(self) -> bool:
        """Whether the workers of a run share one model."""
        return self.parallel_strategy == "fsdp"

    @property
    def worker_cpus(self) -> int:
        """CPUs of each worker of a run."""
        return self.cpus_per_worker or self.cpus_per_run

    @property
    def worker_gpus(self) -> float:
        """GPUs of each worker of a run."""
        return self.gpus_per_run if self.gpus_per_worker is None else self.gpus_per_worker


class ReportSpec(Frozen):
    """How the report judges. Not part of the study's identity, because no run depends on it.

    Attributes:
        margin: Differences in quality within it count as equivalent; stated before the results are known.
    """

    margin: float = Field(default=0.05, gt=0, lt=1)


class Tracking(Frozen):
    """MLflow.

    Attributes:
        uri: None: MLFLOW_TRACKING_URI, or else one SQLite file in the storage folder.
        log_weights_limit_mb: Larger weights stay in storage and are logged by reference.
    """

    uri: str | None = None
    log_weights_limit_mb: float = Field(default=32, ge=0)

    @model_validator(mode="after")
    def _has_no_password(self) -> Self:
        if self.uri is not None and carries_password(self.uri):
            raise RuleError(
                [
                    (
                        ("uri",),
                        "has a password in it, and study files are recorded and published; take it out and set "
                        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or write it to ~/.netrc (mode 0600)",
                    )
                ]
            )
        return self


class StorageSpec(Frozen):
    """The ledger, and what is copied into the storage.

    Attributes:
        ledger_url: Any RDB URL of Optuna, without a password; None: ``ledger.db`` in the study's folder.
        ship_limit_gb: Folders of images and models that some node of a cluster lacks are copied to the storage, if all
            together are not larger.
    """

    ledger_url: str | None = None
    ship_limit_gb: float = Field(default=20, ge=0)

    @model_validator(mode="after")
    def _is_url(self) -> Self:
        if self.ledger_url is not None and "://" not in self.ledger_url:
            example = "sqlite:////path/ledger.db or postgresql://host/database"
            raise RuleError([(("ledger_url",), f"must be a URL such as {example}, got {self.ledger_url!r}")])
        if self.ledger_url is not None and (problem := sqlite_problem(self.ledger_url)):
            raise RuleError([(("ledger_url",), f"{self.ledger_url!r}: {problem}")])
        if self.ledger_url is not None and carries_password(self.ledger_url):
            remedy = (
                "has a password in it, and study files are recorded and published; take it out and set "
                "STUDY_LEDGER_PASSWORD or PGPASSWORD, or write it to ~/.pgpass (mode 0600)"
            )
            raise RuleError([(("ledger_url",), remedy)])
        return self


def _model(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def merged_training(
    training: Mapping[str, Any], budget: Budget, fixed: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Merges the sources of training fields; the later wins."""
    return {**training, "max_train_steps": budget.max_train_steps, **fixed, **params}


def arm_space(arm: Arm, training: Mapping[str, Any], budget: Budget, model: ModelConfig) -> SearchSpace:
    """Returns the effective search space of an arm (see `StudySpec.space`)."""
    if arm.method == BASE or not arm.searched:
        return SearchSpace()
    own = arm.search_space or {}
    fixed = merged_training(training, budget, arm.fixed, {})
    fixed = {name: value for name, value in fixed.items() if name not in own}
    defaults = method_defaults(arm.method)
    return merge(load_space(arm.method, embedded=model.path == EMBEDDED), own).resolve(fixed, defaults)


@functools.cache
def method_defaults(method: str) -> dict[str, Any]:
    """Returns the default of every field of a method."""
    return method_config_class(method)().model_dump()


def dump(value: Any) -> Any:
    """Returns a dimension or space as JSON values, without what is unset."""
    return None if value is None else value.model_dump(mode="json", exclude_none=True)
