"""What of a data set's split is allowed, but probably not meant: captions on both sides, characters on one image."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress

from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.data.data_sets import Split, split_of
from trainables.errors import UserError
from trainables.run.held_out_checks import held_out_of
from trainables.util.text import shown, some, without_case

_WORD = re.compile(r"\w+")


def split_notes(subject: SubjectConfig, *settings: EvaluationConfig) -> list[str]:
    """Returns what to know of how a data set was split, one note each; decodes no image.

    Nothing of a data set that is unsound, which is told elsewhere, and of those that come with the project.

    Args:
        settings: Of the evaluations that rest on it: of confirm runs, of the search.
    """
    if subject.dataset is None:
        return []
    found: list[str] = []
    with suppress(UserError, OSError):
        split, _ = split_of(subject)
        found = [*_captions_on_both_sides(split), *_without_scale(subject, settings)]
    return [f"data set {subject.name!r}: {note}" for note in found]


def _captions_on_both_sides(split: Split) -> list[str]:
    """Held-out captions that are trained on word for word: allowed, since the pictures may well differ."""
    trained = {_words(entry.caption): entry for entry in reversed(split.training)}
    shared = [entry for entry in split.references if _words(entry.caption) in trained]
    if not shared:
        return []
    first = shared[0]
    other = trained[_words(first.caption)]
    return [
        f"{len(shared)} of {len(split.references)} held-out captions {'is' if len(shared) == 1 else 'are'} also "
        f"trained on, word for word, for example {first.caption!r} ({shown(first.name)}, trained on as "
        f"{shown(other.name)}); what is drawn of them may be learnt by heart: reword one, or give images of one "
        "caption one value in dataset.group_column"
    ]


def _words(caption: str) -> tuple[str, ...]:
    """What two captions have in common that are the same but for case, spaces, punctuation and Unicode spelling."""
    plain = without_case(unicodedata.normalize("NFC", caption))
    return tuple(_WORD.findall(plain)) or (plain,)


def _without_scale(subject: SubjectConfig, settings: Sequence[EvaluationConfig]) -> list[str]:
    """Characters whose captions are asked for, and who are on one real image alone."""
    parts = [part for config in settings for part in held_out_of(subject, config)]
    alone = sorted(
        {one.character for part in parts for one in part.asked if one.character not in ("", *part.told_apart)}
    )
    if not alone:
        return []
    one = len(alone) == 1
    return [
        f"{some([repr(name) for name in alone])} {'is' if one else 'are'} on one held-out image"
        f"{'' if one else ' each'} of those that judge, and on none that is trained on, so that nobody knows how alike "
        f"real images of {'it' if one else 'each'} are: prompts of {'it' if one else 'them'} are compared with all "
        f"held-out images, and {'it has' if one else 'they have'} no results of {'its' if one else 'their'} own; add "
        f"images of {'it' if one else 'them'}, some of them to train on"
    ]
