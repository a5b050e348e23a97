"""The answer in plain words: which arms are best, by how much, at what cost, and how sure one may be."""

from __future__ import annotations

from dataclasses import dataclass

from study.report.analysis import Analysis, ArmResult, Budget, Comparison, smallest_p
from study.report.figures.pareto import compute_front
from study.report.formatting import (
    MISSING,
    decimals_for,
    fixed,
    interval,
    listing,
    number,
    plural,
    scale_for,
)
from study.report.measures import measure
from study.report.rows import Rows
from study.report.statistics import Estimate, coverage_bound

FEW_SUBJECTS = 5  # from here a bootstrap over subjects can cover about 95 %
_COSTS = ("train_seconds", "train_flops", "trainable_parameters", "peak_memory_bytes")


@dataclass(frozen=True)
class Verdict:
    """Sentences in plain text: the headline, what supports it, and what to beware of."""

    headline: str
    points: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def estimate_text(estimate: Estimate) -> str:
    """E.g. "0.62 [0.55, 0.70]"."""
    if estimate.value is None:
        return MISSING
    half = estimate.half_width
    if not half:
        return number(estimate.value)
    decimals = decimals_for(estimate.value, half)
    return f"{fixed(estimate.value, decimals)} {interval(estimate.low, estimate.high, decimals)}"


def cost_text(result: ArmResult) -> str:
    """E.g. "12.4 s of training, 1.3 TFLOP, 98 k trained parameters"; empty without costs."""
    words = {
        "train_seconds": "of training",
        "train_flops": "",
        "trainable_parameters": "trained parameters",
        "peak_memory_bytes": "of memory",
    }
    parts = []
    for name in _COSTS:
        value = result.estimates[name].value
        if value is not None:
            scale = scale_for(measure(name).unit, [value])
            parts.append(" ".join(part for part in (number(value, scale), scale.unit, words[name]) if part))
    return ", ".join(parts)


def n_words(result: ArmResult) -> str:
    """E.g. "n = 4 runs on 2 subjects"."""
    return f"n = {plural(result.n, 'run')} on {plural(len(result.subjects), 'subject')}"


def judge(rows: Rows, analysis: Analysis) -> Verdict:
    """Puts the analysis into words."""
    if analysis.best is None:
        return _without_confirmation(rows, analysis)
    best = analysis.arm(analysis.best)
    title = measure(analysis.primary).title.lower()
    beaten = [c for c in analysis.against_best if c.established]
    tied = [c for c in analysis.against_best if not c.established]
    score = f"{title} {estimate_text(best.estimates[analysis.primary])}, {n_words(best)}"
    if best.is_base:
        headline = f"Only the untrained base model has results: {score}."
    elif not analysis.against_best:
        headline = f"{best.arm} is the only trained arm with results: {score}."
    elif not tied:
        headline = f"{best.arm} is best: {score}. It is ahead of every other arm beyond chance."
    elif not beaten:
        headline = (
            f"{best.arm} has the highest mean ({score}), but this study does not establish that it is better "
            "than any other trained arm."
        )
    else:
        rivals = listing(c.second for c in tied)
        headline = f"{best.arm} has the highest mean ({score}); it cannot be told apart from {rivals}."
    points = [
        *_differences(beaten, tied, title),
        *_against_base(analysis, title),
        *_costs(analysis, best, tied),
        *_front(analysis),
        *_schedules(analysis),
    ]
    return Verdict(headline, tuple(points), tuple(_warnings(rows, analysis)))


def difference_text(estimate: Estimate) -> str:
    """E.g. "+0.04 [0.01, 0.07]"."""
    sign = "+" if estimate.value is not None and estimate.value > 0 else ""
    return f"{sign}{estimate_text(estimate)}"


def _difference(comparison: Comparison) -> str:
    if comparison.difference.value is None:
        return f"{comparison.second} (no common subject and seed)"
    return f"{comparison.second} ({difference_text(comparison.difference)})"


def _differences(beaten: list[Comparison], tied: list[Comparison], title: str) -> list[str]:
    found = []
    if beaten:
        names = listing(map(_difference, beaten))
        found.append(f"Established lead in {title}, paired by subject and seed: over {names}.")
    if tied:
        found.append(f"Lead in {title} that is not established: over {listing(map(_difference, tied))}.")
    return found


def _against_base(analysis: Analysis, title: str) -> list[str]:
    shown = [c for c in analysis.against_base if c.difference.value is not None]
    better = [c for c in shown if c.established and (c.difference.value or 0.0) > 0]
    worse = [c for c in shown if c.established and (c.difference.value or 0.0) < 0]
    unclear = [c for c in shown if not c.established]
    found = []
    if better and len(better) == len(shown) and len(shown) > 1:
        found.append(f"Every trained arm is ahead of the untrained base model in {title} beyond chance.")
    elif better:
        names = listing(c.first for c in better)
        found.append(f"Ahead of the untrained base model in {title} beyond chance: {names}.")
    if worse:
        names = listing(c.first for c in worse)
        found.append(f"Behind the untrained base model in {title} beyond chance: {names}.")
    if unclear:
        least = smallest_p(unclear)
        few = least is None or least >= analysis.settings.significance
        why = "too few pairs to establish it" if few else "not established"
        if len(unclear) > 2:
            ordered = sorted(unclear, key=lambda c: c.difference.value or 0.0)
            low, high = ordered[0], ordered[-1]
            names = f"from {difference_text(low.difference)} ({low.first}) to "
            names += f"{difference_text(high.difference)} ({high.first})"
        else:
            names = listing(f"{c.first} {difference_text(c.difference)}" for c in unclear)
        found.append(f"Difference in {title} to the untrained base model, {why}: {names}.")
    return found


def _costs(analysis: Analysis, best: ArmResult, tied: list[Comparison]) -> list[str]:
    text = cost_text(best)
    found = [f"Cost of {best.arm} per run: {text}."] if text and not best.is_base else []
    rivals = [analysis.arm(c.second) for c in tied]
    seconds = best.estimates["train_seconds"].value
    cheaper = [
        (rival.estimates["train_seconds"].value, rival)
        for rival in rivals
        if rival.estimates["train_seconds"].value is not None
    ]
    if seconds and cheaper:
        value, rival = min(cheaper, key=lambda item: item[0] or 0.0)
        if value is not None and value < 0.95 * seconds:
            found.append(
                f"Cheapest of the arms that it cannot be told apart from: {rival.arm} ({cost_text(rival)}), "
                f"{number(seconds / value, digits=2)} times faster to train."
            )
    return found


def _front(analysis: Analysis) -> list[str]:
    front = compute_front(analysis, "train_seconds", analysis.primary)
    names = [point.arm for point in front.points if point.on_front]
    if len(front.points) < 2:
        return []
    title = measure(analysis.primary).title.lower()
    return [f"On the Pareto front of {title} versus training time (by means): {listing(names)}."]


def _schedules(analysis: Analysis) -> list[str]:
    found = []
    for effect in analysis.schedules:
        comparison = effect.comparisons[analysis.primary]
        d = comparison.difference
        if d.value is None:
            continue
        result = "established" if comparison.established else "not established"
        found.append(
            f"Cosine minus constant for {effect.method}: {difference_text(d)} over "
            f"{plural(d.n, 'pair')} ({result})."
        )
    return found


def _warnings(rows: Rows, analysis: Analysis) -> list[str]:
    found = []
    best = analysis.arm(analysis.best) if analysis.best else None
    if best is not None and best.n == 1:
        found.append("A single run: there is no interval, and nothing can be said about chance.")
    elif best is not None and len(best.subjects) == 1:
        found.append(
            f"One subject only ({n_words(best)}): intervals speak of this subject's seeds and not of "
            f"subjects in general."
        )
    elif best is not None and len(best.subjects) < FEW_SUBJECTS:
        bound = round(100 * coverage_bound(len(best.subjects)))
        found.append(
            f"Wide intervals: {n_words(best)}. With so few subjects an interval of nominal 95 % may cover "
            f"as little as {bound} % "
            "when subjects differ more than seeds: read it as the range of what was seen."
        )
    least = smallest_p(analysis.against_best)
    family = sum(c.p is not None for c in analysis.against_best)
    if least is not None and least * family >= analysis.settings.significance:
        pairs = max(c.difference.n for c in analysis.against_best)
        found.append(
            f"With {plural(pairs, 'pair')} the smallest possible p is {least:.3g}"
            + (
                f", {min(1.0, least * family):.3g} after adjustment over {plural(family, 'comparison')}"
                if family > 1
                else ""
            )
            + ": no difference could have been established. More seeds or subjects are needed."
        )
    found += uneven_budgets(analysis.budgets, {result.arm for result in analysis.arms if result.is_base})
    found += _incomplete(analysis)
    uneven = {result.n for result in analysis.arms if result.n and not result.is_base}
    if len(uneven) > 1:
        found.append(
            "Arms have different numbers of complete confirm runs; paired comparisons use common pairs only."
        )
    if "peak_memory_kind" in rows.confirm and (rows.confirm["peak_memory_kind"] == "resident_set").any():
        found.append(
            "Peak memory is the resident set of a worker on a CPU, which holds the base model and libraries "
            "too; it tells little "
            "of memory on a GPU."
        )
    return found


def uneven_budgets(budgets: tuple[Budget, ...], untrained: set[str]) -> list[str]:
    """A warning where arms had different numbers of search trials."""
    trials = {budget.arm: budget.trials for budget in budgets if budget.arm not in untrained}
    if len(set(trials.values())) < 2:
        return []
    return [
        "Search budgets differ: "
        + listing(f"{arm} had {plural(count, 'trial')}" for arm, count in trials.items())
        + "."
    ]


def _incomplete(analysis: Analysis) -> list[str]:
    missing = [
        e for e in analysis.exclusions if e.phase == "confirm" and e.state in ("FAIL", "RUNNING", "PRUNED")
    ]
    if not missing:
        return []
    arms = listing(dict.fromkeys(e.arm for e in missing))
    return [
        f"{plural(len(missing), 'confirm run')} of {arms} did not complete and are missing from the means "
        f"(listed below)."
    ]


def _without_confirmation(rows: Rows, analysis: Analysis) -> Verdict:
    confirm = rows.frame[rows.frame["phase"] == "confirm"]
    if rows.frame.empty:
        return Verdict("This study has no runs yet.")
    warnings = uneven_budgets(analysis.budgets, {result.arm for result in analysis.arms if result.is_base})
    if confirm.empty:
        headline = (
            "No verdict yet: this study has no confirm runs. What the search saw is shown below; its scores "
            "choose "
            "configurations and are not results."
        )
        return Verdict(headline, (), tuple(warnings))
    failed, running = int((confirm["state"] == "FAIL").sum()), int((confirm["state"] == "RUNNING").sum())
    parts = [f"{failed} failed" if failed else "", f"{running} had not ended" if running else ""]
    details = listing(part for part in parts if part) or "none has a measured quality"
    return Verdict(
        f"No verdict: of {plural(len(confirm), 'confirm run')} none can be compared ({details}).",
        (),
        tuple(warnings),
    )
