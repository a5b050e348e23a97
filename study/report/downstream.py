"""The section on what generated images are worth to a classifier, and what the report's verdict says of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from study.report.comparisons import Settings
from study.report.content import Section, known
from study.report.downstream_analysis import Findings, Gain, Power, analyse_downstream
from study.report.downstream_claim_tables import claim_sources_table, claims_table
from study.report.downstream_claims import RULINGS, JudgedClaim, judge_claims
from study.report.downstream_costs import budget_words, missing_words, source_costs
from study.report.downstream_data import Phase, phase_of
from study.report.downstream_tables import (
    TITLES,
    cells_table,
    chosen_table,
    costs_table,
    failures_table,
    gains_table,
    generators_table,
    points_text,
    recall_table,
    worth_table,
)
from study.report.figures import downstream as figures
from study.report.figures.class_grids import ClassGrid, class_grids, grid_figure
from study.report.figures.style import ArmStyle
from study.report.formatting import fixed, listing, plural
from study.report.prepared import Rows
from study.statistics.paired import Outcome

DOWNSTREAM = "downstream"  # key of the section
TITLE = "What generated images are worth to a classifier"
_NAMED = 3  # in a sentence on many
_SAID: dict[Outcome, str] = {
    "better": "better than real images alone with",
    "worse": "worse with",
    "equivalent": "equivalent with",
    "not enough": "not decided with",
}


@dataclass(frozen=True)
class DownstreamPart:
    """What a report says of the downstream phase.

    Attributes:
        section: Its section.
        fact: A line for the head of the report.
        headline: A short sentence for the verdict's headline; empty where nothing was judged.
        point: What it rests on; None where nothing was judged.
        warnings: What a reader is to beware of.
        grids: The pictures that it shows, which the report's folder keeps.
    """

    section: Section
    fact: tuple[str, str]
    headline: str
    point: str | None
    warnings: tuple[str, ...]
    grids: tuple[ClassGrid, ...]


def downstream_part(rows: Rows, settings: Settings, styles: dict[str, ArmStyle]) -> DownstreamPart | None:
    """Computes the part; None for a study without a downstream phase."""
    phase = phase_of(rows)
    if phase is None:
        return None
    found = analyse_downstream(phase, settings)
    budgets, unequal = budget_words(phase)
    warnings = [*unequal, *missing_words(phase)]
    if phase.problem:
        warnings.append(f"No score can be reckoned from the test images: {phase.problem}.")
    grids = class_grids(rows)
    shown = [grid_figure(grid, k) for k, grid in enumerate(grids, start=1)]
    if found is None:
        text = "No classifier has been judged on test images yet, so that nothing is compared."
        words = (text, *(f"Beware: {one}" for one in warnings), *([budgets] if budgets else []))
        section = Section(DOWNSTREAM, TITLE, words, tuple(shown), known(failures_table(phase)))
        return DownstreamPart(section, ("Classifiers", "not judged yet"), "", None, tuple(warnings), grids)
    claims = judge_claims(found)
    point = verdict_words(found)
    paragraphs = [
        *([point] if point else []),
        *_claim_words(claims),
        *(f"Beware: {one}" for one in warnings),
        *([budgets] if budgets else []),
        *_power_words(found.power, found),
        *_width_words(found),
    ]
    section = Section(
        DOWNSTREAM,
        TITLE,
        tuple(paragraphs),
        (
            figures.gains_figure(found, styles),
            figures.ratios_figure(found, styles),
            figures.recall_figure(found, styles),
            figures.confusion_figure(found),
            figures.worth_figure(found, styles),
            *shown,
        ),
        known(
            claims_table(claims),
            claim_sources_table(claims, phase.margin),
            gains_table(found, means=True),
            gains_table(found, means=False),
            cells_table(found),
            recall_table(found),
            generators_table(found),
            worth_table(found),
            costs_table(found, source_costs(rows, phase)),
            chosen_table(phase),
            failures_table(phase),
        ),
        reading_words(found),
    )
    return DownstreamPart(
        section, ("Classifiers", _fact(found)), headline_words(found), point, tuple(warnings), grids
    )


# ------------------------------------------------------------------ the verdict


def verdict_words(found: Findings) -> str | None:
    """The verdict in one sentence; None where nothing can be compared with real images alone."""
    gains = [gain for source in found.generated if (gain := found.gain(source, "accuracy"))]
    if not gains:
        return None
    parts = []
    for outcome, words in _SAID.items():
        own = [gain for gain in gains if gain.outcome == outcome]
        if own:
            order = sorted(own, key=lambda gain: -abs(gain.estimate.value or 0.0))
            parts.append(f"{words} {_few(order)}")
    margin = f"±{100 * found.phase.margin:g} points"
    return (
        f"Real and generated images, by the test accuracy of {_classifiers(found.phase)} (equivalent: within "
        f"{margin}): "
        f"{'; '.join(parts)}."
    )


def _few(gains: Sequence[Gain]) -> str:
    named = [f"{gain.source.name} ({points_text(gain)})" for gain in gains[:_NAMED]]
    more = len(gains) - _NAMED
    return listing(named) if more <= 0 else f"{', '.join(named)} and {more} more"


def _classifiers(phase: Phase) -> str:
    names = list(dict.fromkeys(classifier for classifier, _ in phase.recipes))
    return names[0] if len(names) == 1 else f"{len(names)} classifiers"


def _fact(found: Findings) -> str:
    """E.g. "3: resnet18, vit, tiny; 5 seeds, 3 generator seeds"."""
    names = list(dict.fromkeys(classifier for classifier, _ in found.phase.recipes))
    seeds = found.phase.final["seed"].nunique(), found.phase.final["generator_seed"].nunique()
    drawn = f" × {plural(seeds[1], 'generator seed')}" if seeds[1] else ""
    return f"{', '.join(names)} × {plural(seeds[0], 'seed')}{drawn}"


def headline_words(found: Findings) -> str:
    """What the report's headline says of classifiers, e.g. " Beside real images, generated ones made classifiers' test
    accuracy better in 1 of 4 cases, worse in 0 and not decided in 3."; empty where nothing is compared.
    """
    gains = [gain for source in found.generated if (gain := found.gain(source, "accuracy"))]
    if not gains:
        return ""
    counts = Counter(gain.outcome for gain in gains)
    told = [f"better in {counts['better']} of {plural(len(gains), 'case')}", f"worse in {counts['worse']}"]
    told += [f"equivalent in {counts['equivalent']}"] if counts["equivalent"] else []
    told += [f"not decided in {counts['not enough']}"] if counts["not enough"] else []
    return f" Beside real images, generated ones made the test accuracy of classifiers {listing(told)}."


def _claim_words(judged: Sequence[JudgedClaim]) -> list[str]:
    if not judged:
        return []
    counts = Counter(one.ruling for one in judged)
    told = listing(f"{counts[ruling]} {ruling}" for ruling in RULINGS if counts[ruling])
    return [f"Of {plural(len(judged), 'claim')} about generated images that the study file states: {told}."]


# ------------------------------------------------------------------ what the test set can show, and how to read it


def _power_words(power: Power | None, found: Findings) -> list[str]:
    """What so many test images resolve, by themselves."""
    if power is None:
        return []
    groups = (
        f" They are of {plural(power.groups, 'group')}, within which images are alike, so that they resolve "
        "less than that."
        if power.groups
        else ""
    )
    parts = []
    if power.paired and power.discordant:
        low, high = (fixed(100 * value, 1) for value in power.paired)
        shares = [fixed(100 * share, 0) for share in power.discordant]
        parts.append(
            f"{_range((low, high))} points of accuracy between two trained classifiers on the same images, of which as "
            f"here {_range(shares)} % are told "
            "rightly by one of the two alone (McNemar's test)"
        )
    if power.unpaired:
        parts.append(
            f"{fixed(100 * power.unpaired, 1)} points if each classifier had such a number of test images of its own"
        )
    if not parts:
        return []
    seeds = "" if found.resampled else " They are too few to be resampled, so that there are no intervals."
    return [
        f"{plural(power.images, 'test image')} resolve, in 80 % of cases at a level of 5 %, differences of "
        f"{', and '.join(parts)}.{groups}{seeds} That is the chance of the test images alone, of two classifiers as "
        "they were trained: a recipe is to hold for other seeds too, which is harder to show."
    ]


def _width_words(found: Findings) -> list[str]:
    """How wide the study's own intervals are, and how much of that is of the seeds."""
    gains = [
        gain
        for gain in found.gains
        if gain.source.adds_images and gain.score == "accuracy" and gain.recipe is not None
    ]
    known = [(half, gain.found) for gain in gains if (half := gain.estimate.half_width) is not None]
    if not known:
        return []
    halves = [f"±{fixed(100 * half, 1)}" for half in _ends([half for half, _ in known])]
    shares = [
        fixed(100 * share, 0)
        for share in _ends([one.of_seeds / (one.of_images + one.of_seeds) for _, one in known])
    ]
    return [
        "The intervals here, which hold classifier seeds and generator seeds too, are "
        f"{_range(halves)} points wide (what one classifier's test accuracy gains by generated images beside real "
        f"ones); of the variance {_range(shares)} % is of the seeds."
    ]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _range(ends: Sequence[str]) -> str:
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def reading_words(found: Findings) -> tuple[str, ...]:
    """The protocol in a few sentences, with its sources."""
    phase, spec = found.phase, found.phase.spec
    stated = ""
    if spec is not None:
        lists = [
            f"learning rate ({', '.join(f'{rate:g}' for rate in spec.learning_rates)})",
            f"optimizer ({', '.join(spec.optimizers)})",
            f"weight decay ({', '.join(f'{value:g}' for value in spec.weight_decays)})",
        ]
        stated = (
            f" Searched: {listing(lists)}, {plural(spec.trials, 'trial')} a cell (how many different "
            "configurations these tried is told above, by their records), by "
            f"{TITLES[spec.score].lower()} on validation images, with a classifier seed that no final run has; "
            f"{plural(spec.max_train_steps, 'step')} of {spec.train_batch_size} images for every cell."
        )
    return (
        "How to read this: real images are split once, by group where groups are known, and generators see the "
        "training "
        "part alone; validation and test images are real. A cell is what one classifier learns from with one loss. "
        "Every cell has the same search and the same number of optimizer steps, not of epochs, so that more images are "
        f"not more training (as in DA-Fusion, arXiv 2302.07944).{stated} Its choice is trained anew with every "
        "classifier seed and, with generated images, with the images of every generator seed; the same "
        "classifier seeds "
        "serve all cells.",
        "Sources: real: real images alone; augmented: with flips, crops and colours; repeated: rare classes drawn as "
        "often as the largest; NAME-xR: with R generated images for each real one; NAME-balance: with as many as make "
        "the classes equal; NAME-only: generated images alone, whose score is the classification accuracy score (CAS, "
        "Ravuri and Vinyals 2019, arXiv 1905.10887); real-Npct: another number of real images.",
        "Every score is that of final runs on test images, which chose nothing. Intervals and tests hold for "
        "other test "
        "images (resampled by group within each class), classifier seeds and generator seeds together, as for readers "
        "and cases in radiology (Obuchowski and Rockette 1995; Hillis 2007), with Student's distribution and "
        "Satterthwaite's degrees of freedom; differences are paired by test image and seed. "
        "Families of comparisons are held at 5 % score by score: no level holds over all scores together. "
        f"Resampling: {_resamples(found)}, seed {found.settings.seed}. ECE: 15 bins of equal width (Guo et al. 2017), "
        "too large on few images, for all alike. Nothing here holds for other classifiers, data sets or weights to "
        f"start from than these{_weights(phase)}.",
    )


def _resamples(found: Findings) -> str:
    table = next(iter(next(iter(found.tables.values())).values()), None) if found.tables else None
    return f"{0 if table is None else len(table.values) - 1:,} resamples of test images"


def _weights(phase: Phase) -> str:
    if phase.spec is None:
        return ""
    given = [choice.label for choice in phase.spec.classifiers if choice.weights]
    if not given:
        return ": all of them start from random weights"
    return f" ({listing(given)} from pre-trained ones)"
