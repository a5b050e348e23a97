"""Names and texts as users write them."""

from __future__ import annotations

import pytest

from trainables.util.text import decoded, is_blank, is_utf8, name_bytes, same_name, shown


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain 犬.png", "plain 犬.png"),
        ("Cafe\u0301.png", "Café.png"),
        ("caf\udce9.png", "caf\\xe9.png"),
        ("\ud800", "\\ud800"),
        ("a\nb\x1b\x9b", "a\\x0ab\\x1b\\x9b"),
    ],
)
def test_names_can_be_shown(name: str, expected: str) -> None:
    assert shown(name) == expected
    shown(name).encode()


def test_names_keep_their_bytes() -> None:
    assert name_bytes("caf\udce9") == b"caf\xe9"
    assert [is_utf8(name) for name in ("café", "caf\udce9")] == [True, False]
    assert same_name("caf\udce9") == "caf\udce9"


def test_a_mark_is_no_part_of_the_text() -> None:
    for encoding in ("utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        mark = b"" if encoding == "utf-8-sig" else "\ufeff".encode(encoding)
        assert decoded(mark + "é".encode(encoding)) == "é"
    assert decoded(b"") == ""
    assert decoded(b"a\r\nb") == "a\r\nb"


def test_blank() -> None:
    assert all(map(is_blank, ("", " \t\r\n", "\u3000\u200b\u200d\ufeff", "\u0301")))
    assert not any(map(is_blank, ("a", "é", "e\u0301", ".", "\u200bx")))
