"""What stands between backticks in a sentence of the report: names and values as one types them.

Sentences are plain text with backticks, as Markdown has them. HTML and LaTeX set what is between two of them as code,
each after its own escaping, so that a backtick in a name that a user gave can do no more than set that name so.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Begins after a space or a bracket and ends before a space or a mark: a lone backtick within a word opens nothing.
_CODE = re.compile(r"(?<![^\s(\[/'’])`(?=\S)([^`\n]{1,120}?)(?<=\S)`(?![\w`])")


def with_code(text: str, plain: Callable[[str], str], code: Callable[[str], str]) -> str:
    """Returns a sentence of which `plain` has escaped the words and `code` what is between backticks.

    Args:
        plain: Makes any text harmless in the language that is written.
        code: Does the same to what was between two backticks, and marks it.
    """
    parts = _CODE.split(text)  # every second one was between backticks
    return "".join(code(part) if k % 2 else plain(part) for k, part in enumerate(parts))


def held_together(text: str) -> str:
    """The same sentence with no space in its code at which a line would be broken."""
    return _CODE.sub(lambda match: match[0].replace(" ", "\u00a0"), text)
