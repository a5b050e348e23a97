"""The command line's surface as text: commands, arguments, options, types, defaults, first sentences of helps."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import typer


def surface(app: typer.Typer) -> str:
    """Every command of `app` and under it every parameter, one a line, in the order of the help pages."""
    group: Any = typer.main.get_command(app)
    lines = _command(group.name, group)
    for name, command in group.commands.items():
        lines += ["", *_command(f"{group.name} {name}", command)]
    return "\n".join(lines) + "\n"


def _command(name: str, command: Any) -> list[str]:
    kinds = get_type_hints(command.callback)
    parameters = [_parameter(parameter, kinds) for parameter in command.params]
    return [f"{name}: {_first_sentence(command.help)}", *parameters]


def _parameter(parameter: Any, kinds: dict[str, Any]) -> str:
    is_option = parameter.opts[0].startswith("-")
    names = ", ".join([*parameter.opts, *parameter.secondary_opts]) if is_option else _argument(parameter)
    facts = "; ".join(_facts(parameter, kinds.get(parameter.name)))
    return f"  {names} [{facts}] {_first_sentence(parameter.help)}".rstrip()


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _facts(parameter: Any, kind: Any) -> Iterator[str]:
    """What a value may be, what it is where none is given, and where else it may come from."""
    yield _kind(kind)
    for bound in ("min", "max"):
        if getattr(parameter, bound) is not None:
            yield f"{bound} {getattr(parameter, bound)}"
    if parameter.required:
        yield "required"
    elif parameter.default is not None:
        yield f"default {getattr(parameter.default, 'value', parameter.default)}"
    if parameter.multiple or parameter.nargs != 1:
        yield "any number"
    if parameter.envvar:
        yield f"environment {parameter.envvar}"
    if parameter.hidden:
        yield "hidden"


def _kind(kind: Any) -> str:
    """What a value may be: the name of a type, or the choices there are; None only says that it may be missing."""
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "|".join(str(member.value) for member in kind)
    parts = [part for part in get_args(kind) if part is not type(None)]
    if parts:
        return ", ".join(map(_kind, parts))
    return str(kind.__name__)


def _first_sentence(text: str | None) -> str:
    paragraph = " ".join((text or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
