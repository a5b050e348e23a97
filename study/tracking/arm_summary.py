"""What the runs of an arm and phase come to: counts, and of confirm runs each measure's mean with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from study.statistics.paired import Estimate, estimate_of
from study.storage.run_key import END_WORDS, RunKey
from trainables.evaluation.metrics_table import CLASSIFIER_SCORES, METRICS, QUALITY, VALIDATION_SCORES
from trainables.methods.registry import BASE

if TYPE_CHECKING:
    from mlflow.entities import Run

_SUBJECT_AND_SEED = tuple[str, int]


@dataclass(frozen=True)
class Child:
    """A run as its parent sees it.

    Attributes:
        values: Of an ended run, under MLflow's names (``eval/quality``); a metric without a value is left out.
    """

    key: RunKey
    state: str
    method: str
    values: Mapping[str, float]


def child_in_mlflow(key: RunKey, found: Run) -> Child:
    """A run that MLflow holds whole, as its parent sees it."""
    tags = found.data.tags
    missing = {f"eval/{name}" for name in tags.get("missing", "").split(",")}
    values = {name: value for name, value in found.data.metrics.items() if name not in missing}
    return Child(key, tags.get("state", "RUNNING"), tags.get("method", ""), values)


def summary(children: Sequence[Child]) -> dict[str, float]:
    """Counts of states, and over complete runs the mean and the best of quality."""
    name = METRICS[QUALITY].key
    qualities = [child.values[name] for child in _complete(children) if name in child.values]
    found = {
        f"summary/n_{state.lower()}": float(sum(child.state == state for child in children))
        for state in END_WORDS
    }
    if qualities:
        found["summary/mean_quality"] = fmean(qualities)
        found["summary/best_quality"] = max(qualities)
    return found


def estimates(children: Sequence[Child], method: str) -> dict[str, Estimate]:
    """Returns each measure's mean over subjects with Student's interval, as the report's tables have it.

    Args:
        children: Confirm runs of one arm; the complete ones count.
        method: Of the arm. The seeds of the untrained model differ in evaluation noise only, so that its runs on a
            subject count as one.

    Returns:
        By bare name, those that some run has: `n` is the number of runs.
    """
    complete, found = _complete(children), {}
    for name, metric in METRICS.items():
        runs = [(child.key, child.values[metric.key]) for child in complete if metric.key in child.values]
        units = _subject_means(((key.subject, key.seed), value) for key, value in runs)
        if units:
            estimate = estimate_of(units, None if method == BASE else len(runs))
            found[name] = estimate.cut(*metric.possible) if metric.possible else estimate
    return found


def classifier_summary(children: Sequence[Child]) -> tuple[dict[str, float], str]:
    """Counts of states and means of test scores (validation scores in a search) of a cell's classifiers, and in words.

    Plain means over classifier and generator seeds: intervals, which must know of test images too, are the report's.
    """
    found = summary(children)
    names = [f"eval/{name}" for name in (*CLASSIFIER_SCORES, *VALIDATION_SCORES)]
    means = {
        name: fmean(values)
        for name in names
        if (values := [child.values[name] for child in _complete(children) if name in child.values])
    }
    found |= {f"mean/{name.removeprefix('eval/')}": value for name, value in means.items()}
    shown = means.get("eval/balanced_accuracy")
    count = len(_complete(children))
    return found, "" if shown is None else f"balanced accuracy {shown:.3f} on test images, n = {count}"


def estimate_metrics(found: Mapping[str, Estimate]) -> dict[str, float]:
    """Estimates as MLflow's metrics: ``mean/quality``, ``low/quality``, ``high/quality`` and ``n/quality``.

    Below three subjects there is no interval, and so neither low nor high.
    """
    named: dict[str, float] = {}
    for name, estimate in found.items():
        parts = {"mean": estimate.value, "low": estimate.low, "high": estimate.high, "n": float(estimate.n)}
        named |= {f"{part}/{name}": value for part, value in parts.items() if value is not None}
    return named


def estimate_words(found: Mapping[str, Estimate]) -> str:
    """The quality in words, e.g. "quality 0.26 [0.22, 0.29], n = 16 runs on 8 subjects"; empty where it has none."""
    estimate = found.get(QUALITY)
    if estimate is None or estimate.value is None:
        return ""
    interval = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    return f"quality {estimate.value:.2f}{interval}, n = {estimate.n} on {estimate.n_subjects} subjects"


def _complete(children: Iterable[Child]) -> list[Child]:
    return [child for child in children if child.state == "COMPLETE"]


def _subject_means(values: Iterable[tuple[_SUBJECT_AND_SEED, float]]) -> list[float]:
    """Means within each subject, of the means within each seed; subjects in order."""
    seeds: dict[_SUBJECT_AND_SEED, list[float]] = {}
    for place, value in values:
        seeds.setdefault(place, []).append(value)
    subjects: dict[str, list[float]] = {}
    for (subject, _), found in sorted(seeds.items()):
        subjects.setdefault(subject, []).append(fmean(found))
    return [fmean(found) for found in subjects.values()]
