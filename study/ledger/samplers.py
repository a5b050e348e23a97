"""Between our search spaces and Optuna: distributions, conditions, samplers and grids."""

from __future__ import annotations

import hashlib
import itertools
import random
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError

if TYPE_CHECKING:
    import optuna

    from search_spaces.schema import SearchSpace

SAMPLERS = ("tpe", "random", "gp", "nsgaii", "grid")

# A product of more points than this is not written out; a study never tries so many.
MAX_GRID = 1_000_000

_DIGITS = 6  # finer than any hyperparameter is meant, coarser than processors differ


def make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Returns a fresh sampler.

    Args:
        name: One of `SAMPLERS`. ``grid`` draws nothing itself (see `grid_points`).
        seed: Of its generator.
        trials: Budget of the search.
    """
    import optuna

    # A model of fewer points proposes next to one of them: the third of three trials would be the second once more.
    startup = max(8, min(10, trials // 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
            )
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if name == "nsgaii":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, trials // 4)))
        if name in ("random", "grid"):
            return optuna.samplers.RandomSampler(seed=seed)
    raise UserError(f"unknown sampler {name!r}; samplers: {', '.join(SAMPLERS)}")


def derived_seed(*parts: Any) -> int:
    """A 32-bit seed from anything printable; the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


def draw(trial: optuna.Trial, space: SearchSpace) -> dict[str, Any]:
    """Draws a point of the space through an Optuna trial; conditional dimensions only where they apply.

    Numbers without a step have `_DIGITS` significant digits, so that what another processor computes differently in
    the last place is the same point.
    """
    _ = (
        trial.relative_params
    )  # before any dimension, even if all are given: NSGA-II notes the trial's generation here
    point: dict[str, Any] = {}
    for name, dimension in space.parameters.items():
        if not dimension.applies(point):
            continue
        if dimension.type == "float":
            value = trial.suggest_float(
                name, dimension.low, dimension.high, step=dimension.step, log=dimension.log
            )
            if dimension.step is None:
                value = min(max(float(f"{value:.{_DIGITS}g}"), dimension.low), dimension.high)
            point[name] = value
        elif dimension.type == "int":
            step = dimension.step or 1
            point[name] = trial.suggest_int(name, dimension.low, dimension.high, step=step, log=dimension.log)
        else:
            point[name] = trial.suggest_categorical(name, dimension.choices)
    return point


def grid_points(
    space: SearchSpace, *, seed: int, arm: str, repeat: int = 0, first: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Returns all points of a finite space in a seeded random order, each once.

    The order is random because a budget smaller than the grid should cover it evenly, not its first corner.

    Args:
        arm: Its name and the number of its search (`repeat`) are part of the seed.
        first: A point of the grid that shall come before all others.

    Raises:
        UserError: If a dimension has no finite grid, or the grid is larger than anyone can want.
    """
    if endless := space.infinite():
        raise UserError(
            f"sampler grid needs finitely many values, but {', '.join(endless)} of arm {arm!r} has none; "
            "give it a step or choices, or take another sampler"
        )
    grids = {name: tuple(dimension.grid() or ()) for name, dimension in space.parameters.items()}
    size = 1
    for values in grids.values():
        size *= len(values)
    if size > MAX_GRID:
        raise UserError(f"the grid of arm {arm!r} has {size} points; use another sampler")
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for values in itertools.product(*grids.values()):
        point: dict[str, Any] = {}
        for (name, dimension), value in zip(space.parameters.items(), values, strict=True):
            if dimension.applies(point):
                point[name] = value
        points.setdefault(_point_key(point), point)
    ordered = list(points.values())
    random.Random(derived_seed(seed, arm, repeat, "grid")).shuffle(ordered)
    if first is not None:
        ordered.sort(key=lambda point: _point_key(point) != _point_key(first))
    return ordered


def _point_key(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple((name, type(value), value) for name, value in point.items())
