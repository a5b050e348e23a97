"""The two phases of a study: the search, which chooses configurations, and the confirm phase, which compares them."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_serializer, model_validator

from study.storage.run_key import Phase
from trainables.config.fields import EvaluationConfig, Frozen
from trainables.config.yaml_reader import RuleError
from trainables.evaluation.metrics_table import METRICS, QUALITY, unfit_choice, unknown_metric


def _metric(value: Any) -> Any:
    if isinstance(value, str) and (problem := unknown_metric(value)):
        raise ValueError(problem)
    return value


def _objective(value: Any) -> Any:
    """A metric that has a better direction."""
    value = _metric(value)
    if isinstance(value, str) and METRICS[value].direction == "none":
        raise ValueError(
            f"{value} has no better direction, so nothing can be optimised by it; take another metric"
        )
    return value


def _choosing(value: Any) -> Any:
    if isinstance(value, str) and (problem := unfit_choice(value)):
        raise ValueError(problem)
    return value


MetricName = Annotated[str, BeforeValidator(_metric)]
ObjectiveName = Annotated[str, BeforeValidator(_objective)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

_BOUND = re.compile(r"\s*(>=|<=)\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)\s*")


class Constraint(Frozen):
    """What a chosen configuration must meet: a metric on one side of a bound; in the file ``metric: ">= 0.8"``."""

    metric: MetricName
    relation: Literal[">=", "<="]
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.relation} {self.bound:g}"

    def violation(self, value: float) -> float:
        """Returns by how much a value misses the bound; at most 0 where it is met (Optuna's convention)."""
        return self.bound - value if self.relation == ">=" else value - self.bound


def _constraints(value: Any) -> Any:
    """From a mapping of metrics to bounds; a list is one of constraints already."""
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, dict):
        raise ValueError(
            f'{value!r} is no mapping of metrics to bounds; write for example {{class_kept: ">= 0.8"}}'
        )
    found = []
    for metric, text in value.items():
        match = _BOUND.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'{metric}: {text!r} is no bound; write for example {metric}: ">= 0.8"')
        _check_within_reach(metric, match[1], float(match[2]))
        found.append({"metric": metric, "relation": match[1], "bound": float(match[2])})
    return tuple(found)


def _check_within_reach(metric: Any, relation: str, bound: float) -> None:
    """Refuses a bound that no run can meet."""
    limits = METRICS[metric].limits if metric in METRICS else None
    if limits is not None and (bound > limits[1] if relation == ">=" else bound < limits[0]):
        raise ValueError(
            f"{metric}: no run has {relation} {bound:g}, since 1 is the top of its scale and 0 the bottom; write for "
            f'example {metric}: "{relation} 0.8"'
        )


class Objective(Frozen):
    """What a search optimises; a bare metric in the file, or ``{maximize: metric, subject_to: {metric: ">= 0.8"}}``."""

    maximize: ObjectiveName | None = None
    minimize: ObjectiveName | None = None
    subject_to: Annotated[tuple[Constraint, ...], BeforeValidator(_constraints)] = ()

    @model_validator(mode="after")
    def _one_metric_in_its_direction(self) -> Self:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("name one metric, as maximize: quality or minimize: drift")
        word = "maximize" if METRICS[self.metric].direction == "higher" else "minimize"
        if getattr(self, word) is None:
            raise ValueError(
                f"{self.metric} is better the {METRICS[self.metric].direction} it is; write {word}: {self.metric}"
            )
        return self

    @property
    def metric(self) -> str:
        """The metric's name."""
        return self.maximize or self.minimize or ""

    @model_serializer
    def _to_file(self) -> Any:
        word = "maximize" if self.maximize is not None else "minimize"
        bounds = {c.metric: f"{c.relation} {c.bound!r}" for c in self.subject_to}
        return {word: self.metric, "subject_to": bounds} if bounds else self.metric


def _from_name(value: Any) -> Any:
    if isinstance(value, str):
        value = _objective(value)
        return {"maximize" if METRICS[value].direction == "higher" else "minimize": value}
    return value


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
    """The search phase: chooses configurations of each arm; its scores are not results.

    Attributes:
        trials: Configurations of each search of an arm; 8 where neither this nor `trials_per_method` is given. Arms
            without anything to search have none, and go straight to their confirm runs.
        trials_per_method: Configurations of all arms of a method together, dealt out evenly over those that search.
        repeats: Independent searches of each arm, each on its own part of `subjects`; the confirm subjects are dealt
            out over what they choose, so that results hold the chance of tuning.
        batch_size: Trials of a search that are proposed from the same knowledge, whatever runs at once; None: a
            quarter of its trials, at most 8.
        objective: What to optimise; `objectives` for several metrics at once (a front).
        subjects: Names; default: the first subjects, one for each repeat. A trial runs on every subject of its
            search with every seed.
        scheduler: Early stopping (Ray Tune), or None.
        allow_overlap: Whether search and confirm may share subjects or prompts, which makes results look better than
            they are; the report then says so.
    """

    hints: ClassVar[dict[str, str]] = {
        "pruner": "Optuna's pruners do not act here; write `scheduler: {type: asha}` instead",
        "direction": "the direction follows from the metric (`study ls metrics`); remove it",
    }

    sampler: Literal["tpe", "random", "gp", "nsgaii", "grid"] = "tpe"
    trials: int | None = Field(default=None, ge=1)
    trials_per_method: int | None = Field(default=None, ge=1)
    repeats: int = Field(default=1, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    seed: Seed = 0
    objective: Annotated[Objective | None, BeforeValidator(_from_name)] = None
    objectives: tuple[ObjectiveName, ...] | None = None
    subjects: tuple[str, ...] | None = None
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    scheduler: Annotated[Asha | None, BeforeValidator(_scheduler)] = None
    allow_overlap: bool = False

    @model_validator(mode="after")
    def _one_kind_of_objective(self) -> Self:
        problems: list[tuple[tuple[str, ...], str]] = []
        if self.trials is not None and self.trials_per_method is not None:
            problems.append((("trials_per_method",), "stands beside trials; give one of the two"))
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
        if self.objectives:
            return self.objectives
        return (self.objective.metric if self.objective is not None else QUALITY,)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What a chosen configuration must meet."""
        return self.objective.subject_to if self.objective is not None else ()

    @property
    def directions(self) -> tuple[Literal["maximize", "minimize"], ...]:
        """Optuna's direction of each of `metrics`."""
        return tuple(
            "maximize" if METRICS[name].direction == "higher" else "minimize" for name in self.metrics
        )


class ConfirmSpec(Frozen):
    """The confirm phase: each arm's chosen configuration on fresh seeds and subjects. Only this is compared.

    Attributes:
        subjects: Names; default: all subjects but those of the search (all, if that leaves none and
            `search.allow_overlap` is set). They are dealt out one by one over the searches of each arm.
        seeds: None of those of the search; an empty list leaves the phase out.
    """

    subjects: tuple[str, ...] | None = None
    seeds: tuple[Seed, ...] = (100, 101, 102)

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise RuleError([(("seeds",), "contains a seed twice; each seed is one run")])
        return self


class SearchEvaluation(Frozen):
    """How the runs of the search are judged where it differs from the confirm phase: on other prompts, and on fewer
    images.

    Attributes:
        prompts: Templates; None takes the model's own list for searches, which shares no prompt with that of the
            confirm phase.
        num_prompts: Take only the first so many.
        num_inference_steps: None: as in the confirm phase; likewise `at`.
    """

    prompts: tuple[str, ...] | None = None
    num_prompts: int | None = Field(default=None, ge=1)
    images_per_prompt: int = Field(default=2, ge=1)
    num_class_images: int = Field(default=8, ge=2)
    num_inference_steps: int | None = Field(default=None, ge=1)
    at: tuple[float, ...] | None = None


class EvaluationSpec(EvaluationConfig):
    """How runs are judged: the fields of `EvaluationConfig` for the confirm phase, and what differs in the search."""

    restore_best: Annotated[str | None, BeforeValidator(_choosing)] = None
    search: SearchEvaluation = SearchEvaluation()

    @model_validator(mode="after")
    def _sound_in_the_search_too(self) -> Self:
        try:
            self.of_phase("search")
        except ValidationError as error:
            said = "; ".join(str(entry["msg"]).removeprefix("Value error, ") for entry in error.errors())
            if self.search.at is not None:  # what is wrong with `at` is wrong with the search's own
                said = said.replace("evaluation.at", "evaluation.search.at")
            raise RuleError([(("search",), said)]) from None
        return self

    def of_phase(self, phase: Phase) -> EvaluationConfig:
        """Returns the settings of the runs of a phase."""
        settings = self.model_dump(exclude={"search"})
        if self.restore_best is not None and self.restore_best_prompts is None:
            settings["restore_best_prompts"] = self.search.prompts
        if phase == "search":
            own = self.search.model_dump()
            inherited = {name: settings[name] for name in ("num_inference_steps", "at") if own[name] is None}
            settings |= {"prompt_set": "search", "inference_steps": ()} | own | inherited
        return EvaluationConfig.model_validate(settings)
