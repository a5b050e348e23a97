"""What generated images are worth to classifiers: scores, differences to real images alone, and verdicts on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from study.report.comparisons import Settings
from study.report.downstream_data import CellRuns, Phase, Source
from study.report.random_streams import stream
from study.spec.downstream import REAL
from study.statistics.downstream import comparison
from study.statistics.downstream.comparison import (
    ScoreTable,
    SeedMean,
    combined,
    decide_means,
    difference,
    score_table,
    seed_mean,
    verdicts,
)
from study.statistics.downstream.images import LabelledImages, Unusable, draw_images
from study.statistics.downstream.mcnemar import smallest_difference
from study.statistics.downstream.scores import confusion_matrix
from study.statistics.downstream.worth import Worth, worth_of
from study.statistics.paired import Estimate, Outcome, shares_of

SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")
COMPARED = ("accuracy", "balanced_accuracy")
MIN_SEEDS = comparison.MIN_SEEDS

Recipe = tuple[str, str]  # classifier, loss


@dataclass(frozen=True)
class Gain:
    """A source less `real`, on the same test images and classifier seeds.

    Attributes:
        recipe: Classifier and loss; None: the mean of all.
        p: Adjusted over its family; None without an error.
        outcome: The verdict on the source.
    """

    source: Source
    recipe: Recipe | None
    score: str
    found: SeedMean
    estimate: Estimate
    p: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Power:
    """The smallest differences in accuracy that the test images show with 80 % power, of two trained classifiers.

    Attributes:
        discordant: Smallest and largest share, over cells, of images that one alone of two paired runs has right.
        paired: The differences that belong to these.
        unpaired: On test images of their own each; None where no such number of images shows any.
    """

    images: int
    groups: int | None
    accuracy: float
    discordant: tuple[float, float] | None
    paired: tuple[float, float] | None
    unpaired: float | None


@dataclass(frozen=True)
class Findings:
    """All that is computed from the test predictions.

    Attributes:
        tables: Of each cell and score; cells without predictions have none.
        means: Of each source and score, over the recipes that it shares with `real`, where there are several.
        gains: Of each cell, then of the sources' means.
        resampled: Whether intervals hold the chance of test images; without it there are no intervals.
    """

    phase: Phase
    settings: Settings
    tables: Mapping[tuple[Source, Recipe], Mapping[str, ScoreTable]]
    means: Mapping[Source, Mapping[str, ScoreTable]]
    gains: tuple[Gain, ...]
    power: Power | None
    resampled: bool
    worths: Mapping[Source, Worth] = field(default_factory=dict)
    curve: Mapping[int, ScoreTable] = field(default_factory=dict)

    @property
    def real(self) -> Source | None:
        """What all others are compared with."""
        return next((s for s in self.phase.sources if s.name == REAL), None)

    @property
    def generated(self) -> list[Source]:
        """Real images with generated ones."""
        return [source for source in self.phase.sources if source.adds_images]

    @property
    def best(self) -> Source | None:
        """Of real with generated images those that were best on *validation* images: test images choose nothing."""
        known = {
            s: value
            for s in self.generated
            if (value := self.validation(s, f"validation_{self.phase.chosen_by}")) is not None
        }
        return max(known, key=lambda source: known[source]) if known else None

    def validation(self, source: Source, column: str) -> float | None:
        """Mean of a column over the recipes of a source."""
        values = [cell.mean(column) for cell in self.phase.cells if cell.source == source]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def estimate(self, table: ScoreTable) -> Estimate:
        """Mean with interval, cut at what is possible."""
        return estimate_of_mean(mean_of(table), self.settings.level).cut(0.0, 1.0)

    def gain(self, source: Source, score: str, recipe: Recipe | None = None) -> Gain | None:
        """A difference to `real`; of the mean over recipes (of the only one) without a recipe."""
        only = recipe or (self.phase.recipes[0] if len(self.phase.recipes) == 1 else None)
        own = (g for g in self.gains if g.source == source and g.score == score and g.recipe == only)
        return next(own, None)

    def mean_table(self, source: Source, score: str) -> ScoreTable | None:
        """The scores of a source, mean of its recipes."""
        return self.means.get(source, {}).get(score)


def mean_of(table: ScoreTable) -> SeedMean:
    """`seed_mean`; without an error where test images were not resampled."""
    if len(table.values) > 2:
        return seed_mean(table)
    generators, classifiers = table.values[0].shape
    nan = float("nan")
    return SeedMean(float(table.values[0].mean()), nan, nan, nan, generators, classifiers)


def estimate_of_mean(found: SeedMean, level: float) -> Estimate:
    """The project's record of a mean."""
    return found.estimate(level)


def analyse_downstream(phase: Phase, settings: Settings) -> Findings | None:
    """Computes everything; None where no run has been judged."""
    if phase.images is None:
        return None
    names = (*SCORES, *(f"recall:{k}" for k in range(phase.images.classes)))
    draws, resampled = _draws(phase.images, settings)
    tables = {
        (cell.source, (cell.classifier, cell.loss)): {
            name: score_table(name, phase.images, cell.runs, draws) for name in names
        }
        for cell in phase.cells
        if cell.runs is not None
    }
    means = {source: _mean_tables(source, tables, names) for source in phase.sources}
    means = {source: found for source, found in means.items() if found}
    gains = _gains(phase, settings, tables)
    curve, worths = _worths(phase, means, settings) if resampled else ({}, {})
    return Findings(
        phase, settings, tables, means, gains, _power(phase, phase.images), resampled, worths, curve
    )


def _draws(images: LabelledImages, settings: Settings) -> tuple[comparison.ImageDraws, bool]:
    """Resamples of the test images; where these are too few for any, the test images alone."""
    try:
        return draw_images(images, stream(settings.seed, "downstream", "test images")), True
    except Unusable:
        return comparison.ImageDraws(np.ones((1, images.labels.size)), 0), False


def _mean_tables(
    source: Source,
    tables: Mapping[tuple[Source, Recipe], Mapping[str, ScoreTable]],
    names: Sequence[str],
) -> dict[str, ScoreTable]:
    own = [found for (of, _), found in tables.items() if of == source]
    try:
        return (
            {name: combined([one[name] for one in own], [1 / len(own)] * len(own)) for name in names}
            if own
            else {}
        )
    except Unusable:  # recipes without a common seed
        return {}


# ------------------------------------------------------------------ differences to real images alone


def differences_of(
    phase: Phase,
    tables: Mapping[tuple[Source, Recipe], Mapping[str, ScoreTable]],
    score: str,
    sources: Sequence[Source],
    recipes: Sequence[Recipe],
    against: str = REAL,
) -> list[ScoreTable]:
    """Of each pair of them that there is, the source less `against` with the same recipe."""
    real = next((s for s in phase.sources if s.name == against), None)
    found = []
    for source, recipe in itertools.product(sources, recipes):
        one, other = tables.get((source, recipe)), tables.get((real, recipe)) if real else None
        if one is not None and other is not None and source != real:
            try:
                found.append(difference(one[score], other[score]))
            except Unusable:  # no seed in common
                continue
    return found


def mean_difference(found: Sequence[ScoreTable]) -> SeedMean | None:
    """The mean of differences, over the seeds that all have; None without any."""
    try:
        return mean_of(combined(found, [1 / len(found)] * len(found))) if found else None
    except Unusable:
        return None


def _gains(
    phase: Phase,
    settings: Settings,
    tables: Mapping[tuple[Source, Recipe], Mapping[str, ScoreTable]],
) -> tuple[Gain, ...]:
    """All differences to `real`, decided. In each score those of real with generated images share one level, half of it
    for cells and half for means of the classifiers; all others (controls, generated images alone, other numbers of
    real ones) share another, so that they do not drown the question that is asked.
    """
    gains: list[Gain] = []
    for score, asked in itertools.product(COMPARED, (True, False)):
        sources = [s for s in phase.sources if s.name != REAL and s.adds_images == asked]
        families: list[list[tuple[Source, Recipe | None, SeedMean]]] = [[], []]
        for source in sources:
            for recipe in phase.recipes:
                one = mean_difference(differences_of(phase, tables, score, [source], [recipe]))
                families[0] += [(source, recipe, one)] if one else []
            if len(phase.recipes) > 1:
                one = mean_difference(differences_of(phase, tables, score, [source], phase.recipes))
                families[1] += [(source, None, one)] if one else []
        gains += decided(families, score, phase.margin, settings)
    return tuple(gains)


def decided(
    families: Sequence[Sequence[tuple[Source, Recipe | None, SeedMean]]],
    score: str,
    margin: float,
    settings: Settings,
) -> list[Gain]:
    """Decides families of differences that share one level in equal parts."""
    asked = [one for family in families for one in family]
    if not asked:
        return []
    decisions = decide_means(
        [found for _, _, found in asked],
        margin,
        weights=shares_of([len(family) for family in families]).tolist(),
        level=settings.level,
        significance=settings.significance,
    )
    outcomes = verdicts(decisions, score)
    gains = []
    for k, (source, recipe, found) in enumerate(asked):
        p = float(decisions.p_holm[k])
        estimate = estimate_of_mean(found, settings.level)
        gains.append(Gain(source, recipe, score, found, estimate, p if np.isfinite(p) else None, outcomes[k]))
    return gains


# ------------------------------------------------------------------ the test set, and the curve of real images


def _power(phase: Phase, images: LabelledImages) -> Power | None:
    """What so many test images show; the discordance is that of runs with one classifier seed, as it was seen."""
    right = {
        (cell.source, (cell.classifier, cell.loss)): cell
        for cell in phase.cells
        if cell.runs is not None and (cell.source.name == REAL or cell.source.adds_images)
    }
    shares = []
    for (source, recipe), cell in right.items():
        real = next((c for (s, r), c in right.items() if s.name == REAL and r == recipe), None)
        if (
            source.name != REAL
            and real is not None
            and (share := _discordant(cell, real, images)) is not None
        ):
            shares.append(share)
    correct = [cell.runs.correct_of(images).mean() for cell in right.values() if cell.runs is not None]
    if not correct:
        return None
    accuracy, n = float(np.mean(correct)), images.labels.size
    groups = None if images.groups is None else int(np.unique(images.groups).size)
    known = [share for share in (min(shares), max(shares)) if share > 0] if shares else []
    paired = [smallest_difference(n, discordant=share) for share in known]
    unpaired = smallest_difference(n, accuracy=accuracy) if 0 < accuracy < 1 else float("nan")
    sound = len(paired) == 2 and all(np.isfinite(paired))
    return Power(
        n,
        groups,
        accuracy,
        (known[0], known[1]) if sound else None,
        (paired[0], paired[1]) if sound else None,
        unpaired if np.isfinite(unpaired) else None,
    )


def _discordant(cell: CellRuns, real: CellRuns, images: LabelledImages) -> float | None:
    """Mean share of images that one alone has right, of runs with the same classifier seed."""
    assert cell.runs is not None
    assert real.runs is not None
    own = cell.runs.correct_of(images).reshape(*cell.runs.shape, -1)
    others = real.runs.correct_of(images).reshape(*real.runs.shape, -1)[0]
    common = [s for s in cell.runs.classifier_seeds if s in real.runs.classifier_seeds]
    if not common:
        return None
    first = own[:, [cell.runs.classifier_seeds.index(s) for s in common]]
    second = others[[real.runs.classifier_seeds.index(s) for s in common]]
    return float((first != second).mean())


def _worths(
    phase: Phase, means: Mapping[Source, Mapping[str, ScoreTable]], settings: Settings
) -> tuple[dict[int, ScoreTable], dict[Source, Worth]]:
    """The curve of real images, by their number, and the place on it of each source with generated images."""
    score = phase.chosen_by
    curve: dict[int, ScoreTable] = {}
    real = None
    for source in phase.sources:
        if source.name != REAL and not source.is_subset:
            continue
        counts = [cell.mean("real_images") for cell in phase.cells if cell.source == source]
        known = [count for count in counts if count]
        if known and source in means:
            number = round(float(np.mean(known)))
            curve[number] = means[source][score]
            real = number if source.name == REAL else real
    if len(curve) < 2 or real is None:
        return {}, {}
    found = {}
    for source in phase.sources:
        if source.adds_images and source in means:
            try:
                found[source] = worth_of(means[source][score], curve, real, settings.level)
            except Unusable:
                continue
    return dict(sorted(curve.items())), found


def confusion_of(phase: Phase, source: Source) -> np.ndarray | None:
    """Test images by class and by the class that they were taken for, in sums over seeds and recipes."""
    if phase.images is None:
        return None
    found = [
        confusion_matrix(phase.images, cell.runs).sum((0, 1))
        for cell in phase.cells
        if cell.source == source and cell.runs is not None
    ]
    return np.sum(found, axis=0) if found else None
