"""The downstream phase in a study file: which classifiers learn from which images, real and generated.

A *cell* is what one classifier learns from with one loss: a row of the downstream table. Each cell has the same search
(Optuna, of learning rate, optimizer and weight decay, judged by real validation images) and the same number of steps,
and its choice is trained anew with every classifier seed and generator seed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from search_spaces.schema import Categorical, SearchSpace
from study.spec.phases import Seed
from study.spec.sections import Name, sound_name
from trainables.config.class_data import ClassDataConfig
from trainables.config.classifiers import (
    AugmentationConfig,
    ClassifierConfig,
    ClassifierLoss,
    ClassifierOptimizer,
    network_problem,
)
from trainables.config.frozen import Frozen
from trainables.config.generation import BALANCE, ImageFilter, Ratio
from trainables.config.yaml_reader import RuleError

LONGEST_CELL = 64  # characters, as of every part of a run's name

#: What cells learn from that have no generated images; `real` is what all others are compared with.
REAL, AUGMENTED, REPEATED = "real", "augmented", "repeated"
ONLY = "only"

Score = Literal["accuracy", "balanced_accuracy", "macro_f1", "auroc"]


def _network(value: Any) -> Any:
    return {"network": value} if isinstance(value, str) else value


def _dataset(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class ClassifierChoice(Frozen):
    """A classifier that is trained; in the file its network's name is enough.

    Attributes:
        name: In tables and names of runs; None: that of the network.
        weights: See `ClassifierConfig.weights`.
    """

    network: str
    weights: str | None = None
    name: Name | None = None

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if problem := network_problem(self.network):
            raise ValueError(problem)
        return self

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or self.network.replace(":", "-")


class Claim(Frozen):
    """What somebody says of generated images, to be judged by the study.

    Attributes:
        says: The claim in its author's words; `source` says where it stands.
        against: With what its sources are compared: ``real`` or a control.
        predicts: Of the difference to `against`: ``equivalent`` (within `DownstreamSpec.margin`), ``better``,
            ``worse``, or ``not_better`` (worse or equivalent).
        score: In which it is to be seen, on test images.
        sources: What is compared; None: all real images with generated ones.
        classifiers: Names of classifiers; None: all, their mean.
    """

    says: str
    source: str = ""
    predicts: Literal["better", "not_better", "worse", "equivalent"]
    score: Score = "accuracy"
    against: str = "real"
    sources: tuple[str, ...] | None = Field(default=None, min_length=1)
    classifiers: tuple[str, ...] | None = Field(default=None, min_length=1)


class DownstreamSpec(Frozen):
    """What classifiers learn from, and how. Everything is the same for all cells but what is named by them.

    Attributes:
        dataset: A folder of images with classes, or a set that comes with the project (`trainables/embedded`).
        prepared: Where its split lies; filled in when the study is read, never by hand.
        models: ``per_class``: each arm trains a model for each class, as DreamBooth does; ``one``: one model for all,
            by captions.
        ratios: Generated images for each real one, or ``balance``, beside all real images.
        generated_share: Of the images that a step draws, in expectation: ``proportional`` to how many there are of
            both, or a number (.5 in DA-Fusion, arXiv 2302.07944).
        generated_only: Also train on generated images alone and test on real ones: classification accuracy score
            (CAS, arXiv 1905.10887), with as many images as the largest ratio gives.
        controls: ``augmented``: real images with `augmentation`; ``repeated``: real images of rare classes repeated as
            often as those of the largest class are there.
        real_shares: Further shares of the real images, above 1 with what an imbalance left out: a learning curve, by
            which a gain is told as so many further real images.
        generated_classes: Of which images are generated, such as rare ones; None: all.
        filters: Each is a factor: of generated images that are learnt from.
        augmentation: Of the control ``augmented``.
        classifiers: Networks by name.
        trials: Of each cell's search; 1 takes the first values of the lists.
        seeds: Of classifiers; `generator_seeds`: of fine-tuning and generation, which become `confirm.seeds`.
        score: By which searches choose, on validation images.
        margin: Differences in test scores within it are equivalent; stated before results are known.
        resolution: Side in pixels of what classifiers see.
    """

    dataset: Annotated[ClassDataConfig, BeforeValidator(_dataset)]
    prepared: str | None = None
    models: Literal["per_class", "one"] = "per_class"
    ratios: tuple[Ratio, ...] = (1.0, BALANCE)
    generated_share: Literal["proportional"] | Annotated[float, Field(gt=0, lt=1)] = "proportional"
    generated_only: bool = True
    controls: tuple[Literal["augmented", "repeated"], ...] = ("augmented", "repeated")
    real_shares: tuple[Annotated[float, Field(gt=0, le=100)], ...] = ()
    generated_classes: tuple[str, ...] | None = Field(default=None, min_length=1)
    filters: tuple[ImageFilter | Literal["none"], ...] = Field(default=("none",), min_length=1)
    augmentation: AugmentationConfig = AugmentationConfig()
    classifiers: tuple[Annotated[ClassifierChoice, BeforeValidator(_network)], ...] = Field(min_length=1)
    losses: tuple[ClassifierLoss, ...] = Field(default=("cross_entropy",), min_length=1)
    optimizers: tuple[ClassifierOptimizer, ...] = Field(default=("adam", "sgd"), min_length=1)
    learning_rates: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        default=(0.001, 0.0001, 0.005, 0.01), min_length=1
    )
    weight_decays: tuple[Annotated[float, Field(ge=0)], ...] = Field(default=(0.0001,), min_length=1)
    trials: int = Field(default=8, ge=1)
    seeds: tuple[Seed, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    generator_seeds: tuple[Seed, ...] = Field(default=(100, 101, 102), min_length=1)
    score: Score = "balanced_accuracy"
    margin: float = Field(default=0.02, gt=0, lt=1)
    claims: dict[Name, Claim] = Field(default_factory=dict)
    max_train_steps: int = Field(default=500, ge=1)
    train_batch_size: int = Field(default=32, ge=2)
    lr_scheduler: Literal["constant", "cosine"] = "constant"
    validation_steps: int = Field(default=50, ge=1)
    resolution: int = Field(default=64, ge=8)
    guidance_scale: float = Field(default=7.5, ge=0)
    num_inference_steps: int = Field(default=30, ge=1, le=1000)
    negative_prompt: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        for name in (
            "ratios", "controls", "real_shares", "filters", "losses", "optimizers", "learning_rates",
            "weight_decays", "seeds", "generator_seeds",
        ):  # fmt: skip
            values = getattr(self, name)
            if len(set(values)) < len(values):
                problems.append(((name,), f"each value once, got {', '.join(map(str, values))}"))
        labels = [choice.label for choice in self.classifiers]
        if len(set(labels)) < len(labels):
            problems.append((("classifiers",), "two have one name; give each a name of its own"))
        if 1.0 in self.real_shares:
            problems.append((("real_shares",), f"1 is {REAL!r}, which every study has; leave it out"))
        if not self.ratios and not self.generated_only:
            problems.append(
                (("ratios",), "no cell has generated images; name a ratio, or set generated_only: true")
            )
        points = len(self.learning_rates) * len(self.optimizers) * len(self.weight_decays)
        if self.trials > points:
            remedy = f"set trials to at most {points}, or name more values"
            problems.append(
                (("trials",), f"{self.trials} trials of {points} combinations of optimizers, "
                              f"learning_rates and weight_decays; {remedy}")
            )  # fmt: skip
        if self.validation_steps > self.max_train_steps:
            problems.append(
                (("validation_steps",), f"{self.validation_steps} is above max_train_steps "
                                        f"({self.max_train_steps}); lower it")
            )  # fmt: skip
        for place, claim in self.claims.items():
            unknown = [name for name in claim.classifiers or () if name not in labels]
            if unknown:
                problems.append(
                    (("claims", place, "classifiers"), f"no classifier {', '.join(map(repr, unknown))}; there are "
                                                       f"{', '.join(labels)}")
                )  # fmt: skip
        if problems:
            raise RuleError(problems)
        return self

    @property
    def space(self) -> SearchSpace:
        """What the search of every cell varies; what has one value alone is fixed."""
        lists: dict[str, Sequence[Any]] = {
            "learning_rate": self.learning_rates,
            "optimizer": self.optimizers,
            "weight_decay": self.weight_decays,
        }
        found = {
            name: Categorical(choices=tuple(values))
            for name, values in lists.items()
            if len(values) > 1 and self.trials > 1
        }
        return SearchSpace.model_validate({"parameters": found})

    @property
    def default(self) -> dict[str, Any]:
        """The first trial of every search: the first value of each list."""
        return {
            "learning_rate": self.learning_rates[0],
            "optimizer": self.optimizers[0],
            "weight_decay": self.weight_decays[0],
        }

    def generates(self, label: str) -> bool:
        """Whether images of a class are generated at all."""
        return self.generated_classes is None or label in self.generated_classes

    @property
    def largest_ratio(self) -> float:
        """Of all classes alike, by which generated images alone are counted; 1 where only `balance` is asked for."""
        return max((float(ratio) for ratio in self.ratios if ratio != BALANCE), default=1.0)

    @property
    def search_seed(self) -> int:
        """The classifier seed of all search runs, which is none of `seeds`."""
        return next(seed for seed in itertools.count(1000) if seed not in self.seeds)


@dataclass(frozen=True)
class Cell:
    """A row of the downstream table: a source of images, a classifier and a loss.

    Attributes:
        source: ``real``, ``augmented``, ``repeated``, ``real-50pct``, ``<arm>-x1``, ``<arm>-balance``, ``<arm>-only``,
            the last three with ``-confidence`` or ``-near_copies`` where filtered.
        generator: The arm that draws, None without generated images.
        share: Of real images: 1 but for a learning curve, 0 for generated images alone.
    """

    source: str
    classifier: ClassifierChoice
    loss: ClassifierLoss
    generator: str | None = None
    ratio: Ratio | None = None
    filter: ImageFilter | None = None
    share: float = 1.0
    several_losses: bool = False

    @property
    def name(self) -> str:
        """In the names of runs, e.g. ``lora-x1.resnet18``; the loss where there are several."""
        parts = [self.source, self.classifier.label, *([self.loss] if self.several_losses else [])]
        name = ".".join(parts)
        if len(name) > LONGEST_CELL:
            name = f"{name[: LONGEST_CELL - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return name


def sources_of(spec: DownstreamSpec, arms: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields what cells learn from, `real` first: fields of `Cell`."""
    yield {"source": REAL}
    for control in spec.controls:
        yield {"source": control}
    for share in sorted(spec.real_shares):
        yield {"source": f"{REAL}-{100 * share:g}pct", "share": share}
    for arm in arms:
        taken: list[tuple[str, Ratio, float]] = [
            (BALANCE if ratio == BALANCE else f"x{ratio:g}", ratio, 1.0) for ratio in spec.ratios
        ]
        taken += [(ONLY, spec.largest_ratio, 0.0)] if spec.generated_only else []
        for (word, ratio, share), kept in itertools.product(taken, spec.filters):
            own = None if kept == "none" else kept
            suffix = "" if own is None else f"-{_filter_word(own, spec.filters)}"
            yield {
                "source": f"{arm}-{word}{suffix}",
                "generator": arm,
                "ratio": ratio,
                "share": share,
                "filter": own,
            }


def _filter_word(own: ImageFilter, filters: Sequence[ImageFilter | Literal["none"]]) -> str:
    """The kind of a filter, with its threshold where there are several of the kind."""
    alike = [one for one in filters if one != "none" and one.kind == own.kind]
    return own.kind if len(alike) == 1 else f"{own.kind}{100 * own.threshold:g}"


def cells_of(spec: DownstreamSpec, arms: Sequence[str]) -> tuple[Cell, ...]:
    """Returns all cells of a study, in the order of the table.

    Args:
        arms: Names of the arms, in order; each is a generator.
    """
    several = len(spec.losses) > 1
    return tuple(
        Cell(classifier=classifier, loss=loss, several_losses=several, **source)
        for source in sources_of(spec, arms)
        for classifier in spec.classifiers
        for loss in spec.losses
        # Where every class is drawn alike there is nothing to weigh: that cell is the one of cross_entropy.
        if not (source["source"] == REPEATED and loss == "weighted_cross_entropy")
    )


def cell_problems(spec: DownstreamSpec, arms: Sequence[str]) -> list[tuple[tuple[str | int, ...], str]]:
    """Returns what is wrong with cells that can be seen without images: names that clash, trainings that cannot be."""
    problems: list[tuple[tuple[str | int, ...], str]] = []
    found = cells_of(spec, arms)
    seen: dict[str, Cell] = {}
    for cell in found:
        if cell.name.casefold() in seen:
            problems.append(
                (
                    ("downstream",),
                    f"two cells are called {cell.name!r}: rename the arm or the classifier, or take values that differ "
                    "by more",
                )
            )
        seen[cell.name.casefold()] = cell
    for cell in found:
        try:
            sound_name(cell.name)
            training_of(spec, cell, {}, 0.5 if cell.generator else 0.0)
        except ValidationError as error:
            messages = {entry["msg"].removeprefix("Value error, ") for entry in error.errors()}
            problems += [(("downstream",), f"{cell.name}: {message}") for message in sorted(messages)]
    sources = {cell.source for cell in found} - {REAL}
    for place, claim in spec.claims.items():
        if claim.sources is not None and claim.against in claim.sources:
            problems.append(
                (
                    ("downstream", "claims", place, "sources"),
                    f"{claim.against!r} would be held against itself",
                )
            )
        if claim.against not in {REAL, *sources}:
            problems.append(
                (("downstream", "claims", place, "against"), f"nothing is learnt from {claim.against!r}; there are "
                                                             f"{', '.join((REAL, *sorted(sources)))}")
            )  # fmt: skip
        unknown = [name for name in claim.sources or () if name not in sources]
        if unknown:
            problems.append(
                (("downstream", "claims", place, "sources"), f"nothing is learnt from {', '.join(map(repr, unknown))}; "
                                                             f"there are {', '.join(sorted(sources))}")
            )  # fmt: skip
    return list(dict.fromkeys(problems))


def training_of(
    spec: DownstreamSpec, cell: Cell, params: dict[str, Any], generated_probability: float
) -> ClassifierConfig:
    """Returns how a cell's classifier is trained with parameters of its search.

    Args:
        generated_probability: Of each draw.
    """
    return ClassifierConfig(
        network=cell.classifier.network,
        weights=cell.classifier.weights,
        max_train_steps=spec.max_train_steps,
        train_batch_size=spec.train_batch_size,
        generated_probability=1.0 if cell.share == 0 else generated_probability,
        sampling="balanced" if cell.source == REPEATED else "natural",
        augmentation=spec.augmentation if cell.source == AUGMENTED else None,
        loss=cell.loss,
        lr_scheduler=spec.lr_scheduler,
        validation_steps=spec.validation_steps,
        checkpointing_steps=spec.validation_steps,
        **{**spec.default, **params},
    )
