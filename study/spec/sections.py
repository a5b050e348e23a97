"""The sections of a study file: what may stand in each, with its default."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from search_spaces.loader import load_space, merge, without_choices
from search_spaces.schema import Dimension, Float, Int, SearchSpace
from study.storage.layout import LEDGER_FILE, sqlite_problem, unportable
from study.util.redaction import carries_password
from trainables.config.fields import EMBEDDED, Frozen, ModelConfig
from trainables.config.messages import did_you_mean
from trainables.config.yaml_reader import RuleError
from trainables.methods.registry import BASE, get_method, method_config_class, method_names

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


def code_of(method: str) -> str:
    """Returns the name under which a method counts: methods that differ in their defaults alone are one."""
    known = (
        get_method(method) if method in method_names() else None
    )  # records name methods of other versions, too
    return getattr(known, "variant_of", None) or method


def _method(value: Any) -> Any:
    if not isinstance(value, str) or value not in method_names():
        hint = did_you_mean(value, method_names())
        raise ValueError(f"unknown method {value!r}; {hint}Methods: {', '.join(method_names())}")
    return value


Name = Annotated[str, BeforeValidator(sound_name)]
MethodName = Annotated[str, BeforeValidator(_method)]

MOST_STEPS = 10_000_000  # where training ends by another budget
#: Training fields that end training -> the budget in the same currency.
LENGTHS = {
    "max_train_steps": "max_train_steps",
    "max_train_flops": "train_flops",
    "max_train_seconds": "train_seconds",
}
SHARE = "budget_share"  # the training field that takes a part of a budget of FLOPs or seconds


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


class Budget(Frozen):
    """What every run of every arm may spend, in one of three currencies.

    Class images of prior preservation are paid from FLOPs and seconds, in full by each run that trains on them.

    Attributes:
        max_train_steps: Optimizer steps; 200 where no budget is given. An arm may fix or search fewer.
        train_flops: Counted floating-point operations of training: the same on every machine.
        train_seconds: Seconds of training on the machine of the run, which differ from machine to machine.
        tuned_from: Share from which on each arm's search tunes how much of the budget a run takes, because the best
            length differs by method; None: every run takes all of it. Of FLOPs and seconds it is a share of what class
            images have left, so that arms with and without them are tuned over the same range.
        max_hours: Wall hours after which a launch starts no further runs (it can be resumed); None: no limit.
    """

    max_train_steps: int | None = Field(default=None, ge=1)
    train_flops: float | None = Field(default=None, gt=0)
    train_seconds: float | None = Field(default=None, gt=0)
    tuned_from: float | None = Field(default=None, gt=0, lt=1)
    max_hours: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_currency(self) -> Self:
        given = [name for name in ("max_train_steps", "train_flops", "train_seconds") if getattr(self, name)]
        if len(given) > 1:
            raise RuleError([((given[-1],), f"stands beside {given[0]}; give one of the two")])
        return self

    @property
    def steps(self) -> int | None:
        """Optimizer steps; None where the budget is another."""
        if self.train_flops is None and self.train_seconds is None:
            return self.max_train_steps or 200
        return None

    @property
    def fields(self) -> dict[str, Any]:
        """The budget as training fields."""
        if self.train_flops is not None:
            return {"max_train_steps": MOST_STEPS, "max_train_flops": self.train_flops}
        if self.train_seconds is not None:
            return {"max_train_steps": MOST_STEPS, "max_train_seconds": self.train_seconds}
        return {"max_train_steps": self.steps}

    @property
    def tuned(self) -> dict[str, Dimension]:
        """The dimension by which an arm tunes its length inside the budget."""
        if self.tuned_from is None:
            return {}
        if self.steps is None:
            return {SHARE: Float(type="float", low=self.tuned_from, high=1.0, log=True)}
        low = max(1, min(self.steps - 1, round(self.steps * self.tuned_from)))
        return {"max_train_steps": Int(type="int", low=low, high=self.steps, log=True)}


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
        price_per_hour: Dollars of an hour of one device, by ``gpu`` and ``cpu`` (a core); without it the report
            names no dollars.
    """

    cpus_per_run: int = Field(default=1, ge=1)
    gpus_per_run: float = Field(default=0, ge=0)
    num_workers: int = Field(default=1, ge=1)
    cpus_per_worker: int | None = Field(default=None, ge=1)
    gpus_per_worker: int | None = Field(default=None, ge=0)
    parallel_strategy: Literal["ddp", "fsdp"] = "ddp"
    max_concurrent_runs: int | None = Field(default=None, ge=1)
    max_attempts: int = Field(default=3, ge=1)
    price_per_hour: dict[Literal["gpu", "cpu"], Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    @field_validator("price_per_hour", mode="before")
    @classmethod
    def _prices(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(
                f"{value!r} is no mapping of devices to dollars; write for example {{gpu: 2.5, cpu: 0.05}}"
            )
        return value

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
            example = f"sqlite:////path/{LEDGER_FILE} or postgresql://host/database"
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
    return {**training, **budget.fields, **fixed, **params}


def arm_space(arm: Arm, training: Mapping[str, Any], budget: Budget, model: ModelConfig) -> SearchSpace:
    """Returns the effective search space of an arm (see `StudySpec.space`)."""
    if arm.method == BASE or not arm.searched:
        return SearchSpace()
    embedded = model.path == EMBEDDED
    own = arm.search_space or {}
    if not {*LENGTHS, SHARE} & {
        *training,
        *arm.fixed,
        *own,
    }:  # an arm that states its length does not tune it
        own = {**budget.tuned, **own}
    fixed = merged_training(training, budget, arm.fixed, {})
    fixed = {name: value for name, value in fixed.items() if name not in own}
    fields = method_config_class(arm.method)

    def valid(changes: dict[str, Any]) -> bool:
        stated = {**fixed, **changes}
        try:
            fields.model_validate({**fields.defaults_beside(stated, embedded=embedded), **stated})
        except ValidationError:
            return False
        return True

    space = without_choices(load_space(arm.method, embedded=embedded, fixed=fixed), own, valid)
    return merge(space, own).resolve(fixed, method_defaults(arm.method, embedded=embedded))


@functools.cache
def method_defaults(method: str, embedded: bool = False) -> dict[str, Any]:
    """Returns the default of every field of a method: for Stable Diffusion, or for the embedded model."""
    fields = method_config_class(method)
    return {**fields().model_dump(), **fields.defaults_beside({}, embedded=embedded)}


def dump(value: Any) -> Any:
    """Returns a dimension or space as JSON values, without what is unset."""
    return None if value is None else value.model_dump(mode="json", exclude_none=True)


def price_of_a_second(resources: Resources) -> float | None:
    """Returns the dollars of a second of a run by the study's prices; None where nothing that it holds has a price."""
    prices: Mapping[str, float] = {str(kind): price for kind, price in resources.price_per_hour.items()}
    each = {"cpu": resources.worker_cpus, "gpu": resources.worker_gpus}
    held = {kind: count * resources.num_workers for kind, count in each.items() if count and kind in prices}
    return sum(count * prices[kind] for kind, count in held.items()) / 3600 if held else None
