"""The dimensions of a search space, in Optuna's terms: low, high, log, step, choices.

No optuna here: the study turns a dimension into a distribution, the report reads its bounds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_COUNTABLE = 200_000  # points of a grid with conditions that are counted one by one


def _scalar(value: Any) -> Any:
    if (
        value is None
        or isinstance(value, bool | int | str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    raise ValueError(f"must be text, a finite number, true, false or null, got {value!r}")


def _scalars(value: Any) -> tuple[Any, ...]:
    values = value if isinstance(value, list | tuple) else (value,)
    if not values:
        raise ValueError("names no value; give one value or a list of them")
    return tuple(_scalar(item) for item in values)


Scalar = Annotated[Any, BeforeValidator(_scalar)]


class _Dimension(BaseModel):
    """What all dimensions share.

    Attributes:
        when: The dimension exists only if each of these other fields has one of the given values (one may
            be given bare).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: dict[str, Annotated[tuple[Any, ...], BeforeValidator(_scalars)]] | None = None

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Tells whether the condition holds for the given field values."""
        for name, wanted in (self.when or {}).items():
            if name not in values or values[name] not in wanted:
                return False
        return True

    def _condition(self) -> str:
        """The condition in words, with a leading space, or nothing."""
        parts = [f"{name} is {' or '.join(map(str, wanted))}" for name, wanted in (self.when or {}).items()]
        return f" when {' and '.join(parts)}" if parts else ""


class Float(_Dimension):
    """A real number in [low, high]; `log` draws its logarithm evenly, `step` makes it discrete."""

    type: Literal["float"] = "float"
    low: float
    high: float
    log: bool = False
    step: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step, example="1e-6")
        return self

    def grid(self) -> tuple[float, ...] | None:
        """All values, if they are finitely many."""
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(self.low + index * self.step for index in range(count))

    def describe(self) -> str:
        """The dimension in words, e.g. ``1e-05 .. 0.001, log``."""
        return f"{self.low:g} .. {self.high:g}{_manner(self.log, self.step)}{self._condition()}"

    def probes(self) -> tuple[float, ...]:
        """Values that show whether a field takes this dimension: the bounds, and no whole number."""
        return (self.low, self.high, self.low + (self.high - self.low) * 0.382)


class Int(_Dimension):
    """A whole number in [low, high]; `log` draws its logarithm evenly, `step` skips."""

    type: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step, example="1")
        return self

    def grid(self) -> tuple[int, ...]:
        """All values."""
        return tuple(range(self.low, self.high + 1, self.step or 1))

    def describe(self) -> str:
        """The dimension in words, e.g. ``1 .. 8, step 2``."""
        return f"{self.low} .. {self.high}{_manner(self.log, self.step)}{self._condition()}"

    def probes(self) -> tuple[int, ...]:
        """Values that show whether a field accepts this dimension."""
        return (self.low, self.high)


class Categorical(_Dimension):
    """One of some choices: text, numbers, true, false or null."""

    type: Literal["categorical"] = "categorical"
    choices: tuple[Scalar, ...]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.choices:
            raise ValueError("choices is empty; give at least one choice, or fix the field in the arm")
        seen: list[tuple[type, Any]] = []
        for choice in self.choices:
            if (type(choice), choice) in seen:
                raise ValueError(
                    f"choice {choice!r} occurs twice; each choice is drawn equally often, so list it once"
                )
            seen.append((type(choice), choice))
        return self

    def grid(self) -> tuple[Any, ...]:
        """All values."""
        return self.choices

    def describe(self) -> str:
        """The dimension in words, e.g. ``4 | 8 | 16``."""
        return f"{' | '.join(map(str, self.choices))}{self._condition()}"

    def probes(self) -> tuple[Any, ...]:
        """Values that show whether a field accepts this dimension."""
        return self.choices


Dimension = Annotated[Float | Int | Categorical, Field(discriminator="type")]


class SearchSpace(BaseModel):
    """The dimensions of one arm, each under the name of the configuration field that it sets.

    Parents come before the dimensions that depend on them, so that drawing in order always knows the
    condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: dict[str, Dimension] = {}

    @model_validator(mode="after")
    def _order_parents_first(self) -> Self:
        ordered: dict[str, Any] = {}
        waiting = dict(self.parameters)
        while waiting:
            free = (
                name
                for name, dim in waiting.items()
                if not any(parent in waiting for parent in dim.when or {})
            )
            name = next(free, None)
            if name is None:
                raise ValueError(
                    f"the conditions of {', '.join(waiting)} depend on each other in a circle; remove one"
                )
            ordered[name] = waiting.pop(name)
        for name, dim in ordered.items():
            for parent, wanted in (dim.when or {}).items():
                if parent in ordered:
                    _check_reachable(name, parent, wanted, ordered[parent])
        if list(ordered) != list(self.parameters):
            object.__setattr__(self, "parameters", ordered)
        return self

    def resolve(self, fixed: Mapping[str, Any], defaults: Mapping[str, Any]) -> SearchSpace:
        """Returns the space that is left when the fields of `fixed` no longer vary.

        Conditions on a field that does not vary are decided here: by its fixed value or its default.
        """
        left: dict[str, Any] = {name: dim for name, dim in self.parameters.items() if name not in fixed}
        known = {**defaults, **fixed}
        changed = True
        while changed:
            changed = False
            for name, dim in list(left.items()):
                decided = {
                    parent: wanted for parent, wanted in (dim.when or {}).items() if parent not in left
                }
                if not decided:
                    continue
                changed = True
                if not dim.model_copy(update={"when": decided}).applies(known):
                    del left[name]
                else:
                    rest = {parent: wanted for parent, wanted in dim.when.items() if parent in left}
                    left[name] = dim.model_copy(update={"when": rest or None})
        return SearchSpace(parameters=left)

    def conditional(self) -> list[str]:
        """Names of the dimensions that exist only under a condition."""
        return [name for name, dim in self.parameters.items() if dim.when]

    def infinite(self) -> list[str]:
        """Names of the dimensions that have no finite grid."""
        return [name for name, dim in self.parameters.items() if dim.grid() is None]

    def grid_size(self) -> int:
        """Number of distinct points of a grid search; raises ValueError if they are infinitely many."""
        if self.infinite():
            raise ValueError(f"no finite grid: {', '.join(self.infinite())}")
        grids = {name: dim.grid() or () for name, dim in self.parameters.items()}
        size = math.prod(len(values) for values in grids.values())
        if not self.conditional() or size > _COUNTABLE:
            return size
        points = set()
        for values in itertools.product(*grids.values()):
            point: dict[str, Any] = {}
            for (name, dim), value in zip(self.parameters.items(), values, strict=True):
                if dim.applies(point):
                    point[name] = value
            points.add(tuple((name, type(value), value) for name, value in point.items()))
        return len(points)

    def corners(self) -> Iterator[dict[str, Any]]:
        """Two extreme configurations, for estimates: all dimensions at their first or last value."""
        for pick in (0, 1):
            yield {
                name: dim.probes()[0] if pick == 0 else _last(dim) for name, dim in self.parameters.items()
            }


def _last(dim: Any) -> Any:
    return dim.choices[-1] if isinstance(dim, Categorical) else dim.high


def _manner(log: bool, step: float | None) -> str:
    return ", log" if log else f", step {step:g}" if step is not None else ""


def _check_range(low: float, high: float, log: bool, step: float | None, example: str) -> None:
    if low >= high:
        raise ValueError(
            f"low ({low:g}) must be below high ({high:g}); for a single value fix the field in the arm"
        )
    if log and low <= 0:
        start = "start at 0" if low == 0 else f"start at {low:g}"
        raise ValueError(f"a log range cannot {start}; give a small positive low, for example low: {example}")
    if log and step is not None:
        raise ValueError("log and step exclude each other; remove one of them")
    if step is not None and step > high - low:
        raise ValueError(
            f"step ({step:g}) is larger than the range from {low:g} to {high:g}, which leaves one value"
        )


def _check_reachable(name: str, parent: str, wanted: tuple[Any, ...], dim: Any) -> None:
    """Refuses a condition that can never hold, which is most often a misspelt choice."""
    possible = dim.grid()
    if possible is None:
        raise ValueError(
            f"{name} depends on {parent}, which is continuous; a condition needs one with choices or steps"
        )
    for value in wanted:
        if value not in possible:
            raise ValueError(
                f"{name} is searched when {parent} is {value!r}, which is none of its values: "
                f"{', '.join(map(str, possible))}"
            )
