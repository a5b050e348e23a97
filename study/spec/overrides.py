"""``key=value`` arguments on the command line: dotted keys into the study file, values by YAML's rules."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from study.util.redaction import without_credentials
from trainables.config.messages import Loc, model_at, unknown_key
from trainables.config.yaml_reader import Document, dotted, parse_value
from trainables.errors import UserError


def apply_overrides(document: Document, overrides: Iterable[str], model: type[BaseModel]) -> Document:
    """Returns the document with values replaced or added.

    Args:
        document: A parsed study file.
        overrides: ``search.trials=8``, ``subjects.0=dog-1``, ``arms.lora.r=4``, ``confirm.seeds=[7, 8]``.
        model: Type of the document, which says which keys exist.

    Raises:
        UserError: An argument without ``=``, a key that does not exist (with the nearest one), a list index
            out of range or a value that is not YAML; all of them at once.
    """
    data = copy.deepcopy(document.data)
    places = dict(document.overrides)
    problems: list[str] = []
    for argument in overrides:
        key, separator, text = argument.partition("=")
        if not separator or not key.strip():
            problems.append(f"{argument!r} is not an override; write key=value, for example search.trials=8")
            continue
        try:
            loc = _set(data, key.strip(), parse_value(text), model)
        except UserError as error:
            problems += [f"override {without_credentials(argument)}: {problem}" for problem in error.problems]
            continue
        places = {place: words for place, words in places.items() if place[: len(loc)] != loc} | {
            loc: without_credentials(argument)  # it stands in messages, which stand in logs
        }
    if problems:
        raise UserError(*problems)
    return replace(document, data=data, overrides=places)


def _set(data: Any, key: str, value: Any, model: type[BaseModel]) -> Loc:
    """Sets the value in place and returns its location."""
    parts = key.split(".")
    loc: list[str | int] = []
    here = data
    while True:
        part, parts = _next(here, parts)
        if isinstance(here, list):
            index = _index(here, part, loc)
            loc.append(index)
            if not parts:
                here[index] = value
                return tuple(loc)
            if isinstance(here[index], str):
                here[index] = {"name": here[index]}  # a subject may be given by its name alone
            here = here[index]
            continue
        if not isinstance(here, dict):
            raise UserError(f"{dotted(loc)} has no keys, it is {here!r}")
        inner = model_at(model, tuple(loc))
        known = list(inner.model_fields) if inner else []
        if known and part not in here and part not in known and not _is_arm(loc):
            raise UserError(f"{unknown_key(part, known)}" + (f" (of {dotted(loc)})" if loc else ""))
        loc.append(part)
        if not parts:
            here[part] = value
            return tuple(loc)
        if here.get(part) is None or (isinstance(here[part], str) and part == "model"):
            here[part] = {"path": here[part]} if here.get(part) else {}
        here = here[part]


def _next(here: Any, parts: list[str]) -> tuple[str, list[str]]:
    """Splits off the next key; one that itself contains dots (an arm ``lora-1.5``) must exist."""
    if isinstance(here, dict):
        for end in range(len(parts), 1, -1):
            if ".".join(parts[:end]) in here:
                return ".".join(parts[:end]), parts[end:]
    return parts[0], parts[1:]


def _index(here: list[Any], part: str, loc: list[str | int]) -> int:
    if part.isdigit() and int(part) < len(here):
        return int(part)
    for index, item in enumerate(here):
        if item == part or (isinstance(item, dict) and item.get("name") == part):
            return index
    raise UserError(
        f"{dotted(loc)} is a list of {len(here)}; {part!r} is neither an index from 0 to {len(here) - 1} "
        "nor one of its values"
    )


def _is_arm(loc: list[str | int]) -> bool:
    """Below ``arms.<name>`` every key may stand; the rules judge it with the method's fields."""
    return len(loc) >= 2 and loc[0] == "arms"
