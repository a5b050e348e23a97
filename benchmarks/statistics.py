"""Whether the report's statistics keep their promise: coverage and false verdicts over thousands of simulated studies.

Studies of known truth are drawn under several models of how runs vary, and judged by the report's own functions::

    python -m benchmarks.statistics

Prints a Markdown table and exits 1 if a bar is missed. Most studies take the short way, from the subjects' means to
verdicts (``study.statistics.paired.decide``); some of each kind go the whole way as well, from rows through
``prepare``, ``analyse`` and ``judge``, and must come to the same numbers. Beside five arms, eight of a crossed design
are judged, whose factors share one level with the pairs of arms. Four models show what the statistics do not cover, and
do not count (``--all-count``): confirm runs that rest on one search or two, seeds that are the same draw for every
subject, and quality near its bound. Two thousand studies of each kind tell a share of 5 % to within 1 %: with so few a
bar may be missed by chance.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

import numpy as np

from study.report.analysis import Analysis, analyse
from study.report.comparisons import MARGIN, Settings, outcome_of
from study.report.measures import QUALITY, SCALED
from study.report.prepared import prepare
from study.report.verdict import judge
from study.results.columns import CURVE_COLUMNS, IMAGE_COLUMNS, RUN_COLUMNS
from study.results.frames import Results, frame_of, table_of
from study.statistics.paired import Decisions, Floats, decide, shares_of, t_interval

ARMS = 5
COVERAGE = (0.93, 0.97)
FALSE = 0.06
SUBJECTS, SEEDS = (3, 5, 10, 16), (1, 3, 5)


@dataclass(frozen=True)
class Model:
    """How runs vary: standard deviations in quality.

    Attributes:
        subject: Of subjects, the same for all arms.
        interaction: Of subjects, for each arm by itself.
        seed: Of seeds, for each arm by itself, the same for all subjects: only where streams are crossed.
        run: Of single runs.
        tuning: Of what a search happens to choose, for each arm and search by itself.
        searches: Independent searches of an arm, over whose choices the subjects are dealt out; None: one for each.
        level: Mean quality of every arm, before it is clipped.
        bounded: Whether quality is clipped to 0..1.
        counts: Whether the bars are for it.
    """

    name: str
    subject: float
    interaction: float
    run: float
    seed: float = 0.0
    tuning: float = 0.0
    searches: int | None = None
    level: float = 0.5
    bounded: bool = False
    counts: bool = True

    def quality(self, deviations: Floats) -> Floats:
        """Quality of runs that deviate so much from their arm."""
        return np.clip(self.level + deviations, 0, 1) if self.bounded else self.level + deviations

    def truth(self, rng: np.random.Generator) -> float:
        """Mean quality over all subjects and seeds."""
        return float(self.quality(draw(self, 100_000, 1, 1, rng)).mean()) if self.bounded else self.level


MODELS = (
    Model("subjects differ most", subject=0.20, interaction=0.03, run=0.03),
    Model("seeds differ most", subject=0.03, interaction=0.01, run=0.15),
    Model("subject by arm", subject=0.10, interaction=0.10, run=0.05),
    Model("a search a subject", subject=0.10, interaction=0.05, run=0.05, tuning=0.06),
    Model("two searches", subject=0.10, interaction=0.05, run=0.05, tuning=0.06, searches=2, counts=False),
    Model("one search", subject=0.10, interaction=0.05, run=0.05, tuning=0.06, searches=1, counts=False),
    Model("crossed seeds", subject=0.10, interaction=0.05, run=0.05, seed=0.05, counts=False),
    Model("near the bound", subject=0.20, interaction=0.03, run=0.03, level=0.85, bounded=True, counts=False),
)


@dataclass(frozen=True)
class Cell:
    """What the studies of one kind came to, as shares of studies or of intervals.

    Attributes:
        differences, arms: Coverage of the intervals of paired differences, and of the means of arms.
        together: Studies in which all simultaneous intervals hold.
        false_pairs: Studies that establish any difference where there is none.
        false_base: Studies that establish anything against the untrained base model where arms are the base plus noise;
            `ahead`: those that call an arm ahead of it.
        false_equivalent: Studies that call arms equivalent which differ by the margin.
        crossed: Studies of a crossed design that establish any difference, of arms or of a factor, where there is none;
            `crossed_equivalent`: those that call any arms or levels equivalent which differ by the margin.
        whole: Studies that went the whole way too, and came to something else.
    """

    model: Model
    subjects: int
    seeds: int
    differences: float
    arms: float
    together: float
    false_pairs: float
    false_base: float
    ahead: float
    false_equivalent: float
    crossed: float
    crossed_equivalent: float
    whole: tuple[str, ...] = ()

    def misses(self) -> list[str]:
        """Which bars are missed."""
        low, high = COVERAGE
        found = [
            f"coverage of {what} {share:.1%}"
            for what, share in (("differences", self.differences), ("means", self.arms))
            if not low <= share <= high
        ]
        found += [
            f"{what} in {share:.1%} of studies"
            for what, share in (
                ("false differences", self.false_pairs),
                ("false verdicts against the base", self.false_base),
                ("false equivalence", self.false_equivalent),
                ("false differences of arms or factors", self.crossed),
                ("false equivalence of arms or factors", self.crossed_equivalent),
            )
            if share > FALSE
        ]
        return found


def draw(
    model: Model, studies: int, subjects: int, seeds: int, rng: np.random.Generator, arms: int = ARMS
) -> Floats:
    """Deviations of runs from the mean of their arm, shape ``(studies, arms, subjects, seeds)``."""
    shape = (studies, arms, subjects, seeds)

    def part(deviation: float, *axes: int) -> Floats:
        size = tuple(length if axis in axes else 1 for axis, length in enumerate(shape))
        return rng.normal(0, deviation, size) if deviation else np.zeros(size)

    # Subject j is run with the choice of search j mod R.
    dealt = np.arange(subjects) % (model.searches or subjects)
    return (
        part(model.tuning, 0, 1, 2)[:, :, dealt if model.tuning else slice(None)]
        + part(model.subject, 0, 2)
        + part(model.interaction, 0, 1, 2)
        + part(model.seed, 0, 1, 3)
        + part(model.run, 0, 1, 2, 3)
    )


PAIRS = tuple(combinations(range(ARMS), 2))


def of_pairs(runs: Floats) -> Decisions:
    """Decides all pairs of arms of each study from its runs."""
    means = runs.mean(-1)
    first, second = zip(*PAIRS, strict=True)
    return decide(means[:, list(first)] - means[:, list(second)], MARGIN)


# A crossed design: what is trained, with prior preservation or without, and the schedule; and what each arm states.
STATED = ("method", "with_prior_preservation", "lr_scheduler")
CROSSED = tuple(product(("dreambooth", "lora"), (True, False), ("constant", "cosine")))
CROSSED_PAIRS = tuple(combinations(range(len(CROSSED)), 2))
# Of each factor, the arms' part in its effect: its first level minus its second.
EFFECTS = np.array(
    [
        [1.0 if arm[factor] == CROSSED[0][factor] else -1.0 for arm in CROSSED]
        for factor in range(len(CROSSED[0]))
    ]
) / (len(CROSSED) / 2)


def of_crossed(runs: Floats) -> Decisions:
    """Decides all pairs of arms of a crossed design, and its factors after them, which share one level."""
    means = runs.mean(-1)
    first, second = zip(*CROSSED_PAIRS, strict=True)
    pairs = means[:, list(first)] - means[:, list(second)]
    effects = np.einsum("fa,kas->kfs", EFFECTS, means)
    shares = shares_of([len(CROSSED_PAIRS), len(EFFECTS)])
    return decide(np.concatenate([pairs, effects], axis=1), MARGIN, weights=shares)


def of_base(subject: Floats, prompt: Floats) -> Decisions:
    """Decides every arm against the base model, which has 0 and 1 by construction; nothing is equivalent to it."""
    return decide(np.concatenate([subject.mean(-1), prompt.mean(-1) - 1], axis=1), None)


def simulate(
    model: Model, subjects: int, seeds: int, studies: int, rng: np.random.Generator, whole: int = 2
) -> Cell:
    """Draws and judges the studies of one kind; `whole` of them go the whole way too."""
    truth, runs = model.truth(rng), model.quality(draw(model, studies, subjects, seeds, rng))
    pairs, means = of_pairs(runs), t_interval(runs.mean(-1))
    subject, prompt = (at + draw(model, studies, subjects, seeds, rng) for at in (0.0, 1.0))
    base = of_base(subject, prompt)
    # Arms that differ by exactly the margin are not equivalent.
    shift = np.where(np.arange(ARMS) % 2 == 0, 0.0, MARGIN)
    apart = np.array([shift[i] != shift[j] for i, j in PAIRS])
    moved = of_pairs(runs + shift[:, None, None])
    eight = model.quality(draw(model, studies, subjects, seeds, rng, len(CROSSED)))
    together = of_crossed(eight)
    # Prior preservation makes a difference of exactly the margin, and nothing else does.
    level = EFFECTS[1] * MARGIN
    first, second = (list(arms) for arms in zip(*CROSSED_PAIRS, strict=True))
    differ = np.concatenate([level[first] != level[second], np.arange(len(EFFECTS)) == 1])
    moved_eight = of_crossed(eight + 2 * level[:, None, None])
    return Cell(
        model, subjects, seeds,
        differences=_share((pairs.low <= 0) & (pairs.high >= 0)),
        arms=_share((means[0] <= truth) & (means[1] >= truth)),
        together=_share(((pairs.family_low <= 0) & (pairs.family_high >= 0)).all(-1)),
        false_pairs=_share((pairs.p_holm < pairs.significance).any(-1)),
        false_base=_share((base.p_holm < base.significance).any(-1)),
        ahead=_share(((base.p_holm < base.significance) & (base.mean > 0))[:, :ARMS].any(-1)),
        false_equivalent=_share((moved.equivalent & apart).any(-1)),
        crossed=_share((together.p_holm < together.significance).any(-1)),
        crossed_equivalent=_share((moved_eight.equivalent & differ).any(-1)),
        whole=tuple(
            problem
            for k in range(min(whole, studies))
            for problem in (
                *whole_way(runs[k], subject[k], prompt[k], pairs, base, k),
                *crossed_whole_way(eight[k], together, k),
            )
        ),
    )  # fmt: skip


def _share(hits: Any) -> float:
    return float(np.mean(hits))


# ------------------------------------------------------------------ the whole way


def results_of(runs: Floats, subject: Floats, prompt: Floats) -> Results:
    """The rows of one study, as ``study.results`` gives them; arrays of shape ``(arms, subjects, seeds)``."""
    rows = []
    for arm in range(-1, len(runs)):
        for s, r in np.ndindex(runs.shape[1:]):
            quality, *scaled = (
                (0.0, 0.0, 1.0) if arm < 0 else (float(x[arm, s, r]) for x in (runs, subject, prompt))
            )
            name, method = ("base", "base") if arm < 0 else (f"arm-{arm}", "lora")
            row: dict[str, Any] = dict.fromkeys((*RUN_COLUMNS, *SCALED, "run_key"))
            row |= {"study": "simulated", "arm": name, "method": method, "phase": "confirm", "trial": 0}
            row |= {"subject": f"subject-{s:02d}", "seed": 100 + r, "state": "COMPLETE", QUALITY: quality}
            row |= dict(zip(SCALED, scaled, strict=True))
            rows.append({**row, "run_key": f"confirm/{name}/0000-{row['subject']}-s{row['seed']}"})
    return Results(frame_of(rows), table_of([], CURVE_COLUMNS), table_of([], IMAGE_COLUMNS), {})


def whole_way(
    runs: Floats, subject: Floats, prompt: Floats, pairs: Decisions, base: Decisions, study: int
) -> list[str]:
    """Judges one study from its rows, and says where that differs from the short way."""
    rows = prepare(results_of(runs, subject, prompt))
    analysis = analyse(rows, Settings(resamples=200))
    if not judge(rows, analysis).headline.startswith(f"{analysis.best} "):
        return [f"study {study}: no headline"]
    found = []
    for family, decided in ((analysis.pairs, pairs), (analysis.against_base, base)):
        found += _unequal(family, decided, study)
    return found + _unequal_means(analysis, runs, study)


def crossed_results_of(runs: Floats) -> Results:
    """The rows of one study of a crossed design, runs of shape ``(arms, subjects, seeds)``."""
    results = results_of(runs, runs, np.ones_like(runs))
    arms = {f"arm-{k}": dict(zip(STATED, arm, strict=True)) for k, arm in enumerate(CROSSED)}
    trained = results.frame["arm"].isin(arms)
    columns = {
        name: results.frame["arm"].map({arm: stated[name] for arm, stated in arms.items()}) for name in STATED
    }
    methods = columns["method"].where(trained, results.frame["method"])
    frame = results.frame.assign(method=methods, lr_scheduler=columns["lr_scheduler"])
    return replace(
        results, frame=frame, meta={"spec": {"arms": arms, "training": {"train_text_encoder": True}}}
    )


def crossed_whole_way(runs: Floats, decided: Decisions, study: int) -> list[str]:
    """Judges one study of a crossed design from its rows, and says where that differs from the short way."""
    analysis = analyse(prepare(crossed_results_of(runs)), Settings(resamples=200))
    effects = [effect.comparisons[QUALITY] for effect in analysis.factor_effects]
    return [f"crossed {problem}" for problem in _unequal((*analysis.pairs, *effects), decided, study)]


def _unequal(family: Any, decided: Decisions, study: int) -> list[str]:
    one = Decisions(
        *(getattr(decided, name)[study] for name in list(Decisions.__dataclass_fields__)[:-1]),
        significance=decided.significance,
    )
    if len(family) != one.p.size:
        return [f"study {study}: {len(family)} comparisons instead of {one.p.size}"]
    found = []
    for k, c in enumerate(family):
        here = (c.difference.value, c.difference.low, c.difference.high, c.simultaneous.low, c.p, c.p_holm)
        there = (one.mean, one.low, one.high, one.family_low, one.p, one.p_holm)
        same = np.allclose(np.array(here, dtype=float), [x[k] for x in there], rtol=1e-9, atol=1e-12)
        if not same or c.outcome != outcome_of(one, k, c.measure):
            found.append(f"study {study}: {c.first} against {c.second} in {c.measure}")
    return found


def _unequal_means(analysis: Analysis, runs: Floats, study: int) -> list[str]:
    low, high = t_interval(runs.mean(-1))
    found = []
    for k in range(ARMS):
        estimate = analysis.arm(f"arm-{k}").estimates[QUALITY]
        ends = np.array([estimate.low, estimate.high], dtype=float)
        if not np.allclose(ends, [low[k], high[k]], rtol=1e-9, atol=1e-12):
            found.append(f"study {study}: interval of arm-{k}")
    return found


# ------------------------------------------------------------------ the table


def line(cell: Cell) -> str:
    """One row of the table."""
    shares = (cell.differences, cell.arms, cell.together, cell.false_pairs, cell.ahead, cell.false_base,
              cell.false_equivalent, cell.crossed, cell.crossed_equivalent)  # fmt: skip
    shown = " | ".join(f"{100 * share:.1f}" for share in shares)
    return f"| {cell.model.name} | {cell.subjects} | {cell.seeds} | {shown} | {'no' if cell.misses() else 'yes'} |"


HEAD = (
    "| runs vary | subjects | seeds | coverage of differences | of means | simultaneous | false differences | "
    "ahead of base | any against base | false equivalence | arms and factors: false differences | "
    "false equivalence | bars held |\n"
    "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table, the misses and the seconds; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=10_000, help="of each kind")
    parser.add_argument("--whole", type=int, default=2, help="of each kind that go the whole way too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all-count", action="store_true", help="apply the bars to what is not covered too")
    options = parser.parse_args(arguments)
    begun, spent = time.perf_counter(), time.process_time()
    print(
        f"{options.studies} studies of each kind, {ARMS} arms, and {len(CROSSED)} of a crossed design; shares in %"
        f"\n\n{HEAD}"
    )
    cells = []
    for number, model in enumerate(MODELS):
        for subjects in SUBJECTS:
            for seeds in SEEDS:
                rng = np.random.default_rng([options.seed, number, subjects, seeds])
                cells.append(simulate(model, subjects, seeds, options.studies, rng, options.whole))
                print(line(cells[-1]), flush=True)
    wall, cpu = time.perf_counter() - begun, time.process_time() - spent
    print(f"\n{wall:.0f} s, {cpu:.0f} s of them computing")
    counted = [cell for cell in cells if options.all_count or cell.model.counts]
    found = [f"{c.model.name}, {c.subjects} x {c.seeds}: {miss}" for c in counted for miss in c.misses()]
    found += [f"the whole way differs: {problem}" for cell in cells for problem in cell.whole]
    for problem in found:
        print(f"miss: {problem}")
    if not options.all_count:
        names = " and ".join(model.name for model in MODELS if not model.counts)
        print(f"{names[:1].upper()}{names[1:]} do not count: they show what the statistics do not cover.")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
