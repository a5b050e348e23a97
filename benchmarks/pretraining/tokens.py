"""The tokenizer: a CLIP byte-pair encoding in which each word of the world is one token.

Any other text still has tokens, down to single bytes.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from transformers import CLIPTokenizer

from trainables.embedded.captions import VOCABULARY

MAX_LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"
Merge = tuple[str, str]


def byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's byte-level BPE (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def apply_merges(word: str, merges: list[Merge]) -> list[str]:
    """The pieces of one word, the pair of lowest rank merged first."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    while True:
        pairs = set(itertools.pairwise(pieces)) & ranks.keys()
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        while pieces:
            if tuple(pieces[:2]) == best:
                merged.append(pieces[0] + pieces[1])
                pieces = pieces[2:]
            else:
                merged.append(pieces[0])
                pieces = pieces[1:]
        pieces = merged


def make_merges(words: tuple[str, ...]) -> list[Merge]:
    """Merges under which every word is one token.

    A new word only appends merges, which rank below all that came before, so no earlier word
    changes.
    """
    merges: list[Merge] = []
    for word in words:
        pieces = apply_merges(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = apply_merges(word, merges)
    return merges


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files (`vocab.json`, `merges.txt` and the fast format); return it."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = make_merges(VOCABULARY)
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
