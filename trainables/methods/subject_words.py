"""Which words of an instance prompt stand for its subject, and which of them are the class's noun.

Told from where the instance prompt and the class prompt differ, and from words that end a noun. What these do not tell
is said to be unknown, and not guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_ARTICLES = ("a", "an", "the")
_MARKS = ".,;:!?)\"'"

# No noun goes on beyond one of these: articles and what stands in their place, prepositions, conjunctions. They are
# closed classes of English; participles ("sitting") are none, and cannot be told from nouns ("painting").
_ENDING = """
a an the my your his her its our their this that these those some one each every
about above across against along among around as at before behind below beneath beside besides between beyond by
down during for from in inside into like near of off on onto out outside over past since through to toward towards
under until up upon versus via with within without
and but or nor while who whom whose which where when is are was were has have
"""
_ENDS = frozenset(_ENDING.split())


@dataclass(frozen=True)
class SubjectWords:
    """What two prompts tell of a subject's words.

    Attributes:
        rare: What the instance prompt alone has; empty if that does not stand in one place.
        noun: Words that name the class; None if it cannot be told which they are.
        follows: The noun stands right after the rare words, in the instance prompt.
    """

    rare: tuple[str, ...]
    noun: tuple[str, ...] | None
    follows: bool


def subject_words(instance_prompt: str, class_prompt: str, placeholder: str | None = None) -> SubjectWords:
    """Returns the words that stand for a subject.

    The noun is what follows the rare words: one word, or several that end the prompt. Where none follows, it is what
    the class prompt has in the place of the rare words, or else all of it, its article left out.

    Args:
        placeholder: If the instance prompt holds it, instead of a rare word.
    """
    whole, plain = instance_prompt.split(), class_prompt.split()
    matcher = SequenceMatcher(None, plain, whole, autojunk=False)
    changes = [change for change in matcher.get_opcodes() if change[0] != "equal"]
    if len(changes) == 1 and changes[0][0] != "delete":
        _, first, last, begin, end = changes[0]
    elif placeholder is not None:
        begin = next(number for number, word in enumerate(whole) if placeholder in word)
        first, last, end = 0, 0, begin + 1
    else:
        return SubjectWords((), None, False)
    rare, after = tuple(whole[begin:end]), whole[end:]
    if after and _begins_noun(after[0]):
        noun = _noun_before_others(after)
        # Of several words before another phrase ("dog sitting on grass") some may not be the noun's.
        return SubjectWords(rare, noun if len(noun) in (1, len(after)) else None, True)
    for words in (_without_article(plain[first:last]), _without_article(plain)):
        if words:
            noun = _noun_before_others(words)
            return SubjectWords(rare, noun if len(noun) == len(words) else None, False)
    return SubjectWords(rare, None, False)


def _begins_noun(word: str) -> bool:
    return word.lower() not in _ENDS and bool(word.strip(_MARKS + "-("))


def _noun_before_others(words: Sequence[str]) -> tuple[str, ...]:
    """Returns the words before the first that ends a noun, without a mark that ends the last of them."""
    noun: list[str] = []
    for word in words:
        if not _begins_noun(word):
            break
        noun.append(word.rstrip(_MARKS))
        if noun[-1] != word:
            break
    return tuple(noun)


def _without_article(words: Sequence[str]) -> list[str]:
    return list(words[1:] if words and words[0].lower() in _ARTICLES else words)
