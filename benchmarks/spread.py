"""How much differences between arms vary from subject to subject and from seed to seed: `python -m benchmarks.spread`.

What a plan assumes before a study has run (`study.statistics.power`), measured on studies that have: root mean squares
over all pairs of trained arms, on the data of shipped reports, or of any folder with a ``runs.csv``.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from study.results.csv_files import read_csv
from study.spec.sections import BASE

SHIPPED = sorted(Path(__file__).parents[1].glob("reports/*/data"))


def spread(folder: Path, measure: str = "quality") -> tuple[float, float, int, int]:
    """Returns the standard deviations between subjects and between seeds, the number of pairs, and of subjects."""
    frame = read_csv(folder).frame
    runs = frame[(frame["phase"] == "confirm") & (frame["state"] == "COMPLETE") & (frame["method"] != BASE)]
    table = runs.pivot_table(index=["subject", "seed"], columns="arm", values=measure).dropna()
    subjects, seeds = components(table)
    arms = len(table.columns)
    return subjects, seeds, arms * (arms - 1) // 2, table.index.get_level_values("subject").nunique()


def components(table: pd.DataFrame) -> tuple[float, float]:
    """Returns the standard deviations of two arms' difference between subjects and between seeds of a subject.

    Seeds vary within a subject. The variance of subjects' means holds a part of that, which is taken off (method of
    moments), down to 0; the mean over all pairs of arms is taken of variances.

    Args:
        table: A column for each arm; rows by ``subject`` and ``seed``, as many seeds of each subject.
    """
    between, within = [], []
    for one, other in itertools.combinations(table.columns, 2):
        by_subject = (table[one] - table[other]).groupby(level="subject")
        seeds = float(by_subject.var().mean())
        within.append(seeds)
        between.append(max(0.0, float(by_subject.mean().var()) - seeds / float(by_subject.size().mean())))
    return math.sqrt(np.mean(between)), math.sqrt(np.mean(within))


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: a Markdown table with a row for each study."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, default=SHIPPED, help="with runs.csv; default: shipped ones"
    )
    given = parser.parse_args(arguments)
    print("| study | subjects | pairs of arms | between subjects | between seeds |")
    print("|---|--:|--:|--:|--:|")
    for folder in given.folders:
        subjects, seeds, pairs, count = spread(folder)
        print(f"| {folder.parent.name} | {count} | {pairs} | {subjects:.3f} | {seeds:.3f} |")


if __name__ == "__main__":
    main()
