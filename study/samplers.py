"""Between our search spaces and Optuna: distributions, conditions, samplers and grids."""

from __future__ import annotations

import hashlib
import itertools
import random
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from study.errors import UserError

if TYPE_CHECKING:
    import optuna

    from search_spaces.schema import SearchSpace

SAMPLERS = ("tpe", "random", "gp", "nsgaii", "grid")

# A product of more points than this is not written out; a study never tries so many.
MAX_GRID = 1_000_000


def make_sampler(name: str, seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Returns a fresh sampler.

    Args:
        name: One of `SAMPLERS`. ``grid`` draws nothing itself (see `grid_points`).
        seed: Of its generator.
        trials: Budget of the arm; a small budget gets fewer purely random trials at the start.
    """
    import optuna

    startup = max(2, min(10, trials // 3))
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


def draw(
    study: optuna.Study,
    new_trial: Callable[[], optuna.Trial],
    space: SearchSpace,
    sampler: Callable[..., Any],
) -> tuple[optuna.Trial, dict[str, Any]]:
    """Draws a point of the space through an Optuna trial; conditional dimensions only where they apply.

    Safe to repeat on the same trial: what was drawn before is returned again, and because each dimension has
    a generator of its own, what was not is drawn as it would have been.

    Args:
        new_trial: Asks for a trial, or takes up an old one.
        sampler: Makes the sampler for the trial as a whole, or for the dimension whose name it is given.
    """
    point: dict[str, Any] = {}
    study.sampler = sampler()
    trial = new_trial()
    for name, dimension in space.parameters.items():
        if not dimension.applies(point):
            continue
        study.sampler = sampler(name)
        if dimension.type == "float":
            point[name] = trial.suggest_float(
                name, dimension.low, dimension.high, step=dimension.step, log=dimension.log
            )
        elif dimension.type == "int":
            step = dimension.step or 1
            point[name] = trial.suggest_int(name, dimension.low, dimension.high, step=step, log=dimension.log)
        else:
            point[name] = trial.suggest_categorical(name, dimension.choices)
    return trial, point


def grid_points(space: SearchSpace, *, seed: int, arm: str) -> list[dict[str, Any]]:
    """Returns all points of a finite space in a seeded random order, each once.

    The order is random because a budget smaller than the grid should cover it evenly, not its first corner.

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
        points.setdefault(tuple((name, type(value), value) for name, value in point.items()), point)
    ordered = list(points.values())
    random.Random(derived_seed(seed, arm, "grid")).shuffle(ordered)
    return ordered
