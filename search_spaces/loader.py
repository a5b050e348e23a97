"""Finds a method's search space and merges an arm's own dimensions into it.

Each ``search_spaces/<method>.yaml`` has a section ``default`` (for Stable Diffusion) and may have a section
``embedded``, which replaces single dimensions for the embedded model: a model a hundred times smaller
learns at other rates. ``variants`` replaces dimensions where an arm fixes a field to some value: a kind of adapter has
rates of its own. A dimension set to null in a later section is not searched.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from search_spaces.schema import Categorical, Dimension, SearchSpace
from trainables.config.messages import describe, unknown_key
from trainables.config.yaml_reader import load_document, locate
from trainables.config.yaml_reader import validate as validate_document
from trainables.errors import UserError

FOLDER = Path(__file__).parent


class _Changes(BaseModel):
    """Dimensions that replace others, for Stable Diffusion and beyond that for the embedded model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: dict[str, Dimension | None] = {}
    embedded: dict[str, Dimension | None] = {}


class _SpaceFile(BaseModel):
    """A file of this folder; `variants`: field -> value that an arm fixes it to -> what changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: dict[str, Dimension]
    embedded: dict[str, Dimension | None] = {}
    variants: dict[str, dict[str, _Changes]] = {}

    def changes(self, embedded: bool, fixed: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """What replaces dimensions of `default`, the later over the earlier."""
        if embedded:
            yield self.embedded
        for field, by_value in self.variants.items():
            if (variant := by_value.get(str(fixed.get(field)))) is not None:
                yield variant.default
                if embedded:
                    yield variant.embedded


def space_names() -> tuple[str, ...]:
    """Returns the methods that have a search space."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def load_space(
    method: str, embedded: bool = False, fixed: Mapping[str, Any] = MappingProxyType({})
) -> SearchSpace:
    """Returns the search space of a method; a method without a file (``base``) has an empty one.

    Args:
        method: Name of a method.
        embedded: For the embedded model; otherwise for Stable Diffusion.
        fixed: Fields that do not vary, for the variants of a space.

    Raises:
        UserError: The file is malformed, with every problem and its line.
    """
    file = _read(method)
    if file is None:
        return SearchSpace()
    space = SearchSpace(parameters=file.default)
    for changes in file.changes(embedded, fixed):
        space = merge(space, changes)
    return space


def variants_of(method: str) -> list[dict[str, str]]:
    """Returns what an arm may fix for other dimensions than a method's own, one field and value each."""
    file = _read(method)
    variants = {} if file is None else file.variants
    return [{field: value} for field, by_value in variants.items() for value in by_value]


def merge(space: SearchSpace, changes: Mapping[str, Any]) -> SearchSpace:
    """Returns `space` with dimensions replaced or added; None removes one."""
    merged = {**space.parameters, **changes}
    return SearchSpace(parameters={name: dim for name, dim in merged.items() if dim is not None})


def without_choices(
    space: SearchSpace, own: Mapping[str, Any], valid: Callable[[dict[str, Any]], bool]
) -> SearchSpace:
    """Returns a method's space without the choices that what an arm states rules out, where others are left.

    A method's space is made for arms that state nothing: an arm that fixes a field which needs hidden layers has no use
    for structures without any.

    Args:
        own: The arm's own dimensions, which stay as they are; each of their ends counts as stated.
        valid: Whether the method takes a configuration with the given fields changed.
    """
    stated = [{}, *({name: value} for name, dim in own.items() if dim is not None for value in dim.probes())]
    stated = [changes for changes in stated if valid(changes)]  # the others are told as problems
    left: dict[str, Any] = {}
    for name, dim in space.parameters.items():
        if name in own or not isinstance(dim, Categorical):
            continue
        fitting = tuple(
            choice for choice in dim.choices if all(valid({**changes, name: choice}) for changes in stated)
        )
        if 0 < len(fitting) < len(dim.choices):
            left[name] = dim.model_copy(update={"choices": fitting})
    return merge(space, left) if left else space


def check_space(
    space: SearchSpace, fields: type[BaseModel], valid: Callable[[dict[str, Any]], ValidationError | None]
) -> dict[str, str]:
    """Checks that every dimension names a field and that the field takes its values.

    Args:
        space: The space to check.
        fields: Configuration class of the method.
        valid: Validates a configuration with the given fields changed and returns the error, or None.

    Returns:
        Message by dimension, for those that are wrong.
    """
    problems: dict[str, str] = {}
    names = list(fields.model_fields)
    sound = valid({}) is None
    for name, dim in space.parameters.items():
        if name not in names:
            problems[name] = unknown_key(name, names)
            continue
        for parent in dim.when or {}:
            if parent not in names:
                problems[name] = f"its condition `when` names an {unknown_key(parent, names)}"
        for value in dim.probes():
            error = valid({name: value})
            if error is None:
                continue
            mine = [
                entry
                for entry in error.errors(include_url=False)
                if entry["loc"][:1] == (name,) or (sound and not entry["loc"])
            ]
            if mine:
                problems.setdefault(
                    name, f"{value!r} is in the range, but {name} {describe(mine[0], fields)}"
                )
    return problems


@functools.cache
def _read(method: str) -> _SpaceFile | None:
    path = FOLDER / f"{method}.yaml"
    if method not in space_names():
        return None
    document = load_document(path)
    file = validate_document(document, _SpaceFile)
    try:
        variants = [{field: value} for field, by_value in file.variants.items() for value in by_value]
        for embedded, fixed in itertools.product((False, True), ({}, *variants)):
            space = SearchSpace(parameters=file.default)
            for changes in file.changes(embedded, fixed):
                space = merge(space, changes)
    except ValidationError as error:
        raise UserError(*locate(error, document, SearchSpace)) from None
    return file
