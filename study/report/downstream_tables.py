"""The tables of the downstream section."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from study.report.downstream_analysis import COMPARED, MIN_SEEDS, SCORES, Findings, Gain, Recipe
from study.report.downstream_costs import SourceCost, configurations_of
from study.report.downstream_data import CellRuns, Phase, Source
from study.report.formatting import MISSING, Scale, fixed, interval, scale_for
from study.report.results_tables import Pair, p_values, texts
from study.report.tables import Cell, Column, Table, assemble, number_cell, text_cell
from study.statistics.downstream.worth import Worth
from study.statistics.paired import Direction, Estimate

TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro-F1",
    "auroc": "AUROC",
    "ece": "ECE",
}
POINTS = Scale(0.01, "points")
_PERCENT = Scale(0.01, "%")
_DIRECTIONS: dict[str, Direction] = {name: "min" if name == "ece" else "max" for name in SCORES}
_SEEDS = (
    f"Means over classifier seeds and generator seeds with 95 % intervals, from {MIN_SEEDS} seeds of each kind "
    "on, that "
    "hold for other test images, other classifier seeds and other generator seeds."
)
_VALIDATION = "Validation: what learning rates, optimizers and steps were chosen by; it compares nothing."


def scored(estimate: Estimate, scale: Scale = _PERCENT, sign: bool = False) -> Cell:
    """A score in percent, or a difference in points, with one decimal."""
    if estimate.value is None:
        return Cell(MISSING)
    text = fixed(estimate.value / scale.factor, 1)
    plus = "+" if sign and estimate.value > 0 and text.strip("0.") else ""
    return Cell(
        plus + text,
        interval(estimate.low, estimate.high, 1, scale),
        estimate.value,
        estimate.low,
        estimate.high,
    )


def points_text(gain: Gain) -> str:
    """E.g. "+2.1 points [0.5, 3.7]"."""
    cell = scored(gain.estimate, POINTS, sign=True)
    return f"{cell.text} points {cell.detail}".strip()


def _recipe_columns(phase: Phase, recipes: Sequence[Recipe | None]) -> list[Pair]:
    columns = [texts("classifier", "Classifier", [r[0] if r else "all (mean)" for r in recipes])]
    if phase.of_losses:
        columns.append(texts("loss", "Loss", [r[1].replace("_", " ") if r else "all" for r in recipes]))
    return columns


def _plain(key: str, title: str, values: Sequence[float | None], unit: str = "%") -> Pair:
    """A column of scores without intervals."""
    column = Column(key, title, unit, numeric=True)
    return column, [Cell(MISSING) if v is None else Cell(fixed(100 * v, 1), value=v) for v in values]


def _counts(key: str, title: str, values: Sequence[float | None]) -> Pair:
    column = Column(key, title, numeric=True)
    return column, [Cell(MISSING) if v is None else Cell(fixed(v, 0), value=v) for v in values]


# ------------------------------------------------------------------ what classifiers came to


def cells_table(found: Findings) -> Table:
    """The table: what is learnt from, by classifier, on validation and on test images."""
    cells = [cell for cell in found.phase.cells if cell.runs is not None]
    scores = []
    for name in SCORES:
        estimates = [found.estimate(found.tables[c.source, (c.classifier, c.loss)][name]) for c in cells]
        column = Column(name, f"{TITLES[name]}", "%", _DIRECTIONS[name], numeric=True, has_interval=True)
        scores.append((column, [scored(estimate) for estimate in estimates]))
    columns = [
        texts("source", "Learns from", [c.source.name for c in cells]),
        *_recipe_columns(found.phase, [(c.classifier, c.loss) for c in cells]),
        texts("n", "n", [_runs_text(cell) for cell in cells]),
        _counts("real_images", "Real images", [c.mean("real_images") for c in cells]),
        _counts("generated_images", "Generated", [c.mean("generated_images") for c in cells]),
        _plain("validation_accuracy", "Validation accuracy", [c.mean("validation_accuracy") for c in cells]),
        *scores,
    ]
    notes = (
        f"Test scores. {_SEEDS}",
        _VALIDATION,
        "n: runs (generator seeds × classifier seeds; without generated images classifier seeds). Real images, "
        "generated: how many different ones a classifier could learn from, mean over runs.",
    )
    return assemble("downstream", "What classifiers came to, by what they learnt from.", columns, notes)


def _runs_text(cell: CellRuns) -> str:
    assert cell.runs is not None
    generators, classifiers = len(cell.runs.generator_seeds), len(cell.runs.classifier_seeds)
    return f"{generators * classifiers} ({generators} × {classifiers})" if generators else str(classifiers)


def gains_table(found: Findings, *, means: bool) -> Table | None:
    """Differences to `real`: of the means over classifiers, or classifier by classifier."""
    phase = found.phase
    recipes: list[Recipe | None] = [None] if means else list(phase.recipes)
    several = len(phase.recipes) > 1
    if means and not several:
        return None
    lines = [
        (source, recipe, [found.gain(source, score, recipe) for score in COMPARED])
        for source in phase.sources
        for recipe in recipes
    ]
    lines = [line for line in lines if any(line[2])]
    if not lines:
        return None
    columns = [texts("source", "Learns from", [source.name for source, _, _ in lines])]
    columns += _recipe_columns(phase, [recipe for _, recipe, _ in lines]) if several and not means else []
    columns.append(texts("n", "n", [_seeds_text(gains) for _, _, gains in lines]))
    for k, score in enumerate(COMPARED):
        own = [gains[k] for _, _, gains in lines]
        title = TITLES[score]
        column = Column(
            f"{score}_difference", f"Δ {title.lower()}", "points", numeric=True, has_interval=True
        )
        columns += [
            (column, [Cell(MISSING) if g is None else scored(g.estimate, POINTS, sign=True) for g in own]),
            p_values(f"{score}_p", "p", [g.p if g else None for g in own]),
            texts(f"{score}_verdict", "Verdict", [g.outcome if g else None for g in own]),
        ]
    of = "mean of all classifiers" if means else "by classifier" if several else phase.recipes[0][0]
    caption = (
        f"What it learns from, less real images alone ({of}), on the same test images and classifier seeds."
    )
    return assemble(
        f"downstream-{'gains' if means or not several else 'gains-by-classifier'}",
        caption,
        columns,
        _gain_notes(found, several),
    )


def _gain_notes(found: Findings, several: bool) -> tuple[str, ...]:
    halves = " (half of the level for each classifier by itself, half for their means)" if several else ""
    return (
        f"p: two-sided, adjusted by Holm over all comparisons of real with generated images{halves}, in each score by "
        "itself; controls, generated images alone and other numbers of real images are adjusted among themselves. "
        "Verdicts: equivalent (two one-sided tests show that the difference lies within "
        f"±{100 * found.phase.margin:g} points, `downstream.margin` in the study file, adjusted likewise; it goes "
        "before the others), better and worse (adjusted p below 0.05), and otherwise not enough.",
    )


def _seeds_text(gains: Sequence[Gain | None]) -> str | None:
    known = next((gain for gain in gains if gain), None)
    if known is None:
        return None
    one = known.found
    return f"{one.generators} × {one.classifiers}" if known.source.generator else str(one.classifiers)


def recall_table(found: Findings) -> Table:
    """Recall of each class, mean of the classifiers."""
    sources = [source for source in found.phase.sources if source in found.means]
    columns = [texts("source", "Learns from", [source.name for source in sources])]
    for k, label in enumerate(found.phase.classes):
        estimates = [found.estimate(found.means[source][f"recall:{k}"]) for source in sources]
        column = Column(f"recall_{k}", label, "%", numeric=True, has_interval=True)
        columns.append((column, [scored(estimate) for estimate in estimates]))
    assert found.phase.images is not None
    sizes = np.bincount(found.phase.images.labels, minlength=found.phase.images.classes)
    told = ", ".join(f"{label} {size}" for label, size in zip(found.phase.classes, sizes, strict=True))
    note = f"Share of a class's test images that are named rightly, mean of the classifiers. Test images: {told}."
    return assemble("downstream-recall", "Recall by class.", columns, (note,))


# ------------------------------------------------------------------ generators


def generators_table(found: Findings) -> Table | None:
    """Classifiers that learnt from generated images alone (CAS), beside what is known of these images."""
    phase = found.phase
    alone = [source for source in phase.sources if source.generated_alone and source in found.means]
    known = phase.data.generated
    names = list(dict.fromkeys([s.generator for s in alone] + sorted(set(known["generator"].dropna()))))
    if not names:
        return None
    lines: list[tuple[str, Source | None]] = []
    for name in names:
        own = [source for source in alone if source.generator == name]
        lines += [(str(name), source) for source in own] or [(str(name), None)]
    scores = []
    for score in COMPARED:
        estimates = [Estimate(None) if s is None else found.estimate(found.means[s][score]) for _, s in lines]
        column = Column(
            f"cas_{score}", f"CAS: {TITLES[score].lower()}", "%", "max", numeric=True, has_interval=True
        )
        scores.append((column, [scored(estimate) for estimate in estimates]))
    measured = [
        _measured(known, [name for name, _ in lines], column, title, percent)
        for column, title, percent in (
            ("vendi", "Vendi", False),
            ("vendi_alike", "Vendi, as many as real", False),
            ("vendi_real", "Vendi of real", False),
            ("memorisation", "Memorised", True),
            ("grade_agreement", "Shows its class", True),
        )
    ]
    near = {name: near_held_out(phase, str(name)) for name in names}
    like_held_out = _plain("near_held_out", "Like a held-out one", [near[name] for name, _ in lines])
    measured.insert(-1, like_held_out)
    images = [_sum_a_seed(known, name) for name, _ in lines]
    columns = [
        texts("generator", "Generator", [name for name, _ in lines]),
        texts("filter", "Filter", [(s.filter or "none").replace("_", " ") if s else None for _, s in lines]),
        _counts("images", "Drawn", images),
        *scores,
        *(pair for pair in measured if pair is like_held_out or any(c.value is not None for c in pair[1])),
    ]
    notes = (
        "CAS: classification accuracy score, that of classifiers which learnt from generated images alone, on "
        "real test "
        "images (Ravuri and Vinyals 2019), mean of the classifiers. Drawn: images for each generator seed.",
        "Vendi: effective number of different images of a class (Friedman and Dieng 2023), mean over classes and "
        "seeds; it grows with how many there are, so that as many drawn as real ones are compared. Memorised: share of "
        "drawn images that nearly show a training image; like a held-out one: of those that classifiers "
        f"were given, the share that nearly show a validation or test image ({MISSING}: not looked for); these are "
        f"counted and not refused. Shows its class: where that can be told "
        f"without a classifier; a generator that shows all {len(phase.classes)} classes alike, whichever it is asked "
        f"for, comes to {fixed(100 / len(phase.classes), 1)} %.",
    )
    return assemble(
        "downstream-generators", "The generators, by what their images alone teach.", columns, notes
    )


def near_held_out(phase: Phase, generator: str) -> float | None:
    """Share of a generator's images that nearly show a held-out one, mean over its seeds, each by the run that compared
    most of them; None where none was compared so.
    """
    own = phase.table[(phase.table["generator"] == generator) & phase.table["leak_checked"].notna()]
    by_seed: dict[int, tuple[int, int]] = {}
    for seed, text in zip(own["generator_seed"], own["leak_checked"], strict=True):
        checked = json.loads(text)
        compared, near = (checked.get(name) for name in ("generated_images", "generated_near_held_out"))
        if compared and near is not None:
            by_seed[int(seed)] = max(by_seed.get(int(seed), (0, 0)), (compared, near))
    shares = [near / compared for compared, near in by_seed.values()]
    return float(np.mean(shares)) if shares else None


def _measured(known: pd.DataFrame, names: Sequence[str], column: str, title: str, percent: bool) -> Pair:
    values = []
    for name in names:
        own = known.loc[known["generator"] == name, column].dropna()
        values.append(float(own.mean()) if len(own) else None)
    if percent:
        return _plain(column, title, values)
    return Column(column, title, numeric=True), [
        Cell(MISSING) if v is None else Cell(fixed(v, 2), value=v) for v in values
    ]


def _sum_a_seed(known: pd.DataFrame, name: str) -> float | None:
    own = known[(known["generator"] == name) & known["images"].notna()]
    return float(own["images"].astype("float64").groupby(own["seed"]).sum().mean()) if len(own) else None


def worth_table(found: Findings) -> Table | None:
    """How many further real images the generated ones are worth."""
    if not found.worths:
        return None
    sources = list(found.worths)
    worths = [found.worths[source] for source in sources]
    columns = [
        texts("source", "Learns from", [source.name for source in sources]),
        (
            Column("worth", "Worth so many further real images", numeric=True, has_interval=True),
            [_worth_cell(worth) for worth in worths],
        ),
        texts("verdict", "Verdict", [_worth_words(worth) for worth in worths]),
    ]
    least, most = worths[0].least, worths[0].most
    score = TITLES[found.phase.chosen_by].lower()
    notes = (
        f"By {score}, mean of the classifiers: the place of the generated images on the learning curve of real ones, "
        f"which reaches from {fixed(least, 0)} to {fixed(most, 0)} images more than all real ones that classifiers had "
        "(an isotonic regression, linear in the logarithm of the number). The interval holds all numbers from "
        "which the score does not differ. Which real images a smaller number has is chosen once, for all classifier "
        "seeds alike, so that the chance of that choice is not in the interval.",
    )
    return assemble("downstream-worth", "Generated images as so many further real ones.", columns, notes)


def _worth_cell(worth: Worth) -> Cell:
    def end(value: float) -> str:
        if value == float("inf"):
            return f"> {fixed(worth.most, 0)}"
        return f"< {fixed(worth.least, 0)}" if value == -float("inf") else fixed(value, 0)

    there = np.isfinite([worth.low, worth.high])
    known = not np.isnan([worth.low, worth.high]).any()
    detail = f"[{end(worth.low)}, {end(worth.high)}]" if known else ""
    low, high = (value if ok else None for value, ok in zip((worth.low, worth.high), there, strict=True))
    value = worth.value if np.isfinite(worth.value) else None
    return Cell(end(worth.value), detail, value if value is not None else end(worth.value), low, high)


def _worth_words(worth: Worth) -> str:
    if np.isnan([worth.low, worth.high]).any():
        return "not enough seeds"
    if worth.surely_some:
        return "worth something"
    return "harm" if worth.surely_none else "not decided"


# ------------------------------------------------------------------ costs and searches


def costs_table(found: Findings, costs: Sequence[SourceCost]) -> Table:
    """What each source costs, and what a point of accuracy costs."""
    gains = [found.gain(cost.source, "accuracy") for cost in costs]
    columns = [texts("source", "Learns from", [cost.source.name for cost in costs])]
    for k, unit in enumerate(("s", "FLOP")):
        end = "seconds" if unit == "s" else "flops"
        added = [c.added(k) if c.source.adds_images else None for c in costs]
        parts = {
            "tuned": ("Fine-tuning", [cost.tuned[k] for cost in costs]),
            "drawn": ("Drawing", [cost.drawn[k] for cost in costs]),
            "trained": ("A classifier", [cost.trained[k] for cost in costs]),
            "point": ("Of a point", [_of_a_point(a, g) for a, g in zip(added, gains, strict=True)]),
        }
        scale = scale_for(unit, [v for _, values in parts.values() for v in values])
        for name, (title, values) in parts.items():
            column = Column(f"{name}_{end}", title, scale.unit, numeric=True)
            columns.append((column, [number_cell(value, scale) for value in values]))
    notes = (
        "For each generator seed: fine-tuning of all classes, drawing of as many images as are learnt from, "
        "and training "
        "of one classifier, mean over runs; without searches. Of a point: fine-tuning and drawing over the gain in "
        "accuracy, mean of the classifiers, in points; nothing where there is no gain. A gain that is not "
        "established makes this number a guess.",
    )
    return assemble("downstream-costs", "What it costs.", columns, notes)


def _of_a_point(added: float | None, gain: Gain | None) -> float | None:
    if not added or gain is None or gain.estimate.value is None or gain.estimate.value <= 0:
        return None
    return added / (gain.estimate.value / POINTS.factor)


def chosen_table(phase: Phase) -> Table | None:
    """What the search of each cell chose."""
    tried = configurations_of(phase)
    lines = []
    for cell in phase.cells:
        one = cell.rows.iloc[0]
        searched = phase.searched[phase.searched["cell"] == one["cell"]]
        lines.append((cell, one, searched))
    if not lines:
        return None
    score = f"validation_{phase.chosen_by}"
    columns = [
        texts("source", "Learns from", [cell.source.name for cell, _, _ in lines]),
        *_recipe_columns(phase, [(cell.classifier, cell.loss) for cell, _, _ in lines]),
        _counts(
            "configurations",
            "Configurations tried",
            [float(len(tried[name])) if (name := str(one["cell"])) in tried else None for _, one, _ in lines],
        ),
        (Column("learning_rate", "Learning rate", numeric=True),
         [Cell(f"{one['learning_rate']:g}", value=float(one["learning_rate"])) for _, one, _ in lines]),
        texts("optimizer", "Optimizer", [one["optimizer"] for _, one, _ in lines]),
        (Column("weight_decay", "Weight decay", numeric=True),
         [Cell(f"{one['weight_decay']:g}", value=float(one["weight_decay"])) for _, one, _ in lines]),
        _plain("searched", "Best of the search", [_best(searched, score) for _, _, searched in lines]),
        _plain(score, "Of the final runs", [cell.mean(score) for cell, _, _ in lines]),
    ]  # fmt: skip
    note = (
        "Configurations tried: different learning rates, optimizers and weight decays, by the runs of the search. "
        f"Scores: {TITLES[phase.chosen_by].lower()} on validation images. What a search found best is too good by what "
        "chance gave the best of its trials."
    )
    return assemble("downstream-chosen", "What was searched, and chosen, for each cell.", columns, (note,))


def _best(searched: pd.DataFrame, score: str) -> float | None:
    known = searched[score].dropna()
    return float(known.max()) if len(known) else None


# ------------------------------------------------------------------ failures


def failures_table(phase: Phase) -> Table | None:
    """Runs of classifiers that did not complete."""
    own = phase.table[phase.table["state"].isin(("FAIL", "PRUNED"))]
    own = own[(own["state"] == "FAIL") | (own["phase"] == "downstream")]
    if own.empty:
        return None
    columns = [
        texts("run_key", "Run", list(own["run_key"])),
        texts("state", "State", list(own["state"])),
        (Column("reason", "Reason"), [text_cell(None if pd.isna(r) else r) for r in own["reason"]]),
    ]
    return assemble("downstream-failures", "Runs of classifiers that did not complete.", columns)
