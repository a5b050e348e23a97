"""How much differences between arms vary from subject to subject and from seed to seed: `python -m benchmarks.spread`.

What a plan assumes before a study has run (`study.statistics.power`), measured on studies that have: root mean squares
over all pairs of trained arms, on the data of shipped reports, or of any folder with a ``runs.csv``.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from study.results.csv_files import read_csv
from study.spec.sections import BASE

SHIPPED = sorted(Path(__file__).parents[1].glob("reports/*/data"))


@dataclass(frozen=True)
class Spread:
    """How much differences vary in one study.

    Attributes:
        of_means: Standard deviation of subjects' mean differences, which a plan assumes.
        between_subjects, between_seeds: Its parts; NaN where every subject has one seed.
        subjects, seeds, pairs, methods: How many there are.
    """

    of_means: float
    between_subjects: float
    between_seeds: float
    subjects: int
    seeds: int
    pairs: int
    methods: int


def spread(folder: Path, measure: str = "quality") -> Spread:
    """Returns the spread of all pairs of trained arms in the data of a report."""
    frame = read_csv(folder).frame
    runs = frame[(frame["phase"] == "confirm") & (frame["state"] == "COMPLETE") & (frame["method"] != BASE)]
    table = runs.pivot_table(index=["subject", "seed"], columns="arm", values=measure).dropna()
    arms = len(table.columns)
    sizes = table.groupby(level="subject").size()
    return Spread(
        *components(table), len(sizes), int(sizes.max()), arms * (arms - 1) // 2, runs["method"].nunique()
    )


def components(table: pd.DataFrame) -> tuple[float, float, float]:
    """Returns the standard deviations of two arms' mean difference between subjects, and of its two parts: that between
    subjects themselves, and that between seeds of one subject.

    Seeds vary within a subject. The variance of subjects' means holds a part of that, which is taken off (method of
    moments), down to 0; the mean over all pairs of arms is taken of variances. With one seed the parts are unknown.

    Args:
        table: A column for each arm; rows by ``subject`` and ``seed``, as many seeds of each subject.
    """
    whole, between, within = [], [], []
    for one, other in itertools.combinations(table.columns, 2):
        by_subject = (table[one] - table[other]).groupby(level="subject")
        seeds = float(by_subject.var().mean())
        whole.append(float(by_subject.mean().var()))
        within.append(seeds)
        part = whole[-1] - seeds / float(by_subject.size().mean())
        between.append(max(0.0, part) if math.isfinite(part) else math.nan)
    return math.sqrt(np.mean(whole)), math.sqrt(np.mean(between)), math.sqrt(np.mean(within))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a Markdown table with a row for each study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=SHIPPED, help="with runs.csv; default: shipped ones"
    )
    given = parser.parse_args(arguments)
    print(
        "| study | methods | subjects | seeds | pairs of arms | of means | between subjects | between seeds |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for folder in given.folders:
        found = spread(folder)
        parts = (
            "--" if math.isnan(part) else f"{part:.3f}"
            for part in (found.between_subjects, found.between_seeds)
        )
        counts = f"{found.methods} | {found.subjects} | {found.seeds} | {found.pairs}"
        print(f"| {folder.parent.name} | {counts} | {found.of_means:.3f} | {' | '.join(parts)} |")


if __name__ == "__main__":
    main()
