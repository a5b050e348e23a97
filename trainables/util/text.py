"""Text as users and file systems write it: encodings, byte-order marks, two spellings of one name."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence

# UTF-32's mark for little-endian begins with that of UTF-16, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAVE = "save the file as UTF-8 text"
_INVISIBLE = ("Z", "M")  # spaces, and marks without a letter to stand on
_NAMES_SHOWN = 8  # in one message
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def decoded(content: bytes) -> str:
    """Returns the text of a file: UTF-8, or what its byte-order mark says; the mark is no part of the text.

    Raises:
        ValueError: It is in none of these encodings; the message says where, and what to do.
    """
    mark, encoding = next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        name = re.sub("-[bl]e$", "", encoding).upper()
        raise ValueError(f"byte {error.start + len(mark)} is not {name}; {_SAVE}") from None
    if "\0" in text:
        raise ValueError(f"it has NUL bytes, as UTF-16 without a byte-order mark has; {_SAVE}")
    return text


def same_name(name: str) -> str:
    """Returns a file name in the spelling (NFC) that makes equal what looks equal: macOS writes decomposed names."""
    return unicodedata.normalize("NFC", name)


def is_utf8(name: str) -> bool:
    """Whether a file name, which on Linux is any bytes, is text."""
    return _SURROGATES.search(name) is None


def name_bytes(name: str) -> bytes:
    """Returns a file name as UTF-8; bytes in it that are none stay as they are."""
    return name.encode("utf-8", "surrogateescape")


def shown(name: str) -> str:
    """Returns a file name for messages and tables: bytes that are no UTF-8, and control characters, as ``\\xe9``."""
    return _CONTROLS.sub(_escaped, _SURROGATES.sub(_escaped, same_name(name)))


def some(names: Sequence[str], most: int = _NAMES_SHOWN) -> str:
    """Returns names for a message: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def without_case(text: str) -> str:
    """Returns what is the same for texts that differ in case or spaces alone."""
    return " ".join(text.casefold().split())


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: spaces, line breaks, zero-width characters."""
    return all(
        unicodedata.category(character)[0] in _INVISIBLE or unicodedata.category(character) in ("Cc", "Cf")
        for character in text
    )


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as Python hands it on
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
