"""Whether intervals over test images and seeds hold the truth, by simulated classifiers of known accuracy.

Classifiers of known accuracy judge the same test images, with three generator and five classifier seeds; their
differences are judged by `study.statistics.downstream`, and by percentile and BCa intervals of a bootstrap that
resamples images, classifier seeds and generator seeds (crossed), which the project does not use::

    python -m benchmarks.image_statistics

Prints Markdown tables and exits 1 if a bar is missed: coverage below 93 %, or more than 6 % of false equivalence. A
thousand comparisons tell a share of 95 % to within 1.4 %.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import astuple, dataclass
from functools import cache
from itertools import product

import numpy as np
from scipy import integrate, optimize, stats

from study.statistics.downstream.comparison import ScoreTable, difference, score_table, seed_mean
from study.statistics.downstream.images import Floats, ImageDraws, LabelledImages, Runs, draw_images
from study.statistics.downstream.worth import worth_of

GENERATORS, CLASSIFIERS = 3, 5
SHARES = (0.45, 0.3, 0.15, 0.1)  # of the classes
ACCURACY, GAIN, MARGIN = 0.65, 0.05, 0.05
IMAGES = (100, 200, 400)
SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece", "recall:3")
COVERAGE, FALSE = 0.93, 0.06
SIZES = (5, 10, 20, 40, 80)
CURVE = (0.50, 0.58, 0.64, 0.68, 0.70)  # accuracy at these sizes
WORTHS = (0.54, 0.61, 0.66)  # accuracy of arms with ten real images: less than none, and worth some and many
WORTH_IMAGES = 400


@dataclass(frozen=True)
class World:
    """How simulated classifiers vary. A logit of unit variance a class; the true class's is higher by a run's skill.

    Attributes:
        generator, classifier, run: Standard deviations of skill; .1 is about 3 points of accuracy.
        image: Share of a logit's variance that all runs have in common.
        grouped: Share of that which images of one group have in common, ten of them each; 0: no groups.
    """

    name: str
    generator: float = 0.05
    classifier: float = 0.05
    run: float = 0.05
    image: float = 0.6
    grouped: float = 0.0


WORLDS = (
    World("images alone", 0.0, 0.0, 0.0),
    World("all alike"),
    World("generators", generator=0.2),
    World("classifiers", classifier=0.2),
    World("runs", run=0.2),
    World("runs differ by image", image=0.2),
    World("groups of ten", grouped=0.8),
)


def accuracy_of(skill: float, deviation: float) -> float:
    """Mean accuracy of runs whose skill is normal: the true class's logit is the largest of all."""

    def density(z: float) -> float:
        return float(
            stats.norm.pdf(z, skill, np.hypot(1, deviation)) * stats.norm.cdf(z) ** (len(SHARES) - 1)
        )

    return float(integrate.quad(density, skill - 12, skill + 12)[0])


@cache
def skill_for(accuracy: float, deviation: float) -> float:
    """The mean skill with this mean accuracy."""
    return float(optimize.brentq(lambda skill: accuracy_of(skill, deviation) - accuracy, -5, 10))


@dataclass(frozen=True)
class TestSet:
    """Test images, what is common to all classifiers' logits of them, and the random numbers that follow."""

    world: World
    images: LabelledImages
    common: Floats
    rng: np.random.Generator

    def arm(self, accuracy: float, *, generated: bool) -> Runs:
        """Draws the runs of an arm; those of one without generated images vary as much."""
        world, rng = self.world, self.rng
        spread = float(np.sqrt(world.generator**2 + world.classifier**2 + world.run**2))
        generators = GENERATORS if generated else 1
        if generated:
            skill = rng.normal(0, world.generator, (generators, 1)) + rng.normal(
                0, world.classifier, (1, CLASSIFIERS)
            )
            skill = skill + rng.normal(0, world.run, (generators, CLASSIFIERS))
        else:
            skill = rng.normal(0, spread, (1, CLASSIFIERS))
        skill = skill + skill_for(accuracy, spread)
        own = np.sqrt(1 - world.image) * rng.normal(size=(generators, CLASSIFIERS, *self.common.shape))
        logits = self.common + own
        logits += skill[..., None, None] * np.eye(self.images.classes)[self.images.labels]
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        seeds = tuple(range(CLASSIFIERS))
        if not generated:
            return Runs(seeds, probabilities=chances[0])
        return Runs(seeds, tuple(range(generators)), probabilities=chances)


def draw_test_set(world: World, count: int, rng: np.random.Generator) -> TestSet:
    """Draws test images with the classes' shares; classes are shuffled over groups."""
    labels = np.repeat(np.arange(len(SHARES)), np.round(np.array(SHARES) * count).astype(int))
    rng.shuffle(labels)
    groups = np.arange(count) // 10 if world.grouped else np.arange(count)
    shape = (count, len(SHARES))
    shared = np.sqrt(world.grouped) * rng.normal(size=shape)[groups]
    common = shared + np.sqrt(1 - world.grouped) * rng.normal(size=shape)
    images = LabelledImages(labels, len(SHARES), groups if world.grouped else None)
    return TestSet(world, images, np.sqrt(world.image) * common, rng)


# ------------------------------------------------------------------ intervals that the project does not use


def resampled_intervals(
    table: ScoreTable, jackknife: ScoreTable, rng: np.random.Generator, level: float = 0.95
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Percentile and BCa interval of the mean, of images, classifier seeds and generator seeds resampled together.

    Args:
        jackknife: The scores without each image in turn, in the place of resamples.
    """
    values, draws = table.values[0], table.values[1:]
    weights = [rng.multinomial(n, np.full(n, 1 / n), len(draws)) / n for n in values.shape]
    means = np.einsum("bgs,bg,bs->b", draws, *weights)
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    point = values.mean()
    units = [jackknife.values[1:].mean((1, 2))]
    units += [np.array([np.delete(values, k, axis).mean() for k in range(n)])
              for axis, n in enumerate(values.shape) if n > 1]  # fmt: skip
    influence = [(each.size - 1) * (each.mean() - each) / each.size for each in units]
    cubes, squares = (sum(float((each**power).sum()) for each in influence) for power in (3, 2))
    skew = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    below = np.clip((means < point).mean() + (means == point).mean() / 2, 1e-4, 1 - 1e-4)
    bias = stats.norm.ppf(below)
    shifted = bias + stats.norm.ppf(tails)
    corrected = stats.norm.cdf(bias + shifted / (1 - skew * shifted))
    low, high, bca_low, bca_high = np.quantile(means, [*tails, *corrected])
    return (low, high), (bca_low, bca_high)


def leave_one_out(images: LabelledImages) -> ImageDraws:
    """Draws that leave out each image in turn."""
    count = images.labels.size
    return ImageDraws(np.concatenate([np.ones((1, count)), 1 - np.eye(count)]), count)


# ------------------------------------------------------------------ the tables


@dataclass(frozen=True)
class Cell:
    """Of one world and number of images, as shares; half-widths are medians.

    Attributes:
        student, percentile, bca: Coverage of the true gain.
        false_equivalent: Comparisons that call arms equivalent which differ by the margin.
        half, percentile_half: Half-widths of the project's and of the percentile interval.
    """

    student: float
    percentile: float
    bca: float
    false_equivalent: float
    half: float
    percentile_half: float


def gains(world: World, count: int, comparisons: int, resamples: int, rng: np.random.Generator) -> Cell:
    """Compares arms that differ by `GAIN` in accuracy."""
    rows = []
    for _ in range(comparisons):
        test = draw_test_set(world, count, rng)
        arms = test.arm(ACCURACY + GAIN, generated=True), test.arm(ACCURACY, generated=False)
        draws, left_out = draw_images(test.images, rng, resamples), leave_one_out(test.images)
        table, without = (
            difference(*(score_table("accuracy", test.images, runs, each) for runs in arms))
            for each in (draws, left_out)
        )
        found = seed_mean(table)
        low, high = found.interval()
        intervals = ((low, high), *resampled_intervals(table, without, rng))
        held = [a <= GAIN <= b for a, b in intervals]
        halves = [(b - a) / 2 for a, b in intervals[:2]]
        rows.append([*held, found.p_equivalent(MARGIN) < 0.05, *halves])
    array = np.array(rows, dtype=float)
    return Cell(*array[:, :4].mean(0), *np.median(array[:, 4:], axis=0))


def nulls(world: World, count: int, comparisons: int, resamples: int, rng: np.random.Generator) -> Floats:
    """Coverage of a difference of 0 in each score, of arms that are alike."""
    held = np.zeros(len(SCORES))
    for _ in range(comparisons):
        test = draw_test_set(world, count, rng)
        arms = test.arm(ACCURACY, generated=True), test.arm(ACCURACY, generated=False)
        draws = draw_images(test.images, rng, resamples)
        for k, score in enumerate(SCORES):
            found = seed_mean(difference(*(score_table(score, test.images, runs, draws) for runs in arms)))
            low, high = found.interval()
            held[k] += low <= 0 <= high or found.error == 0
    return held / comparisons


def worths(
    world: World, count: int, accuracy: float, comparisons: int, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Coverage of what an arm with ten real images is worth, and shares of intervals with either end on the curve."""
    truth = float(np.exp(np.interp(accuracy, CURVE, np.log(SIZES)))) - SIZES[1]
    held, lows, highs = [], [], []
    for _ in range(comparisons):
        test = draw_test_set(world, count, rng)
        draws = draw_images(test.images, rng, resamples)

        def table(
            accuracy: float, generated: bool, test: TestSet = test, draws: ImageDraws = draws
        ) -> ScoreTable:
            return score_table("accuracy", test.images, test.arm(accuracy, generated=generated), draws)

        curve = {size: table(height, False) for size, height in zip(SIZES, CURVE, strict=True)}
        found = worth_of(table(accuracy, True), curve, SIZES[1])
        held.append(found.low <= truth <= found.high)
        lows.append(np.isfinite(found.low))
        highs.append(np.isfinite(found.high))
    return float(np.mean(held)), float(np.mean(lows)), float(np.mean(highs))


@dataclass(frozen=True)
class Size:
    """Comparisons of each kind, resamples of each of them, and the seed."""

    comparisons: int
    resamples: int
    seed: int

    def rng(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *numbers])


def row(*cells: object) -> None:
    """Prints a line of a table; shares in per cent."""
    shown = (f"{100 * cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"| {' | '.join(shown)} |", flush=True)


def print_gains(size: Size) -> list[str]:
    """Prints the table of gains; returns the bars that are missed."""
    row("what varies", "images", "coverage (%)", "percentile", "BCa", "false equivalence (%)",
        "half-width (points)", "of percentile")  # fmt: skip
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    missed = []
    for (number, world), count in product(enumerate(WORLDS), IMAGES):
        cell = gains(world, count, size.comparisons, size.resamples, size.rng(0, number, count))
        row(world.name, count, *map(float, astuple(cell)))
        if cell.student < COVERAGE or cell.false_equivalent > FALSE:
            missed.append(f"gains, {world.name}, {count} images")
    return missed


def print_nulls(size: Size) -> list[str]:
    """Prints the table of scores; returns the bars that are missed."""
    row("what varies", "images", *SCORES)
    print(f"|---|--:{'|--:' * len(SCORES)}|")
    missed = []
    for (number, world), count in product(enumerate(WORLDS), IMAGES):
        held = nulls(world, count, size.comparisons, size.resamples, size.rng(1, number, count))
        row(world.name, count, *map(float, held))
        missed += [
            f"{score}, {world.name}, {count} images"
            for score, share in zip(SCORES, held, strict=True)
            if share < COVERAGE
        ]
    return missed


def print_worths(size: Size) -> list[str]:
    """Prints the table of worth; returns the bars that are missed."""
    row("what varies", "accuracy", "coverage of worth (%)", "low limit on the curve (%)", "high limit (%)")
    print("|---|--:|--:|--:|--:|")
    missed = []
    for (number, world), accuracy in product(enumerate(WORLDS), WORTHS):
        rng = size.rng(2, number, round(1000 * accuracy))
        shares = worths(world, WORTH_IMAGES, accuracy, size.comparisons, size.resamples, rng)
        row(world.name, str(accuracy), *shares)
        if shares[0] < COVERAGE:
            missed.append(f"worth, {world.name}, accuracy {accuracy}")
    return missed


TABLES = {"gains": print_gains, "scores": print_nulls, "worth": print_worths}


def main(arguments: list[str] | None = None) -> int:
    """Prints the tables and the misses; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=1_000, help="of each kind")
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    options = parser.parse_args(arguments)
    size, missed = Size(options.comparisons, options.resamples, options.seed), []
    for name in options.tables:
        missed += TABLES[name](size)
        print()
    for each in missed:
        print(f"missed: {each}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
