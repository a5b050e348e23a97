"""What the classifiers' comparison cost, and whether all cells had the same: by the records of the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from study.report.downstream_data import COMPLETE, RUNNING, Phase, Source
from study.report.formatting import listing, plural
from study.report.measures import TOTAL_FLOPS, TOTAL_SECONDS
from study.report.prepared import Rows

_NAMED = 4  # in a sentence on many
_MAY_BE = "What differs between these cells may be the {}."


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
            warnings.append(
                _unlike(f"Classifiers were not trained alike: {what} differ", counts, "longer training")
            )
    alike, unlike = _search_words(phase)
    told += alike
    warnings += unlike
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


def configurations_of(phase: Phase) -> dict[str, frozenset[tuple[float, str, float]]]:
    """The different configurations that each cell's search tried, by its runs: learning rate, optimizer, weight decay.
    A search may draw one of them twice, which tries nothing more.

    Returns:
        By cell, of all cells that have final runs; empty where nothing was searched.
    """
    tried = phase.searched[phase.searched["state"] != RUNNING]
    if tried.empty:
        return {}
    columns = ["learning_rate", "optimizer", "weight_decay"]
    own = {
        str(cell): frozenset(rows[columns].itertuples(index=False, name=None))
        for cell, rows in tried.groupby("cell")
    }
    return {str(cell): own.get(str(cell), frozenset()) for cell in sorted(set(phase.final["cell"]))}


def _search_words(phase: Phase) -> tuple[list[str], list[str]]:
    """What all searches had alike, and a warning where they differ."""
    tried = configurations_of(phase)
    counts = {cell: len(one) for cell, one in tried.items()}
    if not tried:
        return [], []
    if len(set(counts.values())) > 1:
        ends = pd.DataFrame({"min": counts, "max": counts})
        what = "Searches of classifiers tried unlike numbers of different configurations"
        return [], [_unlike(what, ends, "better search")]
    same, number = frozenset.intersection(*tried.values()), next(iter(counts.values()))
    if len(same) == number:
        return [f"a search of the same {plural(number, 'different configuration')}"], []
    some = len(frozenset.union(*tried.values()))
    return [], [
        f"Searches of classifiers tried {plural(number, 'different configuration')} a cell, but not the same ones: of "
        f"{some} in all, {len(same)} {'was' if len(same) == 1 else 'were'} tried for every cell. "
        f"{_MAY_BE.format('better search')}"
    ]


def _unlike(what: str, counts: pd.DataFrame, reason: str) -> str:
    """Names the cells by what they had, the least first."""
    by_value: dict[str, list[str]] = {}
    for cell, low, high in sorted(counts.itertuples(), key=lambda row: (row[1], row[2], str(row[0]))):
        by_value.setdefault(f"{int(low):,}" if low == high else f"{int(low):,} to {int(high):,}", []).append(
            str(cell)
        )
    parts = [f"{value} ({_few(cells)})" for value, cells in by_value.items()]
    return f"{what}: {listing(parts)}. {_MAY_BE.format(reason)}"


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
