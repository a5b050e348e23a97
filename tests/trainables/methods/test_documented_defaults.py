"""The defaults that docs/methods.md states are those of the code, of every method, and none is left out.

A table of fields has the columns "field" and "default" (of all published families), more that begin with "default" or
"embedded" where others hold, and a remark. Code such as `adapter: loha`, beside the field or in a column's head, says
beside which fields a default holds; an empty cell is as the one to its left.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from trainables.config.fields import TrainingConfig
from trainables.methods.adapter_config import AdapterConfig
from trainables.methods.registry import get_method, method_config_class, method_names

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"
METHODS = [name for name in method_names() if get_method(name).trains]
EVERY = "every method"


@dataclass(frozen=True)
class Default:
    """What the page says of a field.

    Attributes:
        section: The methods whose section says so, or `EVERY`.
        beside: Fields that somebody has set.
        value: As `key` writes it.
    """

    section: tuple[str, ...]
    field: str
    beside: dict[str, Any]
    embedded: bool
    value: str

    def holds_for(self, method: str) -> bool:
        """Whether it is said of a method; what is said of a kind of adapter is so wherever the kind can be taken."""
        if "adapter" in self.beside:
            return self.beside["adapter"] in kinds_of(method)
        return method in self.section


def kinds_of(method: str) -> tuple[str, ...]:
    field = method_config_class(method).model_fields.get("adapter")
    return () if field is None else get_args(field.annotation)


def key(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = float(value)
    return json.dumps({} if value == [] else value)  # patterns are mappings, kept as pairs


def read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def names_and_values(text: str) -> tuple[list[str], dict[str, list[Any]]]:
    """Splits the code of a cell: names of fields, and what others are set to."""
    names: list[str] = []
    beside: dict[str, list[Any]] = {}
    for code in re.findall(r"`([^`]+)`", text):
        name, is_set, value = code.partition(": ")
        if is_set:
            beside.setdefault(name, []).append(read(value))
        else:
            names.append(name)
    return names, beside


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables() -> Iterator[tuple[tuple[str, ...], list[str], list[list[str]]]]:
    """Gives each table of fields: the methods that its section is on, the heads and the rows."""
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        methods = tuple(re.findall(r"`method: (\w+)`", section.split("\n\n")[1])) or (EVERY,)
        for block in section.split("\n\n"):
            if block.startswith("| field | default |"):
                head, _, *rows = block.strip().splitlines()
                yield methods, cells_of(head), [cells_of(row) for row in rows]


def defaults() -> Iterator[Default]:
    for methods, heads, rows in tables():
        columns = [(head, names_and_values(head)[1]) for head in heads]
        both = not any(head.startswith("embedded") for head in heads)  # the embedded model has no others
        for row in rows:
            names, beside = names_and_values(row[0])
            section = tuple(beside.pop("method", methods))
            cell = ""
            for (head, more), own in zip(columns, row, strict=True):
                if not head.startswith(("default", "embedded")):
                    continue
                cell = own or cell
                values = [cell] if len(names) == 1 else cell.split(", ")
                several = {**beside, **more}
                for choice in itertools.product(*several.values()):
                    for name, value in zip(names, values, strict=True):
                        stated = dict(zip(several, choice, strict=True))
                        stated.pop(name, None)  # its own default is that where nobody sets it
                        for embedded in (False, True) if both else (head.startswith("embedded"),):
                            yield Default(section, name, stated, embedded, key(read(value.strip("`"))))


TOLD = list(defaults())


def value_of(fields: type[TrainingConfig], name: str, stated: dict[str, Any], embedded: bool) -> str:
    """The default of a field, as a run's configuration gets it."""
    values = {**fields.defaults_beside(stated, embedded=embedded), **stated}
    return key(fields.model_validate(values).model_dump(mode="json")[name])


@pytest.mark.parametrize("method", [*METHODS, EVERY])
def test_what_the_page_says_is_so(method: str) -> None:
    fields = TrainingConfig if method == EVERY else method_config_class(method)
    said = [one for one in TOLD if (one.section == (EVERY,) if method == EVERY else one.holds_for(method))]
    wrong = [
        f"{one.field} beside {one.beside}, embedded {one.embedded}: {one.value} and not {found}"
        for one in said
        if (found := value_of(fields, one.field, one.beside, one.embedded)) != one.value
    ]
    assert said
    assert not wrong, "\n".join(wrong)


def variants_of(method: str) -> Iterator[dict[str, Any]]:
    """Gives what an arm may set that others' defaults hang on."""
    full = [{"trains": "full"}] if "trains" in method_config_class(method).model_fields else []
    for chosen in [{}, *({"adapter": kind} for kind in kinds_of(method)), *full]:
        for prior in (False, True):
            yield {**chosen, "with_prior_preservation": prior}


def told(method: str, name: str, stated: dict[str, Any], embedded: bool) -> set[str]:
    """What the page says of a method's field beside others, by the cell that names most of these."""
    said = [one for one in TOLD if (one.field, one.embedded) == (name, embedded)]
    if issubclass(method_config_class(method), AdapterConfig) and not any(
        method in one.section for one in said
    ):
        own = [one for one in said if "lora" in one.section or one.holds_for(method)]
    else:
        own = [one for one in said if one.holds_for(method)]
    fitting = [one for one in own if one.beside.items() <= stated.items()]
    most = max((len(one.beside) for one in fitting), default=0)
    return {one.value for one in fitting if len(one.beside) == most}


@pytest.mark.parametrize("method", METHODS)
def test_the_page_says_all_that_a_method_has_of_its_own(method: str) -> None:
    """Its own fields, and others' whose defaults are not those of every method, of the embedded model too."""
    fields = method_config_class(method)
    missing = []
    for name, variant, embedded in itertools.product(fields.model_fields, variants_of(method), (False, True)):
        if "method" in fields.needs_of(name):  # it is not read
            continue
        stated = {other: value for other, value in variant.items() if other != name}
        found, said = value_of(fields, name, stated, embedded), told(method, name, stated, embedded)
        if not said and name in TrainingConfig.model_fields:
            said = {value_of(TrainingConfig, name, {}, False)}
        if said != {found}:
            missing.append(f"{name} beside {stated}, embedded {embedded}: {sorted(said)} and not {found}")
    assert not missing, "\n".join(missing)


def test_the_page_says_every_field_that_all_methods_have() -> None:
    said = [one.field for one in TOLD if one.section == (EVERY,) and not one.embedded]
    assert sorted(said) == sorted(TrainingConfig.model_fields)
