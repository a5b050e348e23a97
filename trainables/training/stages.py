"""Stages: groups of parameters that train in some of a run's steps alone, one stage after another.

A method gives a group ``"stage": (begin, end)``, shares of the run's steps, where it does not train in all of them:
with (0.0, 0.5) it trains in the first half. What that comes to in steps, the group's window, is settled with the length
of the run and kept in its checkpoints. Outside its window a group has no gradient, so that an optimizer leaves its
parameters and moments alone, and Adam's corrections and the learning rate's schedule begin with the window.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STAGE = "stage"  # of a parameter group

Window = tuple[int, int]  # the first step, and the one after the last


def windows_of(groups: Iterable[Mapping[str, Any]], steps: int) -> list[Window]:
    """Returns the window of each parameter group in a run of `steps` optimizer steps.

    A stage has one step at least, where there are enough.
    """
    stages = [group.get(STAGE) or (0.0, 1.0) for group in groups]
    return [(_boundary(begin, steps), _boundary(end, steps)) for begin, end in stages]


def _boundary(share: float, steps: int) -> int:
    if share <= 0:
        return 0
    return steps if share >= 1 else min(max(round(share * steps), 1), max(steps - 1, 1))


def stretches_of(windows: Sequence[Window], steps: int) -> list[Window]:
    """Returns the stretches of a run's steps in which the same groups train, in their order."""
    ends = sorted({0, steps, *(min(end, steps) for window in windows for end in window)})
    return list(itertools.pairwise(ends))


def is_in(window: Window, step: int) -> bool:
    """Whether a group trains in a step, of which `step` come before it."""
    return window[0] <= step < window[1]


def enter(groups: Sequence[Mapping[str, Any]], windows: Sequence[Window], step: int) -> None:
    """Lets those parameters alone ask for gradients whose group trains in a step."""
    for group, window in zip(groups, windows, strict=True):
        for parameter in group["params"]:
            parameter.requires_grad_(is_in(window, step))


def enter_all(groups: Iterable[Mapping[str, Any]]) -> None:
    """Lets every parameter ask for gradients."""
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)


def drop_gradients(groups: Sequence[Mapping[str, Any]], windows: Sequence[Window], step: int) -> None:
    """Takes the gradients away from parameters whose group does not train in a step."""
    for group, window in zip(groups, windows, strict=True):
        if not is_in(window, step):
            for parameter in group["params"]:
                parameter.grad = None
