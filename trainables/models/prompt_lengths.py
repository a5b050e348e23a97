"""How much of a prompt a model reads: its limit in tokens, and what lies beyond it.

A tokenizer is loaded only for texts so long that they could be cut, and without torch where its folder allows that.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.errors import UserError
from trainables.models.families import family_in
from trainables.models.model_files import read_json, tokenizer_faults

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_CLIP_POSITIONS = 77  # of a CLIP's text encoder whose configuration does not say it
_MARKS = 2  # begin and end, which count
_LONG_WORD = 40  # characters; beyond, a cut is shown where it is, not at the beginning of its word


@dataclass(frozen=True)
class Reading:
    """What a model reads of a text.

    Attributes:
        tokens: Of the whole text, begin and end among them.
        all_ids: Tokens of the whole text, begin and end left out.
        read_ids: Those of them that the model reads.
        cut_at: Character at which the first token stands that is lost; None: nothing is.
    """

    text: str
    tokens: int
    all_ids: tuple[int, ...]
    read_ids: tuple[int, ...]
    cut_at: int | None

    @property
    def lost(self) -> str:
        """The words that the model does not see, also one that it sees a part of."""
        if self.cut_at is None:
            return ""
        word = re.search(r"\S*$", self.text[: self.cut_at])
        begin = word.start() if word and len(word[0]) <= _LONG_WORD else self.cut_at
        return self.text[begin:].strip()


class PromptReader:
    """Reads texts as a model does.

    Args:
        limit: Tokens that the model reads, begin and end among them.
        load: Gives the tokenizer, without truncation; called for the first text that could be cut.
    """

    def __init__(self, limit: int, load: Callable[[], Tokenizer]) -> None:
        self.limit = limit
        self._load = load
        self._tokenizer: Tokenizer | None = None

    def knowing(self, words: Sequence[str]) -> PromptReader:
        """Returns a reader that knows further words, each as one token."""
        if not words:
            return self

        def load() -> Tokenizer:
            from tokenizers import Tokenizer

            longer = Tokenizer.from_str(self._load().to_str())
            longer.add_tokens(list(words))
            return longer

        return PromptReader(self.limit, load)

    def could_cut(self, text: str) -> bool:
        """Whether a text may be too long: in byte-level BPE a token is one byte at least, of the normalised text."""
        normalised = unicodedata.normalize("NFC", text).lower()
        return max(len(text.encode("utf-8", "replace")), len(normalised.encode("utf-8", "replace"))) > (
            self.limit - _MARKS
        )

    def read(self, texts: Sequence[str]) -> list[Reading] | None:
        """Returns what the model reads of some texts, or None if all of it, which needs no tokenizer."""
        if not any(map(self.could_cut, texts)):
            return None
        if self._tokenizer is None:
            self._tokenizer = self._load()
        return [self._reading(text, self._tokenizer.encode(text)) for text in texts]

    def ids(self, text: str) -> tuple[int, ...]:
        """Returns the tokens of a text, begin and end left out."""
        if self._tokenizer is None:
            self._tokenizer = self._load()
        return self._reading(text, self._tokenizer.encode(text)).all_ids

    def pieces(self, word: str) -> tuple[str, ...]:
        """Returns the parts of a word that are tokens of their own, as they stand in it."""
        if self._tokenizer is None:
            self._tokenizer = self._load()
        encoding = self._tokenizer.encode(word)
        spans = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return tuple(word[begin:end] for (begin, end), mark in spans if not mark)

    def _reading(self, text: str, encoding: Encoding) -> Reading:
        own = [number for number, mark in enumerate(encoding.special_tokens_mask) if not mark]
        every = encoding.ids  # made anew each time that it is asked for
        kept = max(0, self.limit - (len(every) - len(own)))
        ids = tuple(every[number] for number in own)
        cut_at = encoding.offsets[own[kept]][0] if len(own) > kept else None
        return Reading(text, len(every), ids, ids[:kept], cut_at)


def pipeline_reader(folder: Path, number: int | None = None) -> PromptReader | None:
    """Returns what reads prompts as the pipeline in a folder does; None if its tokenizer cannot be loaded.

    Args:
        number: Of the text encoder, and its tokenizer. None: of the one that reads most; the others do not see what is
            beyond their own limit.
    """
    family = family_in(folder)
    number = family.reader if number is None else number
    encoder = family.text_encoders[number]
    part, is_clip = folder / family.tokenizers[number], not encoder.reads
    if not part.is_dir() or tokenizer_faults(folder, part.name, any_kind=not is_clip):
        return None
    positions = encoder.reads or _positions(read_json(folder / encoder.name / "config.json"))
    limit = (read_json(part / "tokenizer_config.json") or {}).get("model_max_length")
    if isinstance(limit, int | float) and limit > 0:  # without one transformers takes 1e30
        positions = int(min(positions, limit))
    return PromptReader(positions, lambda: _load_tokenizer(part, is_clip=is_clip))


def vocabulary(folder: Path, number: int) -> dict[str, int]:
    """Returns token -> its number of the tokenizer of a pipeline's text encoder, words that were added among them.

    Args:
        number: Of the text encoder.

    Raises:
        UserError: The tokenizer cannot be loaded.
    """
    family = family_in(folder)
    is_clip = not family.text_encoders[number].reads
    found: dict[str, int] = _load_tokenizer(folder / family.tokenizers[number], is_clip=is_clip).get_vocab()
    return found


def clip_reader(folder: Path) -> PromptReader | None:
    """Returns what reads prompts as the CLIP in a folder does; None if it is no CLIP with a sound tokenizer."""
    config = read_json(folder / "config.json") or {}
    if config.get("model_type") != "clip" or tokenizer_faults(folder, ""):
        return None
    return PromptReader(_positions(config.get("text_config")), lambda: _load_tokenizer(folder))


def memory_reader(tokenizer: Any) -> PromptReader:
    """Returns what reads prompts as a tokenizer of transformers in memory does, by its limit."""
    return PromptReader(tokenizer.model_max_length, lambda: _whole(tokenizer.backend_tokenizer))


def _positions(config: Any) -> int:
    found = config.get("max_position_embeddings") if isinstance(config, dict) else None
    return found if isinstance(found, int) and found > 0 else _CLIP_POSITIONS


def _load_tokenizer(folder: Path, *, is_clip: bool = True) -> Tokenizer:
    try:
        return _whole(_tokenizer_of(folder, is_clip))
    except Exception as error:  # the library in Rust raises nothing narrower
        raise UserError(f"the tokenizer in {folder} cannot be loaded ({error}); fetch it again") from error


def _tokenizer_of(folder: Path, is_clip: bool) -> Tokenizer:
    file = folder / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        if not is_clip or tokenizer.num_special_tokens_to_add(False) == _MARKS:
            return tokenizer
    from transformers import CLIPTokenizer, T5TokenizerFast  # which load torch

    kind = CLIPTokenizer if is_clip else T5TokenizerFast
    found: Tokenizer = kind.from_pretrained(str(folder)).backend_tokenizer
    return found


def _whole(tokenizer: Tokenizer) -> Tokenizer:
    """Switches off truncation and padding; transformers switches them on anew whenever it wants them."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
