"""The answer in plain words: which arms are best, by how much, at what cost, and how sure one may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from study.report.analysis import Analysis, ArmResult
from study.report.caveats import n_words, uneven_budgets, warnings_of
from study.report.comparisons import Comparison, Needed
from study.report.constraints import best_words, objective_words
from study.report.factor_tables import factor_headline, factor_words, schedule_words
from study.report.formatting import (
    MISSING,
    about,
    fixed,
    listing,
    number,
    plural,
    scale_for,
)
from study.report.measures import QUALITY, SCALED, TOTAL_SECONDS, bounded, measure
from study.report.prepared import Rows
from study.report.tables import difference_text, estimate_text
from study.statistics.paired import Estimate
from study.statistics.power import MIN_SUBJECTS, MOST_SUBJECTS, OWN_SPREAD_FROM

RESAMPLED_FROM = 5  # subjects; shares of resamples of fewer are too sure of themselves for a headline
_PAIRS_NAMED = 3  # in a sentence on many
_RIVALS_NAMED = 8  # likewise; a study has rarely more
CLASS_LOST = 0.5  # of class kept: class images nearer to the subject than to the base model's
_OUTCOMES = {
    "better": "better than",
    "worse": "worse than",
    "different": "different from",
    "equivalent": "equivalent to",
    "not enough": "not decided against",
}
_PLAIN = {SCALED[0]: "subject fidelity", SCALED[1]: "prompt fidelity"}


@dataclass(frozen=True)
class Verdict:
    """Sentences in plain text: the headline, what supports it, and what to beware of."""

    headline: str
    points: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def margin_text(analysis: Analysis) -> str:
    """E.g. "±0.05"; empty where equivalence is not asked."""
    return "" if analysis.margin is None else f"±{analysis.margin:g}"


def cost_text(result: ArmResult, analysis: Analysis) -> str:
    """E.g. "12.4 s of training, 1.3 TFLOP, 98 k trained parameters"; empty without costs."""
    paid = bool(result.estimates["class_image_seconds"].value) and analysis.cost == TOTAL_SECONDS
    words = {
        "train_seconds": "of training",
        **({TOTAL_SECONDS: "with class images"} if paid else {}),
        analysis.flops: "with class images" if paid else "",
        "trainable_parameters": "trained parameters",
        "peak_memory_bytes": "of memory",
    }
    parts = []
    for name, word in words.items():
        value = result.estimates[name].value
        if value is not None:
            scale = scale_for(measure(name).unit, [value])
            parts.append(" ".join(part for part in (number(value, scale), scale.unit, word) if part))
    return ", ".join(parts)


def judge(rows: Rows, analysis: Analysis) -> Verdict:
    """Puts the analysis into words."""
    if analysis.best is None:
        return _without_confirmation(rows, analysis)
    best = analysis.arm(analysis.best)
    rivals = analysis.against_best
    points = [
        *objective_words(rows, analysis.primary),
        *rival_words(analysis),
        *pair_words(analysis),
        *_against_base(analysis),
        *stability_words(analysis),
        *factor_words(analysis),
        *schedule_words(analysis),
    ]
    headline = _with_choice(analysis, headline_words(analysis, best, rivals)) + best_words(rows, best.arm)
    headline += factor_headline(analysis) + left_out_words(rows, analysis)
    return Verdict(headline, tuple(points), tuple(warnings_of(rows, analysis)))


def headline_words(
    analysis: Analysis, best: ArmResult, rivals: Sequence[Comparison], among: str = "trained arm"
) -> str:
    """The best arm and how sure it is; `among`: one of what it is the best of."""
    title = measure(analysis.primary).words
    shown = bounded(analysis.primary, best.estimates[analysis.primary])
    score = f"{title} {estimate_text(shown, analysis.primary)}, {n_words(best)}"
    equal = [c.second for c in rivals if c.outcome == "equivalent"]
    open_ = [c for c in rivals if c.outcome == "not enough"]
    if best.is_base:
        return f"Only the untrained base model has results: {score}."
    if not rivals:
        return f"{best.arm} is the only {among} with results: {score}."
    if behind := [c.second for c in rivals if c.outcome == "worse" or c.trails]:
        where = f"is behind {listing(behind)} on the subjects that they have in common"
        return f"{best.arm} has the highest mean ({score}), but {where}: missing runs order the means."
    if not open_ and not equal:
        return f"{best.arm} is best: {score}. It is ahead of every other {among} beyond chance."
    if not open_:
        rest = f" and ahead of every other {among} beyond chance" if len(equal) < len(rivals) else ""
        same = [c.second for c in rivals if not c.difference.value]
        leads, it = (f"{listing([best.arm, *same])} share", best.arm) if same else (f"{best.arm} has", "it")
        return f"{leads} the highest mean ({score}); {it} is equivalent to {listing(equal)}{rest}."
    if tied := [c.second for c in open_ if c.difference.value == 0]:
        names = listing([best.arm, *tied])
        return f"{names} share the highest mean ({score}), and nothing is decided between them: {_missing(open_)}."
    if len(open_) == len(rivals):
        undecided = f"any other {among}" if len(rivals) > 1 else open_[0].second
        return (
            f"{best.arm} has the highest mean ({score}), but this study does not establish that it is better "
            f"than {undecided}: {_missing(open_)}."
        )
    names = listing(c.second for c in open_)
    lead = f"the lead over {names} is not established"
    return f"{best.arm} has the highest mean ({score}), but {lead}: {_missing(open_)}."


def left_out_words(rows: Rows, analysis: Analysis) -> str:
    """Names the trained arms of which no run can be compared: "every other arm" does not hold them."""
    title = measure(analysis.primary).words
    known = {result.arm for result in analysis.arms if result.estimates[analysis.primary].value is not None}
    missing = [arm for arm in rows.trained_arms if arm not in known]
    return f" Not compared, for want of runs with a known {title}: {listing(missing)}." if missing else ""


def _with_choice(analysis: Analysis, headline: str) -> str:
    """Adds to the headline that it depends on whether the class counts, where it does."""
    choice = analysis.choice
    if choice is None or not choice.depends:
        return headline
    if choice.best != choice.other_best:
        other = choice.of(choice.other_best)
        kept, best_kept = other.class_kept.value, choice.of(choice.best).class_kept.value
        loses = ""
        if kept is not None and best_kept is not None and kept < best_kept:
            loses = f", which keeps less of the class (class kept {fixed(kept, 2)})"
        if kept is not None and kept < CLASS_LOST:
            loses = f", which loses the class (class kept {fixed(kept, 2)})"
        sure = "" if _leads(analysis, other.arm) else " (not established)"
        return f"{headline} But by subject and prompt alone {other.arm} has the highest mean{sure}{loses}."
    pair, other_pair = choice.changed[0]
    if pair.second == choice.best:
        pair, other_pair = pair.reversed(), other_pair.reversed()
    said = [_OUTCOMES[c.outcome] for c in (pair, other_pair)]
    return (
        f"{headline} But the verdict depends on the class: {pair.first} is {said[0]} {pair.second} by "
        f"quality, and {said[1]} it by subject and prompt alone."
    )


def _leads(analysis: Analysis, arm: str) -> bool:
    """Whether an arm is better than every other by subject and prompt alone, beyond chance."""
    known = {(c.first, c.second): c for c in analysis.pairs_subject_prompt}
    own = [c if c.first == arm else c.reversed() for c in known.values() if arm in (c.first, c.second)]
    return bool(own) and all(c.outcome == "better" for c in own)


def needed_text(needed: Needed) -> str:
    """E.g. "at least about 12 subjects" would decide a pair."""
    if needed.subjects is None:
        return f"more than {MOST_SUBJECTS:,} subjects"
    return f"{_least(needed)}about {about(needed.subjects)} subjects"


def _least(needed: Needed) -> str:
    return "at least " if needed.at_least else ""


def _missing(undecided: Sequence[Comparison]) -> str:
    """What would decide the pairs: subjects, of the easiest and of the hardest, and why these are no promise."""
    seen = max(c.difference.n_subjects for c in undecided)
    if seen == 0:
        return "they have no subject and seed in common"
    text = f"there {'is' if seen == 1 else 'are'} {plural(seen, 'subject')}"
    if seen < MIN_SUBJECTS:
        text += f", and nothing can be said of chance with fewer than {MIN_SUBJECTS}"
    known = [c.needed for c in undecided if c.needed is not None]
    if not known:
        return text
    ordered = sorted(known, key=lambda needed: needed.subjects or MOST_SUBJECTS + 1)
    easiest, hardest = ordered[0], ordered[-1]
    if easiest.subjects is None:
        return f"{text}; to decide a pair takes {needed_text(easiest)}"
    low = str(about(easiest.subjects))
    high = f"more than {MOST_SUBJECTS:,}" if hardest.subjects is None else str(about(hardest.subjects))
    span = low if low == high else f"{low} to {high}"
    one = "a decision" if len(undecided) == 1 else "to decide a single pair"
    text += f"; {one} takes {_least(easiest)}about {span} subjects"
    if seen < OWN_SPREAD_FROM and undecided[0].measure == QUALITY:
        text += " (if they vary as usual)"
    why = ", since a lead that was picked as the largest is too large on average"
    return text + why if easiest.at_least else text


def _difference(comparison: Comparison) -> str:
    """E.g. "lora (+0.04 [0.01, 0.07])"."""
    if comparison.difference.value is None:
        return f"{comparison.second} (no common subject and seed)"
    return f"{comparison.second} ({difference_text(comparison)})"


def rival_words(analysis: Analysis, most: int = _RIVALS_NAMED) -> list[str]:
    """The best arm against the others, by verdict; of each at most so many by name."""
    title = measure(analysis.primary).words
    by_outcome: dict[str, list[Comparison]] = {}
    for comparison in analysis.against_best:
        by_outcome.setdefault(comparison.outcome, []).append(comparison)
    found = []
    if better := by_outcome.get("better"):
        found.append(
            f"Better in {title}, paired by subject and seed, than {_rivals(map(_difference, better), most)}."
        )
    if worse := by_outcome.get("worse"):
        found.append(
            f"Worse in {title}, on common subjects and seeds, than {_rivals(map(_difference, worse), most)}."
        )
    if equal := by_outcome.get("equivalent"):
        names = _rivals(map(_difference, equal), most)
        found.append(f"Equivalent in {title} (within {margin_text(analysis)}) to {names}.")
    if undecided := by_outcome.get("not enough"):
        names = _rivals((_undecided(c) for c in undecided), most)
        what = f"{'Difference' if any(c.trails for c in undecided) else 'Lead'} in {title} that is not established"
        found.append(f"{what}, and what would decide it: over {names}.")
    return found


def _rivals(words: Iterable[str], most: int) -> str:
    """All of them, or the first few and how many more there are."""
    items = list(words)
    if len(items) <= most:
        return listing(items)
    more = f"{len(items) - most} more (in the table of comparisons with the best)"
    return f"{', '.join(items[:most])} and {more}"


def _undecided(comparison: Comparison) -> str:
    """E.g. "lora (+0.04 [-0.01, 0.09]; about 14 subjects)"."""
    text = _difference(comparison)
    return text if comparison.needed is None else f"{text[:-1]}; {needed_text(comparison.needed)})"


def pair_words(analysis: Analysis) -> list[str]:
    """How many of all pairs are decided, and what the study could have seen."""
    pairs = analysis.pairs
    if len(pairs) < 2:
        return []
    count = {name: sum(c.outcome == name for c in pairs) for name in ("equivalent", "not enough")}
    different = len(pairs) - sum(count.values())
    if analysis.subjects < MIN_SUBJECTS:
        return [
            f"None of the {len(pairs)} pairs of trained arms was tested: that takes {MIN_SUBJECTS} subjects."
        ]
    other = _other_pairs(analysis)
    equal = f" {count['equivalent']} equivalent within {margin_text(analysis)}," if analysis.margin else ""
    text = (
        f"Of the {len(pairs)} pairs of trained arms: {different} differ beyond chance,{equal} "
        f"{count['not enough']} not decided"
    )
    if analysis.detectable is None:
        return [f"{text}.", *other]
    return [
        f"{text}. With as many subjects, and the spread that was seen, a difference of "
        f"{estimate_text(Estimate(analysis.detectable), analysis.primary)} or more is found in 80 % of studies.",
        *other,
    ]


def _other_pairs(analysis: Analysis) -> list[str]:
    """How many pairs have another verdict where the class does not count, and some of them."""
    if analysis.choice is None:
        return []
    found = {(c.first, c.second): c for c in analysis.pairs_subject_prompt}
    changed = [
        other
        for c in analysis.pairs
        if (other := found.get((c.first, c.second))) is not None and other.outcome != c.outcome
    ]
    if not changed:
        return []
    ahead = [c.reversed() if c.outcome == "worse" else c for c in changed]
    ahead.sort(key=lambda c: list(_OUTCOMES).index(c.outcome))
    shown = listing(f"{c.first} is {_OUTCOMES[c.outcome]} {c.second}" for c in ahead[:_PAIRS_NAMED])
    more = f", and {len(ahead) - _PAIRS_NAMED} more" if len(ahead) > _PAIRS_NAMED else ""
    return [
        f"By subject and prompt alone the verdict of {len(changed)} of the {len(analysis.pairs)} pairs is another: "
        f"{shown}{more}."
    ]


def _against_base(analysis: Analysis) -> list[str]:
    found = []
    for name in dict.fromkeys(c.measure for c in analysis.against_base):
        title = _PLAIN.get(name, measure(name).title.lower())
        shown = [c for c in analysis.against_base if c.measure == name and c.difference.value is not None]
        words = {
            "better": "above that of the untrained base model beyond chance",
            "worse": "below that of the untrained base model beyond chance",
            "equivalent": f"equivalent to the untrained base model's (within {margin_text(analysis)})",
        }
        parts = []
        for outcome, text in words.items():
            own = [c for c in shown if c.outcome == outcome]
            if own:
                every = len(own) == len(shown) and len(shown) > 2
                names = f"every trained arm ({_span(own)})" if every else listing(map(_first, own))
                parts.append(f"{text}: {names}")
        if parts:
            found.append(f"{title[:1].upper()}{title[1:]} {'; '.join(parts)}.")
        if open_ := [c for c in shown if c.outcome == "not enough"]:
            every = len(open_) == len(shown) and len(shown) > 2
            names = f"any trained arm ({_span(open_)})" if every else listing(map(_first, open_))
            decided = "decided" if open_[0].difference.n_subjects >= MIN_SUBJECTS else "tested"
            found.append(
                f"The difference in {title} from the untrained base model is not {decided} for {names}."
            )
    return found


def _first(comparison: Comparison) -> str:
    return f"{comparison.first} ({difference_text(comparison)})"


def _span(comparisons: Sequence[Comparison]) -> str:
    ordered = sorted(comparisons, key=lambda c: c.difference.value or 0.0)
    low, high = ordered[0], ordered[-1]
    return f"from {difference_text(low)}, {low.first}, to {difference_text(high)}, {high.first}"


def cost_words(analysis: Analysis) -> list[str]:
    """What a run of the best arm costs, and the cheapest of those that it is not shown to be better than."""
    if analysis.best is None:
        return []
    best = analysis.arm(analysis.best)
    text = cost_text(best, analysis)
    found = [f"Cost of {best.arm} per run: {text}."] if text and not best.is_base else []
    rivals = [analysis.arm(c.second) for c in analysis.against_best if not c.established]
    seconds = best.estimates[analysis.cost].value
    cheaper = [
        (rival.estimates[analysis.cost].value, rival)
        for rival in rivals
        if rival.estimates[analysis.cost].value
    ]
    if seconds and cheaper:
        value, rival = min(cheaper, key=lambda item: item[0] or 0.0)
        if value and value < 0.95 * seconds:
            words = cheapest_words(best.arm, rival.arm)
            found.append(f"{words} ({cost_text(rival, analysis)}), {_saved(best, rival, analysis)}.")
    return found


def cheapest_words(best: str, rival: str) -> str:
    """Introduces the arm to take where the cost counts, and no verdict speaks against it."""
    return f"The cheapest arm over which no lead of {best} is established: {rival}"


def _saved(best: ArmResult, rival: ArmResult, analysis: Analysis) -> str:
    """E.g. "2.6 times less time and 6.0 times fewer FLOPs, class images included"."""
    parts = []
    for name, less, more in (
        (analysis.cost, "less time", "more time"),
        (analysis.flops, "fewer FLOPs", "more FLOPs"),
    ):
        one, other = best.estimates[name].value, rival.estimates[name].value
        if one and other:
            ratio, word = (one / other, less) if one >= other else (other / one, more)
            parts.append(f"{number(ratio, digits=2)} times {word}")
    images = ", class images included" if analysis.cost == TOTAL_SECONDS else ""
    return f"{listing(parts)}{images}"


def stability_words(analysis: Analysis) -> list[str]:
    """Chances of being best and on the front, when other subjects are drawn from those that were seen."""
    known = [s for s in analysis.standings if s.best is not None]
    if not known or analysis.subjects < RESAMPLED_FROM:
        return []
    ordered = sorted(known, key=lambda s: -(s.best or 0.0))
    shown = [s for s in ordered if (s.best or 0.0) >= 0.05]
    names = listing(f"{s.arm} {percent(s.best)}" for s in shown)
    title = measure(analysis.primary).words
    found = [f"Highest mean {title} when subjects are resampled: {names}."]
    fronts = [s for s in known if s.on_front is not None and s.on_front >= 0.05]
    if fronts:
        names = listing(
            f"{s.arm} {percent(s.on_front)}"
            + (f" ({percent(s.on_front_with_search)})" if s.on_front_with_search is not None else "")
            for s in fronts
        )
        search = (
            " (in brackets: with the training time of the search)"
            if fronts[0].on_front_with_search is not None
            else ""
        )
        found.append(f"On the Pareto front of {title} and training time{search}: {names}.")
    return found


def percent(share: float | None) -> str:
    """E.g. "83 %"; what is not certain is neither 0 nor 100."""
    if share is None:
        return MISSING
    rounded = round(100 * share)
    if rounded == 100 and share < 1:
        return "> 99 %"
    return "< 1 %" if rounded == 0 and share > 0 else f"{rounded} %"


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
