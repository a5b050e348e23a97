"""A search for each method's defaults on the embedded model: `python -m benchmarks.embedded_search --out FILE`.

What studies do, for every method and kind of adapter by itself: TPE over the shipped search space, the rates' ranges
three times as wide on each side, so that an optimum beyond an end shows, but for the text encoder's where all weights
train: above its end single runs hang on the processor. The first trial is the shipped default, the next seven are drawn
at random. A trial's value is the mean quality over four subjects that no preset uses, with the
prompts of searches; a run that fails counts 0. The text encoder trains where the method can train it, as in the
presets. There are no class images but in the searches whose names end in +prior. Captioned fine-tuning, of an adapter
and (+full) of all weights, is searched on four casts of characters that no preset uses either.

The best of twenty trials is a lucky one, so that defaults are not taken from it: the median of the five best is, field
by field, and it and the default are judged once more with another seed, which chose neither.

Each run is a line of FILE as soon as it has ended. A search that was stopped goes on from there, with the space that it
began with, and proposes what it would have proposed.
"""

from __future__ import annotations

import argparse
import functools
import math
import multiprocessing
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.support.casts import CASTS
from benchmarks.support.finished_runs import FinishedRuns
from benchmarks.support.single_run import ADAPTERS, FIGURES, QUICK, check, fields_of, one_run

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from search_spaces.schema import Dimension, SearchSpace

#: Methods by themselves; kinds of adapters, each of the method `lora`, come between them, and what is best known last.
METHODS = ("custom_diffusion", "pivotal_tuning", "hypernetwork", "textual_inversion", "lora", "dreambooth")
WITH_PRIOR = tuple(
    f"{method}+prior"
    for method in ("dreambooth", "dreambooth_lora", "hypernetwork", "custom_diffusion", "pivotal_tuning")
)
ON_CAPTIONS = ("text_to_image", "text_to_image+full")
NAMES = (*METHODS[:4], *ADAPTERS[:6], *METHODS[4:], *WITH_PRIOR, *ADAPTERS[6:], *ON_CAPTIONS)
SUBJECTS = (
    "dog-1",
    "bird-1",
    "elephant-1",
    "turtle-1",
)  # no preset's, nor those of benchmarks.embedded_model
SEED = 0
AGAIN = 1  # the seed with which median and default are judged once more
STEPS, STEPS_ON_CAPTIONS = 100, 200
WIDER = 3.0  # on each side of a rate's range
BEST = 5
NEAR = 0.05  # of a range (of its logarithm, where that is searched): a value so near to an end is at it
_KEY = ("kind", "name", "trial", "subject", "seed")


@dataclass(frozen=True)
class Search:
    """One search: what is fixed, what varies, and where it begins.

    Attributes:
        training: Every field of training where nothing varies.
        shipped: The space of studies; `space` is the wider one.
        default: The first trial.
    """

    name: str
    method: str
    training: dict[str, Any]
    shipped: SearchSpace
    space: SearchSpace
    default: dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A point of a search with its mean quality over the subjects (0 for a run that failed)."""

    params: dict[str, Any]
    quality: float
    failed: int
    seconds: float


def new_search(name: str, steps: int) -> Search:
    """Returns a search with the shipped space and default of a method or kind of adapter.

    Args:
        name: One of `NAMES`.
        steps: Of every run.
    """
    from search_spaces.loader import load_space
    from study.spec.defaults import default_point
    from trainables.methods.registry import method_config_class

    asked = {"train_batch_size": 4} if name in ON_CAPTIONS else {"with_prior_preservation": False}
    method, fixed = fields_of(name, steps, **asked)
    config_class = method_config_class(method)
    stated = {**config_class.defaults_beside(fixed, embedded=True), **fixed}
    training = config_class.model_validate(stated).model_dump(mode="json")
    shipped = load_space(method, embedded=True, fixed=fixed).resolve(fixed, training)
    full = method == "dreambooth" or fixed.get("trains") == "full"
    space = wider(shipped, ends=("text_encoder_learning_rate",) if full else ())
    return Search(name, method, training, shipped, space, default_point(space, training))


def wider(space: SearchSpace, factor: float = WIDER, ends: Collection[str] = ()) -> SearchSpace:
    """Returns a space with the ranges of its rates `factor` times as wide on each side.

    Args:
        ends: Rates whose range ends where it does: above, single runs hang on the processor.
    """
    from search_spaces.schema import Float
    from search_spaces.schema import SearchSpace as Space

    def widened(name: str, dimension: Dimension) -> Dimension:
        if not (isinstance(dimension, Float) and dimension.log and name.endswith("learning_rate")):
            return dimension
        # Rounded, or the ends would be written 0.00030000000000000003.
        low = float(f"{dimension.low / factor:.3g}")
        high = dimension.high if name in ends else float(f"{dimension.high * factor:.3g}")
        return dimension.model_copy(update={"low": low, "high": high})

    return Space(parameters={name: widened(name, dim) for name, dim in space.parameters.items()})


def scope_of(name: str, steps: int | None, subjects: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Returns the steps of every run of a search, and what it is on.

    Args:
        steps: As asked for; None: on captions, of which there are many, twice as many as on a subject.
        subjects: As asked for, of which those count that the method can learn; with none of them, all there are.
    """
    captioned = name in ON_CAPTIONS
    fitting = tuple(subject for subject in subjects if (subject in CASTS) == captioned)
    if captioned:
        return steps or STEPS_ON_CAPTIONS, fitting or tuple(CASTS)
    return steps or STEPS, fitting or SUBJECTS


def begun_search(runs: FinishedRuns, name: str, steps: int, subjects: Sequence[str]) -> Search:
    """Returns a search as it was begun: a search that goes on does not notice that defaults have changed since.

    Raises:
        SystemExit: It was begun with other steps or subjects.
    """
    from search_spaces.schema import SearchSpace as Space

    key = {"kind": "begin", "name": name, "trial": None, "subject": None, "seed": None}
    row = runs.get(**key)
    if row is None:
        search = new_search(name, steps)
        document = {
            "method": search.method,
            "training": search.training,
            "shipped": search.shipped.model_dump(mode="json"),
            "space": search.space.model_dump(mode="json"),
            "default": search.default,
            "subjects": list(subjects),
        }
        row = runs.add({**key, **document})
    asked = {"steps": steps, "subjects": list(subjects)}
    held = {"steps": row["training"]["max_train_steps"], "subjects": row["subjects"]}
    if asked != held:
        raise SystemExit(
            f"{name} was begun with {held}, not {asked}; give another --out, or what it was begun with"
        )
    shipped, space = (Space.model_validate(row[field]) for field in ("shipped", "space"))
    return Search(name, row["method"], row["training"], shipped, space, row["default"])


def proposed(search: Search, trials: int, ended: Sequence[Trial]) -> dict[str, Any]:
    """Returns the next point of a search of so many trials, as a study proposes it with one run at a time."""
    import optuna

    from study.ledger.proposals import propose
    from study.ledger.trial import ArmSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    arm = ArmSearch(
        name=search.name,
        method=search.method,
        space=search.space,
        trials=trials,
        objectives=("quality",),
        sampler="tpe",
        seed=SEED,
        default=search.default,
        batch_size=1,
    )
    return propose(arm, [_frozen(search.space, trial) for trial in ended]).params


def _frozen(space: SearchSpace, trial: Trial) -> FrozenTrial:
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )
    from optuna.trial import create_trial

    def distribution(dimension: Dimension) -> BaseDistribution:
        if dimension.type == "float":
            return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)
        if dimension.type == "int":
            return IntDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step or 1)
        return CategoricalDistribution(dimension.choices)

    return create_trial(
        params=dict(trial.params),
        distributions={name: distribution(space.parameters[name]) for name in trial.params},
        value=trial.quality,
    )


#: Given jobs, the figures of each in their order.
Measured = Callable[[Iterable[Mapping[str, Any]]], Iterable[Mapping[str, Any]]]


def measured(job: Mapping[str, Any], cache: str) -> dict[str, Any]:
    """Trains and judges one run: ``params`` and how it went, as it is written to the file."""
    training = {**job["training"], **job["params"]}
    figures = one_run(job["method"], job["subject"], training, QUICK, seed=job["seed"], cache=cache)
    kept = {name: figures[name] for name in ("state", "reason", "seconds", *FIGURES) if name in figures}
    return {"params": job["params"], **kept}


def judged(
    runs: FinishedRuns,
    search: Search,
    trial: int | str,
    params: Mapping[str, Any],
    subjects: Sequence[str],
    seed: int,
    measure: Measured,
) -> Trial:
    """Returns one point's mean over the subjects, from the file or measured now."""
    keys = [
        {"kind": "run", "name": search.name, "trial": trial, "subject": subject, "seed": seed}
        for subject in subjects
    ]

    def jobs(missing: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        fixed = {"method": search.method, "training": search.training, "params": dict(params)}
        return measure([{**key, **fixed} for key in missing])

    rows = runs.complete(keys, jobs)
    return Trial(
        rows[0]["params"],
        fmean(row.get("quality") or 0.0 for row in rows),
        sum(row["state"] != "COMPLETE" for row in rows),
        sum(row["seconds"] for row in rows),
    )


def middle(space: SearchSpace, trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns the median of some trials, field by field; of choices the one that most have, of these the best one's.

    Args:
        trials: The best one first.
    """
    point: dict[str, Any] = {}
    for name, dimension in space.parameters.items():
        if not dimension.applies(point):
            continue
        values = [trial.params[name] for trial in trials if name in trial.params]
        if dimension.type == "categorical":
            counts = Counter(values)
            point[name] = next(value for value in values if counts[value] == max(counts.values()))
        else:  # of an even number the lower one of the middle, which somebody tried
            point[name] = sorted(values)[(len(values) - 1) // 2]
    return point


def best_of(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the best trials, the best first; of equal ones the earlier."""
    return sorted(trials, key=lambda trial: -trial.quality)[:BEST]


def where(search: Search, best: Sequence[Trial]) -> str:
    """Says of every range where the best trials lie, and how many of them at an end or beyond the shipped one."""
    said = []
    for name, dimension in search.space.parameters.items():
        values = [trial.params[name] for trial in best if name in trial.params]
        if dimension.type == "categorical" or not values:
            continue
        low, high = search.shipped.parameters[name].low, search.shipped.parameters[name].high  # type: ignore[union-attr]
        beyond = [value for value in values if not low <= value <= high]
        ends = [value for value in values if not NEAR < _place(dimension, value) < 1 - NEAR]
        note = f", {len(beyond)} beyond {low:g} .. {high:g}" if beyond else ""
        note += f", {len(ends)} at an end" if ends else ""
        said.append(f"{name} {min(values):.2g} .. {max(values):.2g}{note}")
    return "; ".join(said)


def _place(dimension: Any, value: float) -> float:
    """Where in its range a value lies, from 0 to 1."""
    scale = math.log if dimension.log else float
    return (scale(value) - scale(dimension.low)) / (scale(dimension.high) - scale(dimension.low))


def shown(params: Mapping[str, Any]) -> str:
    """A point as text."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in params.items()
    )


def searched(
    runs: FinishedRuns, name: str, trials: int, steps: int, subjects: Sequence[str], measure: Measured
) -> str:
    """Carries out a search, or what is left of it; returns its row of the table."""
    search = begun_search(runs, name, steps, subjects)
    ended: list[Trial] = []
    judge = functools.partial(judged, runs, search, subjects=subjects, measure=measure)
    while len(ended) < trials:
        params = proposed(search, trials, ended)
        ended.append(judge(len(ended), params, seed=SEED))
        progress = f"{name} {len(ended)}/{trials}: {ended[-1].quality:.3f} {shown(params)}"
        print(progress, file=sys.stderr, flush=True)
    best = best_of(ended)
    median = middle(search.space, best)
    again = [
        judge(trial, params, seed=AGAIN)
        for trial, params in (("default", search.default), ("median", median))
    ]
    everything = [*ended, *again]
    cells = [
        name,
        shown(search.default),
        f"{ended[0].quality:.3f}",
        shown(best[0].params),
        f"{best[0].quality:.3f}",
        shown(median),
        where(search, best),
        *(f"{trial.quality:.3f}" for trial in again),
        str(sum(trial.failed for trial in everything)),
        f"{sum(trial.seconds for trial in everything):.0f}",
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "method",
    "default before",
    "quality",
    "best trial",
    "quality",
    "median of the five best",
    "where the five best lie",
    "default, other seed",
    "median, other seed",
    "failed runs",
    "seconds",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: progress on the standard error, then a Markdown table with a row for each search."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedded_search", description=__doc__)
    parser.add_argument(
        "--methods", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a line for each run; an existing file is gone on with"
    )
    parser.add_argument(
        "--table", action="store_true", help="print the searches that are complete; measure nothing"
    )
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--subjects", nargs="+", default=(), help="embedded subjects, casts, or both")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}, on captions {STEPS_ON_CAPTIONS}")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each on one thread")
    given = parser.parse_args(arguments)
    if given.trials < 1:
        parser.error(f"--trials must be at least 1, got {given.trials}")
    scopes = {name: scope_of(name, given.steps, given.subjects) for name in given.methods}
    try:
        for name, scope in scopes.items():
            check([name], *scope)
    except ValueError as error:
        parser.error(str(error))
    runs = FinishedRuns(given.out, _KEY)
    if given.table:
        _print_table(_known_rows(runs, given.trials, scopes))
        return
    for (
        name,
        scope,
    ) in scopes.items():  # all of them now, so that what is changed meanwhile changes none of them
        begun_search(runs, name, *scope)
    rows = []
    with (
        tempfile.TemporaryDirectory() as cache,
        multiprocessing.get_context("spawn").Pool(given.jobs) as pool,
    ):
        measure = functools.partial(pool.imap, functools.partial(measured, cache=cache))
        for name, scope in scopes.items():
            rows.append(searched(runs, name, given.trials, *scope, measure))
            print(rows[-1], file=sys.stderr, flush=True)
    _print_table(rows)


def _print_table(rows: Sequence[str]) -> None:
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print("\n".join(rows))


class _Unmeasured(Exception):
    """A search that is not complete."""


def _known_rows(
    runs: FinishedRuns, trials: int, scopes: Mapping[str, tuple[int, Sequence[str]]]
) -> list[str]:
    """Returns the rows of searches that are complete, and writes nothing; names the others on the standard error."""

    def measure(missing: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        if list(missing):
            raise _Unmeasured
        return ()

    rows = []
    for name, scope in scopes.items():
        try:
            if runs.get(kind="begin", name=name) is None:
                raise _Unmeasured
            rows.append(searched(runs, name, trials, *scope, measure))
        except _Unmeasured:
            print(f"{name}: the search is not complete", file=sys.stderr)
    return rows


if __name__ == "__main__":
    main()
