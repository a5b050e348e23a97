"""Strict YAML: YAML 1.2 scalars, refusals with their place, and validation errors told in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from trainables.config.yaml_reader import (
    MAX_BYTES,
    Document,
    load_document,
    parse_document,
    parse_value,
    validate,
)
from trainables.errors import UserError


def refused(text: str, path: Path | None = None) -> str:
    with pytest.raises(UserError) as error:
        parse_document(text, path)
    return "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-2.5e+2", -250.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("8", 8),
        ("-8", -8),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", float("inf")),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("OFF", "OFF"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ('"1e-4"', "1e-4"),
        ("[4, 8, 1e-4]", [4, 8, 1e-4]),
        ("{no: 1}", {"no": 1}),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_keys_are_text_as_written() -> None:
    assert parse_document("1: a\nnull: b\n1e-4: c\n").data == {"1": "a", "null": "b", "1e-4": "c"}


def test_anchors_and_merge_keys() -> None:
    text = "base: &b {r: 4, alpha: 8}\narm: {<<: *b, r: 8}\nsame: *b\nboth: {<<: [*b, {q: 1, r: 0}]}\n"
    data = parse_document(text).data
    assert data["arm"] == {"r": 8, "alpha": 8}
    assert data["same"] == {"r": 4, "alpha": 8}
    assert data["both"] == {"r": 4, "alpha": 8, "q": 1}


def test_every_value_knows_its_line(tmp_path: Path) -> None:
    text = "name: x\narms:\n  lora:\n    r: 4\n    choices: [1,\n      2]\n"
    document = parse_document(text, tmp_path / "study.yaml")
    assert document.line_of(("name",)) == 1
    assert document.line_of(("arms",)) == 2
    assert document.line_of(("arms", "lora", "r")) == 4
    assert document.line_of(("arms", "lora", "choices", 1)) == 6
    assert document.line_of(("arms", "lora", "absent")) == 3, "the nearest enclosing value"
    assert document.position(("arms", "lora", "r")) == "study.yaml:4 arms.lora.r"


def test_duplicate_keys_are_refused_all_at_once() -> None:
    message = refused("a: 1\nb: {c: 1, c: 2}\na: 3\n", Path("study.yaml"))
    assert "study.yaml:2:11: key 'c' occurs twice (first in line 2)" in message
    assert "study.yaml:3:1: key 'a' occurs twice (first in line 1)" in message
    assert "    a: 3\n    ^" in message


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1, 2\n", "2:1", "not valid YAML"),
        ("a:\n\t- b\n", "2:1", "indent with spaces, not tabs"),
        ("a: b: c\n", "1:5", "mapping values are not allowed"),
        ("a: *nowhere\n", "1:4", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "2:1", "expected a single document"),
        ("a: !!python/object:os.system {}\n", "1:4", "tag"),
        ("a: !custom 3\n", "1:4", "tag '!custom' is not allowed"),
        ("a: &x [*x]\n", "1:4", "contains itself"),
        ("? [1, 2]\n: a\n", "1:3", "a key must be a single word or number"),
        ("{<<: 3}\n", "1:6", "takes an alias of a mapping"),
        ("a: " + "9" * 5000 + "\n", "1:4", "not a number that can be read"),
    ],
)
def test_malformed_yaml_is_refused_with_line_and_column(text: str, place: str, words: str) -> None:
    message = refused(text, Path("study.yaml"))
    assert message.startswith(f"study.yaml:{place}: ")
    assert words in message
    assert "^" in message or place.startswith("2:1")


def test_control_characters_nesting_and_alias_bombs_are_refused() -> None:
    assert "#x0000" in refused("a: 1\nb: \x00\n", Path("study.yaml"))
    assert "study.yaml:2" in refused("a: 1\nb: \x00\n", Path("study.yaml"))
    assert "too deeply" in refused("[" * 5000)
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert "aliases expand" in refused("\n".join(levels))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(UserError) as error:
            load_document(path)
        return str(error.value)

    assert "there is no file" in message(tmp_path / "none.yaml")
    assert "is a folder" in message(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: caf\xe9\n".encode("latin-1"))
    assert "UTF-8" in message(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    assert "at most" in message(tmp_path / "large.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfname: x\n")
    assert load_document(tmp_path / "a.yaml").data == {"name": "x"}


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    r: int = Field(ge=1)
    schedule: Literal["cosine", "constant"] = "constant"
    rates: tuple[float, ...] = ()


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    size: float = Field(default=1, gt=0, lt=10)
    flag: bool = False
    arms: dict[str, Inner] = {}


def problems(text: str) -> list[str]:
    with pytest.raises(UserError) as error:
        validate(parse_document(text, Path("study.yaml")), Outer)
    return list(error.value.problems)


def test_validation_names_every_problem_with_its_place_in_the_order_of_the_file() -> None:
    found = problems(
        "size: 0\n"
        "flag: maybe\n"
        "arms:\n"
        "  a: {r: 0, schedul: x}\n"
        "  b: {r: 2.5, schedule: cosin, rates: [1, x]}\n"
        "  c: {}\n"
        "  d: 3\n"
        "extra: 1\n"
    )
    assert found == [
        "study.yaml:1 name: is required, but missing",
        "study.yaml:1 size: must be above 0, got 0",
        "study.yaml:2 flag: must be true or false, got 'maybe'",
        "study.yaml:4 arms.a.r: must be at least 1, got 0",
        "study.yaml:4 arms.a.schedul: unknown key 'schedul'; did you mean 'schedule'? "
        "Keys here: r, rates, schedule",
        "study.yaml:5 arms.b.r: must be a whole number, got 2.5",
        "study.yaml:5 arms.b.schedule: must be one of cosine, constant; got 'cosin'; did you mean 'cosine'?",
        "study.yaml:5 arms.b.rates.1: must be a number, got 'x'",
        "study.yaml:6 arms.c.r: is required, but missing",
        "study.yaml:7 arms.d: must be a mapping of keys to values, got 3",
        "study.yaml:8 extra: unknown key 'extra'; Keys here: arms, flag, name, size",
    ]


def test_long_values_are_cut_in_messages() -> None:
    message = problems(f"name: x\nsize: {'long' * 100}\n")[0]
    assert len(message) < 150
    assert "..." in message


def test_a_document_without_a_file_names_the_key_alone() -> None:
    assert Document(None, {}).problem(("a", 0), "is wrong") == "a.0: is wrong"
