"""The first trial of every search: what a method does by default, as far as the search space has it.

Whoever finds that a search chose badly asks first whether it ever tried the default; so it does, always.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search_spaces.schema import Categorical, Float, Int, SearchSpace

# Fields whose default None stands for the value of another field.
_FOLLOWS = {
    "text_encoder_learning_rate": "learning_rate",
    "embedding_learning_rate": "learning_rate",
    "lora_alpha": "r",
}


def default_point(space: SearchSpace, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the point of a space that is nearest to some defaults; conditional dimensions where they apply.

    Args:
        space: What is searched.
        defaults: Value of every field of the method where nothing is searched.

    Returns:
        Numbers clipped into their ranges and moved to the nearest step; of choices the default, the nearest number,
        or else the first. A default of None is the field's that it follows, or else the middle of the range.
    """
    point: dict[str, Any] = {}
    for name, dimension in space.parameters.items():
        if not dimension.applies(point):
            continue
        default = defaults.get(name)
        if default is None and name in _FOLLOWS and not _has(dimension, None):
            default = point.get(_FOLLOWS[name], _in_space(space, defaults, _FOLLOWS[name]))
        point[name] = _nearest(dimension, default)
    return point


def _in_space(space: SearchSpace, defaults: Mapping[str, Any], name: str) -> Any:
    """The default of a field, moved into its dimension if it has one."""
    dimension = space.parameters.get(name)
    return defaults.get(name) if dimension is None else _nearest(dimension, defaults.get(name))


def _nearest(dimension: Float | Int | Categorical, value: Any) -> Any:
    if isinstance(dimension, Categorical):
        return _nearest_choice(dimension.choices, value)
    low, high = dimension.low, dimension.high
    if not _is_number(value):
        value = math.sqrt(low * high) if dimension.log else (low + high) / 2
    if isinstance(dimension, Int) or dimension.step is not None:
        step = dimension.step or 1
        most = math.floor((high - low) / step + 1e-9)
        value = low + step * min(max(round((value - low) / step), 0), most)
        return int(value) if isinstance(dimension, Int) else value
    return float(min(max(value, low), high))


def _nearest_choice(choices: tuple[Any, ...], value: Any) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    numbers = [choice for choice in choices if _is_number(choice)]
    if _is_number(value) and numbers:
        return min(numbers, key=lambda choice: abs(choice - value))
    return choices[0]


def _has(dimension: Float | Int | Categorical, value: Any) -> bool:
    return isinstance(dimension, Categorical) and value in dimension.choices


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
