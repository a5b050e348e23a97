"""Strict YAML with places: what every file of the project is read with, and how its errors are told.

YAML 1.2's core rules for scalars: ``1e-4`` is a number everywhere, ``no``, ``on`` and ``12:30`` are text,
and only true and false are booleans (PyYAML follows YAML 1.1, where ``1e-4`` is text and ``no`` is False).
A key that occurs twice is refused, not silently overwritten. Anchors, aliases and merge keys work; a
document that expands to an absurd size does not. No tag constructs an object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from trainables.config.messages import Loc, describe, model_at
from trainables.errors import UserError
from trainables.util.text import decoded

MAX_BYTES = 1_000_000
MAX_NODES = 50_000

Model = TypeVar("Model", bound=BaseModel)

_MUST_BE = re.compile(r"must be (?P<wanted>.+), got (?P<got>.+)", re.DOTALL)  # of `describe`
_TAG = "tag:yaml.org,2002:"
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader whose plain scalars follow YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own protocol)


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(rf"^(?:{_pattern})$"), list(_first.replace("\0", ""))
    )
_Loader.yaml_implicit_resolvers.setdefault("", []).append((_TAG + "null", re.compile("^$")))


@dataclass(frozen=True)
class Document:
    """A parsed YAML file, or data of other origin, that knows where each of its values stands.

    Attributes:
        path: The file, or None for data that came from elsewhere.
        data: Plain dicts, lists and scalars.
        lines: Line of each key or list item, from 1.
        overrides: Where a value was given on the command line, the words that gave it.
    """

    path: Path | None
    data: Any
    lines: Mapping[Loc, int] = field(default_factory=dict)
    overrides: Mapping[Loc, str] = field(default_factory=dict)

    def line_of(self, loc: Loc) -> int:
        """Returns the line of `loc`, or that of the nearest enclosing value which has one."""
        for end in range(len(loc), -1, -1):
            if loc[:end] in self.lines:
                return self.lines[loc[:end]]
        return 1

    def position(self, loc: Loc) -> str:
        """Returns the place of `loc` for a message, e.g. ``study.yaml:12 arms.lora.r``."""
        for end in range(len(loc), 0, -1):
            if loc[:end] in self.overrides:
                return f"override {self.overrides[loc[:end]]} ({dotted(loc)})"
        for end in range(len(loc), 0, -1):
            if loc[:end] in self.lines:
                break
            # Nothing in the file: something that only the command line has brought in.
            for place, words in self.overrides.items():
                if place[:end] == loc[:end]:
                    return f"override {words} ({dotted(loc)})"
        if self.path is None:
            return dotted(loc) or "document"
        return f"{self.path.name}:{self.line_of(loc)} {dotted(loc)}".rstrip()

    def problem(self, loc: Loc, message: str) -> str:
        """Returns `message` with its place."""
        return f"{self.position(loc)}: {message}"


class RuleError(ValueError):
    """For validators of whole documents: several problems, each with its own place.

    Args:
        problems: Pairs of a location below the validated value, and a message.
    """

    def __init__(self, problems: Iterable[tuple[Loc, str]]) -> None:
        self.problems = list(problems)
        super().__init__(
            "; ".join(f"{dotted(loc)}: {message}" if loc else message for loc, message in self.problems)
        )


def dotted(loc: Iterable[str | int]) -> str:
    """Returns a place within a document in dots: ``arms.lora.r``, ``subjects.0.name``."""
    return ".".join(str(part) for part in loc)


def load_document(path: Path | str) -> Document:
    """Reads a YAML file.

    Raises:
        UserError: The file cannot be read, is too large, in none of the encodings of `trainables.util.text.decoded`, or
            not valid YAML by the rules of this module; with file, line, column and the line itself.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder; give the YAML file itself")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path} has {len(content):,} bytes; a YAML file here has at most {MAX_BYTES:,}")
    try:
        text = decoded(content)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return parse_document(text, path)


def parse_document(text: str, path: Path | None = None) -> Document:
    """Parses YAML text; `path` is only named in messages. Raises UserError as `load_document` does."""
    name = path.name if path else "document"
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        builder = _Builder(name, text.splitlines())
        data = builder.build(node, ()) if node is not None else None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"{name}:{line}: character #x{error.character:04x} is not allowed in YAML; remove it"
        ) from None
    except yaml.MarkedYAMLError as error:
        raise UserError(_syntax_problem(name, text, error)) from None
    except RecursionError:
        raise UserError(f"{name}: values are nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    if builder.problems:
        raise UserError(*builder.problems)
    return Document(path, data, builder.lines)


def parse_value(text: str) -> Any:
    """Parses the value of a ``key=value`` argument by the same rules, e.g. ``1e-4``, ``null``, ``[1, 2]``."""
    try:
        return parse_document(text).data
    except UserError as error:
        raise UserError(f"the value {text!r} is not valid YAML: {'; '.join(error.problems)}") from None


def validate(document: Document, model: type[Model], data: Any = None) -> Model:
    """Validates a document against a pydantic model; raises UserError with all problems and their places."""
    try:
        return model.model_validate(document.data if data is None else data)
    except ValidationError as error:
        raise UserError(*locate(error, document, model)) from None


def locate(error: ValidationError, document: Document, model: Any, prefix: Loc = ()) -> list[str]:
    """Returns one message for every entry of a ValidationError, in the order of the file.

    Args:
        error: From validating the value at `prefix` of `document` against `model`.
        model: The type that was validated against; for an unknown key the nearest of its keys is proposed.
    """
    return tell(problems_of(error, document, model, prefix), document)


def tell(problems: Iterable[tuple[Loc, str]], document: Document) -> list[str]:
    """Returns the problems as messages with their places, in the order of the file, each once."""
    messages = [(document.line_of(loc), document.problem(loc, message)) for loc, message in _united(problems)]
    return list(dict.fromkeys(message for _, message in sorted(messages, key=lambda pair: pair[0])))


def _united(problems: Iterable[tuple[Loc, str]]) -> list[tuple[Loc, str]]:
    """Joins what several types of a field that takes any of them say of one value: it must be this or that."""
    found: dict[tuple[Loc, str], list[str]] = {}
    for loc, message in problems:
        match = _MUST_BE.fullmatch(message)
        key, wanted = (message, "") if match is None else (match["got"], match["wanted"])
        found.setdefault((loc, key), []).append(wanted)
    return [
        (loc, f"must be {', or '.join(dict.fromkeys(wanted))}, got {said}" if all(wanted) else said)
        for (loc, said), wanted in found.items()
    ]


def problems_of(
    error: ValidationError, document: Document, model: Any, prefix: Loc = ()
) -> list[tuple[Loc, str]]:
    """Returns the location and the message of every entry of a ValidationError (see `locate`)."""
    found: list[tuple[Loc, str]] = []
    for entry in error.errors(include_url=False):
        if entry["type"] == "too_short" and len(entry["input"]) >= entry["ctx"]["min_length"]:
            continue  # too short only because of items that are told by themselves
        keep_last = entry["type"] in ("missing", "extra_forbidden")
        loc = real_loc(document.data, (*prefix, *entry["loc"]), keep_last)
        rule = entry.get("ctx", {}).get("error")
        if isinstance(rule, RuleError):
            found += [((*loc, *at), message) for at, message in rule.problems]
        else:
            found.append((loc, describe(entry, model_at(model, entry["loc"][:-1]))))
    return found


def real_loc(data: Any, loc: Loc, keep_last: bool = False) -> Loc:
    """Drops from a pydantic location what the file does not contain (union members, validators).

    Of a mapping that is validated as its pairs it has the key in the place of the pair's number.
    """
    kept: list[str | int] = []
    for index, part in enumerate(loc):
        if isinstance(data, dict) and isinstance(part, int) and part not in data and part < len(data):
            part = list(data)[part]
        here = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if here:
            kept.append(part)
            data = data[part]
        elif keep_last and index == len(loc) - 1:
            kept.append(part)
    return tuple(kept)


class _Builder:
    """Turns nodes into plain data; notes the line of every value and collects problems."""

    def __init__(self, name: str, source: list[str]) -> None:
        self.lines: dict[Loc, int] = {}
        self.problems: list[str] = []
        self._name = name
        self._source = source
        self._open: set[int] = set()
        self._count = 0

    def build(self, node: yaml.Node, loc: Loc) -> Any:
        self._count += 1
        if self._count > MAX_NODES:
            raise UserError(
                f"{self._name}: aliases expand to more than {MAX_NODES:,} values; write it without them"
            )
        self.lines.setdefault(loc, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if id(node) in self._open:
            self._refuse(node, "an alias that contains itself is not allowed")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                self._expect_tag(node, "map")
                return self._mapping(node, loc)
            self._expect_tag(node, "seq")
            return [self.build(item, (*loc, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                merged = {**self._merge(value_node, loc), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self._refuse(key_node, "a key must be a single word or number")
                continue
            # A key is taken as it is written: an arm may be called 1 or null, and is not then a number.
            key = str(key_node.value)
            line = key_node.start_mark.line + 1
            if key in first:
                self._refuse(
                    key_node, f"key {key!r} occurs twice (first in line {first[key]}); remove or rename one"
                )
                continue
            first[key] = line
            self.lines[(*loc, key)] = line
            result[key] = self.build(value_node, (*loc, key))
        return {**merged, **result}

    def _merge(self, node: yaml.Node, loc: Loc) -> dict[str, Any]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for item in nodes:
            if not isinstance(item, yaml.MappingNode):
                self._refuse(item, "the merge key << takes an alias of a mapping, such as <<: *defaults")
                continue
            known = dict(self.lines)
            value = self.build(item, loc)
            self.lines = {**self.lines, **known}
            merged = {**value, **merged}
        return merged

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        value, tag = node.value, node.tag.removeprefix(_TAG)
        try:
            if tag == "null":
                return None
            if tag == "bool":
                return value.lower() == "true"
            if tag == "int":
                base = {"0o": 8, "0x": 16}.get(value[:2], 10)
                return int(value, base)
            if tag == "float":
                return float(value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            self._refuse(node, f"{value[:40]!r} is not a number that can be read")
            return None
        if tag not in ("str", "merge"):
            self._refuse(node, f"the tag {node.tag!r} is not allowed; write a plain value")
        return value

    def _expect_tag(self, node: yaml.Node, tag: str) -> None:
        if node.tag != _TAG + tag:
            self._refuse(node, f"the tag {node.tag!r} is not allowed; write a plain value")

    def _refuse(self, node: yaml.Node, message: str) -> None:
        mark = node.start_mark
        self.problems.append(
            f"{self._name}:{mark.line + 1}:{mark.column + 1}: {message}{_excerpt(self._source, mark)}"
        )


def _syntax_problem(name: str, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    what = " ".join(part for part in (error.context, error.problem) if part)
    hint = "; indent with spaces, not tabs" if "'\\t'" in what else ""
    if mark is None:
        return f"{name}: not valid YAML: {what}{hint}"
    place = f"{name}:{mark.line + 1}:{mark.column + 1}"
    return f"{place}: not valid YAML: {what}{hint}{_excerpt(text.splitlines(), mark)}"


def _excerpt(source: list[str], mark: yaml.Mark) -> str:
    """The line of the mark with a caret under its column."""
    if mark.line >= len(source):
        return ""
    line = source[mark.line].replace("\t", " ")
    start = max(0, mark.column - 60)
    return f"\n    {line[start : start + 100]}\n    {' ' * (mark.column - start)}^"
