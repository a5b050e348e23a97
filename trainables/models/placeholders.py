"""Placeholder tokens: the words that textual inversion adds to a model, and how prompts hold them.

Several vectors are several tokens, ``<sks>``, ``<sks>_1``, ``<sks>_2``, ..., as diffusers names them. Prompts hold the
first one; whatever makes tokens of a prompt puts all of them in its place, as the stock pipelines do by themselves.
Nothing here needs torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence


def placeholder_tokens(placeholder: str, count: int) -> tuple[str, ...]:
    """Returns the tokens of a placeholder of `count` vectors."""
    return (placeholder, *(f"{placeholder}_{number}" for number in range(1, count)))


def expand(prompt: str, words: Collection[str]) -> str:
    """Returns a prompt with all tokens of each placeholder in the place of the first.

    Args:
        words: All tokens that were added; those of a placeholder are told by their names.
    """
    for word in words:
        count = 1
        while f"{word}_{count}" in words:
            count += 1
        if count > 1:
            together = " ".join(placeholder_tokens(word, count))
            prompt = together.join(re.split(re.escape(word) + r"(?!_\d)", prompt))
    return prompt


def spread(words: Sequence[str], count: int) -> tuple[str, ...]:
    """Returns a text for each of `count` vectors, so that all words are used and keep their order.

    With fewer words than vectors each word stands for several vectors that follow each other (vector i has word
    ``i * words // count``, as A1111 spreads the tokens of its initialisation text); with more, each vector has several
    words.
    """
    if len(words) <= count:
        return tuple(words[number * len(words) // count] for number in range(count))
    ends = (number * len(words) // count for number in range(count + 1))
    return tuple(" ".join(words[start:end]) for start, end in itertools.pairwise(ends))
