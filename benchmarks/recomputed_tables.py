"""A report of somebody else's results against scipy: `python -m benchmarks.recomputed_tables FILE --mapping YAML`.

For published tables, which are not kept here: FILE is a table with a row a run, the mapping that of ``study report
--from-csv`` (docs/other-results.md). The report is made, and its means, intervals, paired differences, p values and
Holm's adjustment are computed once more from FILE, by pandas and scipy. Prints the largest differences; exits 1 where
one is above 1e-9. Rows without a value, and columns of words, are for `study report`: give numbers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

LIMIT = 1e-9
_LEVEL = 0.95


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each table of the report; returns 1 where one is not what scipy says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recomputed_tables", description=__doc__)
    parser.add_argument("file", type=Path, help="CSV, a row a run")
    parser.add_argument("--mapping", type=Path, required=True, help="arm, quality, subject and seed by name")
    asked = parser.parse_args(arguments)

    from study.report import build_report
    from study.results.any_table import table_source
    from study.results.external import external_results
    from study.results.mapping import mapping_of

    meaning = mapping_of(asked.mapping, {})
    rows = pd.read_csv(asked.file)
    [arm], [subject] = meaning.arm, meaning.subject
    with tempfile.TemporaryDirectory() as folder:
        build_report(external_results(table_source(asked.file), meaning), Path(folder) / "report")
        tables = Path(folder) / "report" / "tables"
        arms = pd.read_csv(tables / "arms.csv", dtype={"arm": str}).set_index("arm")
        pairs = pd.read_csv(tables / "pairs.csv", dtype={"first": str, "second": str})
    rows[arm] = rows[arm].astype(str)
    worst = {f"arms, {name}": of_arms(rows, arms, arm, subject, name) for name in meaning.quality}
    worst["pairs"] = of_pairs(rows, pairs, arm, subject, meaning.quality[0])
    print(
        f"{len(rows)} rows, {rows[arm].nunique()} arms, {rows[subject].nunique()} subjects, {len(pairs)} pairs"
    )
    for name, difference in worst.items():
        print(f"{name}: largest difference {difference:.1e}")
    return int(max(worst.values()) > LIMIT)


def of_arms(rows: pd.DataFrame, table: pd.DataFrame, arm: str, subject: str, name: str) -> float:
    """The largest difference of means and Student's intervals over subjects."""
    units = rows.groupby([arm, subject])[name].mean().unstack()
    count = units.notna().sum(axis=1)
    half = stats.t.ppf((1 + _LEVEL) / 2, count - 1) * units.std(axis=1, ddof=1) / np.sqrt(count)
    mean = units.mean(axis=1)
    shown = table[[f"metric.{name}{end}" for end in ("", "_low", "_high")]].reindex(units.index).to_numpy()
    return float(np.abs(shown - np.column_stack([mean, mean - half, mean + half])).max())


def of_pairs(rows: pd.DataFrame, table: pd.DataFrame, arm: str, subject: str, name: str) -> float:
    """The largest difference of paired differences, their intervals, p values and Holm's adjustment."""
    units = rows.groupby([arm, subject])[name].mean().unstack()
    found = []
    for row in table.itertuples():
        both = units.loc[[row.first, row.second]].dropna(axis=1).to_numpy()
        test = stats.ttest_rel(both[0], both[1])
        ends = test.confidence_interval(_LEVEL)
        found.append(((both[0] - both[1]).mean(), ends.low, ends.high, test.pvalue))
    computed = np.array(found)
    order = np.argsort(computed[:, 3])
    stepped = computed[order, 3] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(stepped))
    difference = f"metric.{name}_difference"
    shown = table[[difference, f"{difference}_low", f"{difference}_high", "p", "p_holm"]].to_numpy()
    return float(np.abs(shown - np.column_stack([computed, adjusted])).max())


if __name__ == "__main__":
    sys.exit(main())
