"""Means of a score over test images, classifier seeds and generator seeds: errors, differences of arms, verdicts.

A run is a classifier of one classifier seed, trained with the images of one generator seed and judged on the test
images. All three are samples, and a difference of arms is to hold for others of them. They are *crossed*: every
classifier seed is used with every generator seed and with real images alone, and all runs are judged on the same
images, so that differences are taken seed by seed and image by image. (Nested seeds, others for each generator,
could not be paired with those of "real only"; where equal seeds have nothing in common the crossed estimate below is
right, too.)

The design is the multi-reader, multi-case one of diagnostic radiology with two kinds of readers, and so is the
analysis (Obuchowski and Rockette 1995; Hillis 2007, doi:10.1002/sim.2532). The variance of a mean is the sum of

- that of the *test images*, as far as all seeds share it: the mean bootstrap covariance of runs that have neither seed
  in common, over paired resamples of images (`draw_images`), which any score allows;
- that of the *seeds*: of the generator seeds' means and of the classifier seeds' means, each over its number. What
  varies from run to run (by image, too) is in both and counts twice. That is a little too wide; an estimate that takes
  it off once has fewer degrees of freedom and is no narrower with three generator seeds.

Intervals and tests are Student's with Satterthwaite's degrees of freedom. Resampling the seeds too (a pigeonhole
bootstrap, Owen 2007, doi:10.1214/07-AOAS122) says of them what is known in closed form, a third too small for three
generator seeds, and has normal tails where two degrees of freedom have wide ones: its percentile and BCa intervals
miss the truth too often where seeds matter (``python -m benchmarks.image_statistics``; docs/concepts.md).

Comparisons that share one level are decided by Holm's procedure, as everywhere in this project: it holds whatever the
dependence, where a max-t bootstrap would need the joint distribution of arms with two degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from study.statistics.downstream.images import Floats, ImageDraws, LabelledImages, Runs, Unusable
from study.statistics.downstream.scores import direction_of, scores_of
from study.statistics.paired import LEVEL, Decisions, Estimate, Outcome, family_shares, holm
from study.statistics.power import MIN_SUBJECTS

MIN_SEEDS = MIN_SUBJECTS  # of each kind that there is, for the same reason
_NOTHING = 1e-24  # a variance (of scores of 0 to 1) that is rounding


@dataclass(frozen=True)
class ScoreTable:
    """A score of each run of an arm, or of differences between runs of two.

    Attributes:
        score: Its name.
        values: Of the test images and of each resample, shape ``(1 + resamples, generators, classifiers)``.
        generator_seeds, classifier_seeds: Of the last two axes; without generator seeds the first of them has length
        1.
        freedom: Degrees of freedom of a variance over test images.
    """

    score: str
    values: Floats
    generator_seeds: tuple[int, ...]
    classifier_seeds: tuple[int, ...]
    freedom: int


def score_table(score: str, images: LabelledImages, runs: Runs, draws: ImageDraws) -> ScoreTable:
    """Scores all runs of an arm; the same `draws` for all arms make the comparison paired over test images."""
    values = scores_of(score, images, runs, draws)
    return ScoreTable(score, values, runs.generator_seeds, runs.classifier_seeds, draws.freedom)


def difference(first: ScoreTable, second: ScoreTable) -> ScoreTable:
    """The first arm's scores less the second's, run by run.

    Raises:
        Unusable: See `combined`.
    """
    return combined([first, second], [1, -1])


def combined(tables: Sequence[ScoreTable], factors: Sequence[float]) -> ScoreTable:
    """A sum of arms' scores times factors, over the seeds that all have.

    Raises:
        Unusable: Other scores or resamples, or no seed that all arms have.
    """
    if len({(table.score, len(table.values), table.freedom) for table in tables}) > 1:
        raise Unusable(["arms are compared in one score, on the same resamples of the same test images"])
    classifiers = _common([table.classifier_seeds for table in tables], "classifier")
    generators = _common([table.generator_seeds for table in tables if table.generator_seeds], "generator")
    total = np.zeros(())
    for table, factor in zip(tables, factors, strict=True):
        columns = [table.classifier_seeds.index(seed) for seed in classifiers]
        rows = [table.generator_seeds.index(seed) for seed in generators] if table.generator_seeds else [0]
        total = total + factor * table.values[:, rows][:, :, columns]
    return ScoreTable(tables[0].score, total, generators, classifiers, tables[0].freedom)


def _common(seeds: Sequence[tuple[int, ...]], kind: str) -> tuple[int, ...]:
    if not seeds:
        return ()
    found = tuple(seed for seed in seeds[0] if all(seed in others for others in seeds))
    if not found:
        lists = ", ".join("{" + ", ".join(map(str, each)) + "}" for each in seeds)
        raise Unusable([f"runs are paired by their seeds, and the arms share no {kind} seed: {lists}"])
    return found


# ------------------------------------------------------------------ one mean


@dataclass(frozen=True)
class SeedMean:
    """A mean over test images and seeds with its error.

    Attributes:
        mean: Mean over all seeds, on the test images themselves.
        of_images, of_seeds: The two parts of its variance; NaN below `MIN_SEEDS` seeds of a kind.
        freedom: Satterthwaite's degrees of freedom; NaN where the error is unknown or 0.
        generators, classifiers: Numbers of seeds; 1 generator where there are none.
    """

    mean: float
    of_images: float
    of_seeds: float
    freedom: float
    generators: int
    classifiers: int

    @property
    def error(self) -> float:
        """Standard error; NaN where it is unknown, or where no image and no seed differs, which proves nothing."""
        return float(np.sqrt(self.of_images + self.of_seeds)) if self.freedom > 0 else float("nan")

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Student's interval; NaN without an error."""
        half = float(special.stdtrit(self.freedom, (1 + level) / 2)) * self.error
        return self.mean - half, self.mean + half

    def estimate(self, level: float = LEVEL) -> Estimate:
        """The same as the project's record of a mean; its subjects are the fewest seeds of a kind."""
        low, high = self.interval(level)
        known = np.isfinite(self.error)
        fewest = min(self.generators, self.classifiers) if self.generators > 1 else self.classifiers
        return Estimate(
            self.mean, low if known else None, high if known else None,
            self.generators * self.classifiers, fewest, level,
        )  # fmt: skip

    @property
    def p(self) -> float:
        """Two-sided p of "the mean is 0"; 1 where no image and no seed differs from 0."""
        if abs(self.mean) <= np.sqrt(_NOTHING) and self.of_images + self.of_seeds == 0:
            return 1.0
        return 2 * self._above(abs(self.mean))

    def p_equivalent(self, margin: float) -> float:
        """p of "the mean lies outside -margin..margin": the larger of two one-sided tests (Schuirmann 1987)."""
        return self._above(margin - abs(self.mean))

    def _above(self, distance: float) -> float:
        return float(special.stdtr(self.freedom, -distance / self.error)) if self.error > 0 else float("nan")


def seed_mean(table: ScoreTable) -> SeedMean:
    """The mean of a table with its error, from `MIN_SEEDS` classifier and (if there are any) generator seeds on."""
    values = table.values[0]
    generators, classifiers = values.shape
    if classifiers < MIN_SEEDS or (table.generator_seeds and generators < MIN_SEEDS):
        nan = float("nan")
        return SeedMean(float(values.mean()), nan, nan, nan, generators, classifiers)
    of_seeds = _variances_of_seeds(values)
    images, seeds = _variance_of_images(table.values[1:]), sum(variance for variance, _ in of_seeds)
    if images + seeds <= _NOTHING:
        return SeedMean(float(values.mean()), 0.0, 0.0, float("nan"), generators, classifiers)
    doubts = [variance**2 / freedom for variance, freedom in (*of_seeds, (images, max(1, table.freedom)))]
    freedom = (images + seeds) ** 2 / sum(doubts)
    return SeedMean(float(values.mean()), images, seeds, freedom, generators, classifiers)


def _variances_of_seeds(values: Floats) -> list[tuple[float, int]]:
    """Variances of the mean over each kind of seeds, with their degrees of freedom."""
    generators, classifiers = values.shape
    found = [(float(values.mean(0).var(ddof=1)) / classifiers, classifiers - 1)]
    if generators > 1:
        found.append((float(values.mean(1).var(ddof=1)) / generators, generators - 1))
    return found


def _variance_of_images(draws: Floats) -> float:
    """Mean covariance over resamples, shape ``(resamples, generators, classifiers)``, of runs without a common seed."""
    away = draws - draws.mean(0)
    count, generators, classifiers = away.shape
    both = (away**2).sum((1, 2))
    of_generators, of_classifiers = (away.sum(2) ** 2).sum(1), (away.sum(1) ** 2).sum(1)
    if generators == 1:
        products, pairs = of_generators - both, classifiers * (classifiers - 1)
    else:
        products = away.sum((1, 2)) ** 2 - of_generators - of_classifiers + both
        pairs = generators * (generators - 1) * classifiers * (classifiers - 1)
    return max(0.0, float(products.sum()) / pairs / (count - 1))


# ------------------------------------------------------------------ comparisons that share one level


def decide_means(
    found: Sequence[SeedMean],
    margin: float | None,
    *,
    weights: Sequence[float] | None = None,
    level: float = LEVEL,
    significance: float = 1 - LEVEL,
) -> Decisions:
    """Decides comparisons that share one level; arguments and rules as of `study.statistics.paired.decide`.

    Args:
        found: One for each comparison (arm with real only, of each classifier).
        margin: Differences within it, in the score's own unit (.02: two points), are equivalent; None: not asked.
    """
    p = np.array([one.p for one in found])
    shares, alone = family_shares(p, weights)
    low, high = np.array([one.interval(level) for one in found]).reshape(-1, 2).T
    wide = [one.interval(1 - (1 - level) * share) for one, share in zip(found, alone, strict=True)]
    family_low, family_high = np.array(wide).reshape(-1, 2).T
    inside = np.full_like(p, np.nan)
    if margin is not None:
        inside = holm([one.p_equivalent(margin) for one in found], shares)
    mean = np.array([one.mean for one in found])
    return Decisions(mean, low, high, family_low, family_high, p, holm(p, shares), inside, significance)


def verdicts(decisions: Decisions, score: str) -> tuple[Outcome, ...]:
    """The verdict on each comparison: better, worse, equivalent, or not enough."""
    return tuple(decisions.outcome(k, direction_of(score)) for k in range(decisions.mean.size))
