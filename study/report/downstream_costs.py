"""What the classifiers' comparison cost, and whether all cells had the same: by the records of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from study.report.downstream_data import COMPLETE, Phase, Source
from study.report.formatting import listing, plural
from study.report.measures import TOTAL_FLOPS, TOTAL_SECONDS
from study.report.prepared import Rows

_NAMED = 4  # in a sentence on many


@dataclass(frozen=True)
class SourceCost:
    """What a source costs for each seed of its generator, in seconds and operations; None where it is unknown.

    Attributes:
        tuned: Fine-tuning the generator, of all classes.
        drawn: Drawing the images that the source takes.
        trained: Training one classifier.
    """

    source: Source
    tuned: tuple[float | None, float | None]
    drawn: tuple[float | None, float | None]
    trained: tuple[float | None, float | None]

    def added(self, k: int) -> float | None:
        """What comes on top of real images alone: seconds (0) or operations (1)."""
        tuned, drawn = self.tuned[k], self.drawn[k]
        return None if tuned is None or drawn is None else tuned + drawn


def source_costs(rows: Rows, phase: Phase) -> list[SourceCost]:
    """The costs of each source that has runs."""
    return [_source_cost(rows, phase, source) for source in phase.sources]


def _source_cost(rows: Rows, phase: Phase, source: Source) -> SourceCost:
    own = pd.concat([cell.rows for cell in phase.cells if cell.source == source])
    trained = (_mean(own["train_seconds"]), _mean(own["train_flops"]))
    if source.generator is None:
        return SourceCost(source, (0.0, 0.0), (0.0, 0.0), trained)
    confirm = rows.confirm[rows.confirm["arm"] == source.generator]
    seeds = set(own["generator_seed"].dropna())
    confirm = confirm[confirm["seed"].isin(seeds)]
    drawn = phase.data.generated
    drawn = drawn[(drawn["generator"] == source.generator) & drawn["seed"].isin(seeds)]
    taken = _share_taken(own, drawn)
    return SourceCost(
        source,
        (_a_seed(confirm, TOTAL_SECONDS, "train_seconds"), _a_seed(confirm, TOTAL_FLOPS, "train_flops")),
        (_times(_a_seed(drawn, "generate_seconds"), taken), _times(_a_seed(drawn, "generate_flops"), taken)),
        trained,
    )


def _share_taken(own: pd.DataFrame, drawn: pd.DataFrame) -> float | None:
    """Of the images that were drawn, the share that the source asks for, those included that its filter left out."""
    asked = _mean(own["generated_images"].astype("float64") + own["filtered_out"].fillna(0).astype("float64"))
    there = _a_seed(drawn, "images")
    return None if asked is None or not there else min(1.0, asked / there)


def _a_seed(table: pd.DataFrame, *columns: str) -> float | None:
    """Sum over classes of the first column that is known, mean over seeds."""
    for column in columns:
        if column in table and len(table) and table[column].notna().all():
            return float(table[column].astype("float64").groupby(table["seed"]).sum().mean())
    return None


def _times(value: float | None, share: float | None) -> float | None:
    return None if value is None or share is None else value * share


def _mean(values: pd.Series) -> float | None:
    known = values.dropna().astype("float64")
    return float(known.mean()) if len(known) else None


# ------------------------------------------------------------------ equal budgets, by the records


def budget_words(phase: Phase) -> tuple[str, list[str]]:
    """A sentence on what all cells had alike by the runs' own records, and warnings where they differ."""
    final = phase.final[phase.final["state"] == COMPLETE]
    if final.empty:
        return "", []
    told, warnings = [], []
    for column, what in (("steps", "optimizer steps"), ("images_drawn", "images drawn")):
        counts = final.groupby("cell", sort=True)[column].agg(["min", "max"]).dropna()
        values = sorted(set(counts["min"]) | set(counts["max"]))
        if len(values) == 1:
            told.append(f"{int(values[0]):,} {what}")
        elif values:
            warnings.append(_unlike(f"Classifiers were not trained alike: {what} differ", counts))
    trials = _trials(phase)
    if len(set(trials.values())) == 1:
        told.append(f"{plural(next(iter(trials.values())), 'search trial')} a cell")
    elif trials:
        ends = pd.DataFrame({"min": trials, "max": trials})
        warnings.append(_unlike("Searches of classifiers had unlike numbers of trials", ends))
    silent = int(final["steps"].isna().sum())
    if silent:
        warnings.append(
            f"{plural(silent, 'run')} of classifiers left no record, so that nothing proves how long they trained."
        )
    if not told:
        return "", warnings
    runs = plural(len(final) - silent, "final run")
    text = f"By their own records, what all {runs} had alike: {listing(told)}."
    if final["leak_checked"].notna().all():
        text += " Each of them checked by itself that no held-out image is among those that it learnt from."
    return text, warnings


def _trials(phase: Phase) -> dict[str, int]:
    """Trials of each cell's search, of all cells that have final runs; empty where nothing was searched."""
    if phase.searched.empty:
        return {}
    counts = phase.searched.groupby("cell")["trial"].nunique()
    return {str(cell): int(counts.get(cell, 0)) for cell in sorted(set(phase.final["cell"]))}


def _unlike(what: str, counts: pd.DataFrame) -> str:
    """Names the cells by what they had, the least first."""
    by_value: dict[str, list[str]] = {}
    for cell, low, high in sorted(counts.itertuples(), key=lambda row: (row[1], row[2], str(row[0]))):
        by_value.setdefault(f"{int(low):,}" if low == high else f"{int(low):,} to {int(high):,}", []).append(
            str(cell)
        )
    parts = [f"{value} ({_few(cells)})" for value, cells in by_value.items()]
    return f"{what}: {listing(parts)}. What differs between these cells may be the longer training."


def _few(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:_NAMED])} and {more} more"


def missing_words(phase: Phase) -> list[str]:
    """Runs that failed, that are still missing, and that could not be used."""
    final = phase.final
    found = []
    failed = final[final["state"].isin(("FAIL", "PRUNED"))]
    if len(failed):
        found.append(
            f"{plural(len(failed), 'run')} of classifiers did not complete and {'is' if len(failed) == 1 else 'are'} "
            f"missing: {_few(list(failed['run_key']))}."
        )
    there = int((final["state"] == COMPLETE).sum()) + len(failed)
    if phase.planned is not None and there < phase.planned:
        found.append(
            f"{plural(phase.planned - there, 'run')} of classifiers of {phase.planned:,} "
            f"{'has' if phase.planned - there == 1 else 'have'} not ended yet: values may change."
        )
    if phase.others:
        found.append(
            f"{plural(len(phase.others), 'complete run')} of classifiers left no predictions on the same test "
            "images as "
            f"the others and {'is' if len(phase.others) == 1 else 'are'} left out: {_few(phase.others)}."
        )
    gaps = sum(cell.missing for cell in phase.cells)
    if gaps:
        found.append(
            f"{plural(gaps, 'complete run')} of classifiers {'is' if gaps == 1 else 'are'} left out, since a run "
            "of the same cell with one of their seeds is missing: every seed is compared with every other."
        )
    return found
