"""The verdict on results that this program did not make, and what their data cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from study.report.analysis import Analysis, ArmResult
from study.report.caveats import reckoned_words
from study.report.external import External, repeated_cells
from study.report.formatting import listing, number, plural, scale_for
from study.report.measures import measure
from study.report.prepared import Rows
from study.report.verdict import (
    Verdict,
    cheapest_words,
    headline_words,
    left_out_words,
    pair_words,
    rival_words,
    stability_words,
)
from study.statistics.power import MIN_SUBJECTS

_ARMS_NAMED = 5

# What is said of studies, in words that fit other people's results. The first that fits counts.
PHRASES: tuple[tuple[str, str], ...] = (
    (r"quality and what is behind it, over the confirm runs", "all runs with a value"),
    (r"this study does not establish", "these results do not establish"),
    (r"the only trained arm", "the only arm"),
    (r"trained arms", "arms"),
    (r"trained arm", "arm"),
    (r"complete confirm runs only", "runs that completed"),
    (r"complete confirm runs", "runs that completed"),
    (r"confirm runs", "runs"),
    (r"confirm run", "run"),
)

_NO_MARGIN = (r"not asked, since the margin is one of quality", "not asked, since no margin was stated")
_NO_SUBJECT = (
    (r"run on 1 subject", "run"),
    (r"runs on 1 subject", "runs"),
    (r"there is 1 subject", "no subject is named"),
    (r"mean over subjects", "mean"),
    (r"means over subjects", "means"),
)


def judge_external(rows: Rows, facts: External, analysis: Analysis) -> Verdict:
    """Puts the analysis into words; `PHRASES` are still to be put into them."""
    warnings = tuple(cannot_say(rows, facts, analysis))
    if analysis.best is None:
        title = measure(facts.primary).title
        return Verdict(f"No verdict: no run that completed has a known {title}.", (), warnings)
    best = analysis.arm(analysis.best)
    points = [
        *(rival_words(_comparable(analysis)) if analysis.subjects >= MIN_SUBJECTS else _order(analysis)),
        *pair_words(analysis),
        *(stability_words(analysis) if facts.cost else stability_words(analysis)[:1]),
    ]
    headline = headline_words(analysis, best, analysis.against_best) + left_out_words(rows, analysis)
    headline += _lost_of_best(rows, facts, best.arm)
    if facts.others:
        headline += " Arms of different reports need not be on one scale."
    return Verdict(headline, tuple(points), warnings)


def _lost(rows: Rows, facts: External) -> dict[str, tuple[int, int]]:
    """By arm: how many of its runs that are over have no value of the primary measure, and of how many."""
    over = rows.frame[(rows.frame["phase"] == "confirm") & (rows.frame["state"] != "RUNNING")]
    gone = (over["state"] != "COMPLETE") | over[facts.primary].isna()
    counts = gone.groupby(over["arm"]).agg(["sum", "size"])
    return {str(arm): (int(lost), int(size)) for arm, (lost, size) in counts.T.items() if lost}


def _lost_of_best(rows: Rows, facts: External, best: str) -> str:
    """That the best arm's mean is one over the runs that came through, where some did not."""
    lost, size = _lost(rows, facts).get(best, (0, 0))
    if not lost:
        return ""
    return (
        f" But {lost:,} of {best}'s {size:,} runs {'has' if lost == 1 else 'have'} no {measure(facts.primary).words}, "
        "whatever that would have been."
    )


def _comparable(analysis: Analysis) -> Analysis:
    """Without the pairs that have nothing in common, which are counted elsewhere and would be a long list here."""
    return replace(analysis, pairs=tuple(c for c in analysis.pairs if c.difference.value is not None))


def _order(analysis: Analysis) -> list[str]:
    """The order of the arms where nothing was tested: what was seen, and no more."""
    sign = measure(analysis.primary).sign
    known = [r for r in analysis.arms if r.estimates[analysis.primary].value is not None and not r.is_base]
    if len(known) < 2:
        return []
    ordered = sorted(known, key=lambda r: -sign * (r.estimates[analysis.primary].value or 0.0))
    shown = [f"{r.arm} {number(r.estimates[analysis.primary].value)}" for r in ordered[:_ARMS_NAMED]]
    more = f", and {len(ordered) - _ARMS_NAMED} more" if len(ordered) > _ARMS_NAMED else ""
    return [f"The order that was seen, which another subject or seed may change: {', '.join(shown)}{more}."]


def _cost_text(facts: External, result: ArmResult) -> str:
    """E.g. "train_time 12.4 s, max memory 9.0 GB"; empty without any."""
    parts = []
    for name in facts.of_role("cost"):
        value, about = result.estimates[name].value, measure(name)
        if value is not None:
            scale = scale_for(about.unit, [value])
            parts.append(" ".join(part for part in (about.title, number(value, scale), scale.unit) if part))
    return ", ".join(parts)


def cost_words(facts: External, analysis: Analysis) -> list[str]:
    """What the best arm costs, and the cheapest of those that it is not shown to be better than."""
    if facts.cost is None or analysis.best is None:
        return []
    best = analysis.arm(analysis.best)
    if not (text := _cost_text(facts, best)):
        return []
    found = [f"Cost of {best.arm} per run: {text}."]
    own = best.estimates[facts.cost].value
    open_ = [c for c in analysis.against_best if not c.established and c.difference.value is not None]
    rivals = [analysis.arm(c.second) for c in open_]
    cheaper = [
        (r.estimates[facts.cost].value, r) for r in rivals if r.estimates[facts.cost].value is not None
    ]
    if own is None or not cheaper:
        return found
    value, rival = min(cheaper, key=lambda item: item[0] or 0.0)
    if value is not None and value < own:
        words = _cost_text(facts, rival)
        found.append(f"{cheapest_words(best.arm, rival.arm)} ({words}).")
    return found


# ---------------------------------------------------------------------- what the data cannot say


def cannot_say(rows: Rows, facts: External, analysis: Analysis) -> list[str]:
    """Everything that these results leave open, beginning with what matters most."""
    known = rows.confirm[rows.confirm[facts.primary].notna()]
    subjects = known["subject"].nunique()
    return [
        *facts.notes,
        *_of_subjects(facts, subjects),
        *_of_seeds(facts, known.groupby(["arm", "subject"]).size().max() if len(known) else 0),
        *_of_coverage(rows, facts, analysis, subjects),
        *_of_measures(facts, analysis),
        *reckoned_words(analysis),
        *_of_tuning(facts),
    ]


def _of_subjects(facts: External, subjects: int) -> list[str]:
    if facts.has_subjects and facts.fields["subject"] == facts.fields.get("seed"):
        return [
            "The units are seeds: intervals and verdicts speak of other seeds of the same subject, and not of other "
            "subjects."
        ]
    if not facts.has_subjects:
        return [
            "No subject is named, so that all runs count as runs of one, and one subject cannot carry a verdict: there "
            "are no intervals and no tests, whatever the number of runs. Values are what was seen, and no more. Where "
            f"the data has subjects, name their {facts.field_word} (--subject); name the seed there to speak of other "
            "seeds of this one subject alone."
        ]
    if subjects < MIN_SUBJECTS:
        return [
            f"There {'is' if subjects == 1 else 'are'} {plural(subjects, 'subject')}, and {MIN_SUBJECTS} are the "
            "fewest that an interval or a test can be made from. Values are what was seen on them, and no more."
        ]
    return []


def _of_seeds(facts: External, most: int) -> list[str]:
    """What is not known of seeds.

    Args:
        most: Runs of the arm and subject that have the most.
    """
    if facts.has_seeds or facts.others:  # whose notes say what their seeds are
        return []
    if most <= 1:
        return [
            "No seed is named, and each arm was run once on each subject: how far a value would change with another "
            "seed, this data does not say."
        ]
    return [
        "No seed is named: several runs of one arm and subject were averaged, and arms are paired by subject alone, "
        "which leaves the noise of the seeds in their differences."
    ]


def _of_coverage(rows: Rows, facts: External, analysis: Analysis, subjects: int) -> list[str]:
    found = []
    if repeated := repeated_cells(rows, facts):
        found.append(
            f"{plural(repeated, 'combination')} of arm, subject and seed {'has' if repeated == 1 else 'have'} several "
            "runs that completed; they were averaged."
        )
    arms = [result for result in analysis.arms if result.subjects and not result.is_base]
    few = [result.arm for result in arms if len(result.subjects) < subjects]
    if few and not facts.studies:  # of which it is said by study
        found.append(
            f"{plural(len(few), 'arm')} of {len(arms)} {'was' if len(few) == 1 else 'were'} not run on all "
            f"{subjects} subjects ({_some(few)}): their means are of other subjects than those of the rest. "
            "Comparisons use common subjects alone."
        )
    if lost := _lost(rows, facts):
        shown = [f"{arm} {gone:,} of {size:,}" for arm, (gone, size) in sorted(lost.items())]
        found.append(
            f"Runs without a finite {measure(facts.primary).words}, which diverged, failed or were not judged, are in "
            f"no mean: {_some(shown)}. If runs of one arm are lost where it does badly, its mean is too good."
        )
    few_pairs = _paired_on_few(rows, facts, analysis)
    if few_pairs:
        found.append(
            f"{plural(len(few_pairs), 'pair')} of arms {'is' if len(few_pairs) == 1 else 'are'} compared on less than "
            f"half of their runs, since they share few seeds on common subjects ({_some(few_pairs)}): their difference "
            "may be another than that of their means. Without --seed they would be paired by subject alone."
        )
    apart = [c for c in analysis.pairs if c.difference.value is None]
    if apart:
        what = "subject and seed" if facts.has_seeds else "subject"
        remedy = (
            "; without --seed they would be paired by subject alone"
            if facts.has_seeds and not facts.studies
            else ""
        )
        found.append(
            f"{len(apart)} of {plural(len(analysis.pairs), 'pair')} of arms {'has' if len(apart) == 1 else 'have'} no "
            f"{what} in common and cannot be compared{remedy}."
        )
    if left := sum(item.runs for item in facts.left_out):
        found.append(
            f"{left:,} of {facts.read:,} runs are not compared by {measure(facts.primary).title}; the section on the "
            "data says why."
        )
    return found


def _paired_on_few(rows: Rows, facts: External, analysis: Analysis) -> list[str]:
    """Pairs of arms whose common seeds are less than half of what each ran on their common subjects."""
    if not facts.has_seeds or facts.studies:
        return []
    known = rows.confirm[rows.confirm[facts.primary].notna()]
    cells = (
        known.drop_duplicates(["arm", "subject", "seed"])
        .groupby(["arm", "subject"])
        .size()
        .unstack(fill_value=0)
    )
    found = []
    for pair in analysis.pairs:
        if pair.difference.value is None:
            continue
        both = cells.loc[[pair.first, pair.second]]
        runs = int(both.loc[:, both.min() > 0].sum(axis=1).min())  # on their common subjects
        if 2 * pair.difference.n < runs:
            found.append(f"{pair.first} and {pair.second}: {pair.difference.n:,} of {runs:,}")
    return found


def _of_measures(facts: External, analysis: Analysis) -> list[str]:
    costs = "The reports have no cost in common" if facts.others else "No cost is named"
    found = [] if facts.cost else [f"{costs}, so that nothing is said of what quality costs."]
    for item in facts.measures:
        known = [r for r in analysis.arms if r.estimates[item.name].value is not None]
        missing = [r.arm for r in analysis.arms if r not in known and not r.is_base]
        title = measure(item.name).title
        if not known:
            found.append(f"No run that completed has a value of {title}.")
        elif missing and item.name != facts.primary:
            found.append(f"{title} is missing for {plural(len(missing), 'arm')}: {_some(missing)}.")
    return found


def _of_tuning(facts: External) -> list[str]:
    if facts.has_designs:
        return []
    settings = [
        f"Runs of one arm also differ in {_some(facts.varying)}, and their means are over these settings, too. "
        "To compare settings, name them beside the arm (--arm given twice)."
    ]
    return [
        *(settings if facts.varying else []),
        "Whether arms were tuned alike, and whether runs were chosen by their results, this data does not say. Where "
        "they were not tuned alike, the order of the arms is also that of the tuning.",
    ]


def _some(arms: Sequence[str]) -> str:
    more = len(arms) - _ARMS_NAMED
    return f"{', '.join(arms[:_ARMS_NAMED])} and {more} more" if more > 0 else listing(arms)


def seeds_words(facts: External) -> str:
    """Which numbers stand for which seeds; empty where they are the seeds themselves."""
    if not facts.seeds:
        return ""
    shown = [f"{number} for {seed}" for seed, number in sorted(facts.seeds.items(), key=lambda item: item[1])]
    more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    return f"Seeds are numbered in the order of their names: {', '.join(shown[:20])}{more}."


def phrases_of(facts: External) -> tuple[tuple[str, str], ...]:
    """`PHRASES`, and those that hang on what the results have: seeds, and which cost comes first."""
    if facts.has_designs:
        return (_NO_MARGIN, (r"this study does not establish", "these studies do not establish"))
    cost = measure(facts.cost).title if facts.cost else "cost"
    return (
        *PHRASES,
        _NO_MARGIN,
        *(() if facts.has_seeds else ((r"subject and seed", "subject"), (r"subjects and seeds", "subjects"))),
        (r"training time", cost),
        *(() if facts.has_subjects else _NO_SUBJECT),
    )
