"""How similar a data set's held-out images are to captions, in CLIP's eyes: where its prompt fidelity ends.

Whether CLIP finds captions in these images at all is settled on all of them and not on those that a run is asked for:
it is a question to CLIP and the data set, and of eight captions the answer would be chance. Of the cast of the sprite
world the gap of own and other captions is .21 with a standard error of .03 over its 64 held-out captions, and .14 with
one of .10 over the eight of a search.
"""

from __future__ import annotations

from collections.abc import Sequence

from trainables.data.subjects import Subject
from trainables.evaluation.anchors import PromptEnd, prompt_end
from trainables.evaluation.encoders import Clip
from trainables.evaluation.held_out_captions import bare_captions, caption_numbers, same_caption
from trainables.evaluation.metrics import Array

_MOST = 128  # captions that tell whether CLIP reads such; more would say it no better, and are embedded by every run


def end_of_asked(subject: Subject, asked: Sequence[str], features: Array, texts: Array) -> PromptEnd | None:
    """Returns how similar held-out images are to the captions that are asked for; None where one of these is the
    caption of none.

    Args:
        asked: Captions without the trigger.
        features: CLIP's embeddings of the references.
        texts: Those of `asked`.
    """
    found = [
        (row, number)
        for row, caption in enumerate(bare_captions(subject))
        for number, text in enumerate(asked)
        if same_caption(caption, text)
    ]
    rows, numbers = [row for row, _ in found], [number for _, number in found]
    if len(set(numbers)) < len(asked):
        return None
    return prompt_end(features[rows], numbers, texts)


def end_of_all(subject: Subject, features: Array, clip: Clip) -> PromptEnd:
    """Returns how similar held-out images are to their own and to all other held-out captions, the first `_MOST`.

    Args:
        features: CLIP's embeddings of the references.
    """
    captions, firsts = bare_captions(subject), caption_numbers(subject)
    distinct = sorted(set(firsts))[:_MOST]
    number_of = {first: number for number, first in enumerate(distinct)}
    rows = [row for row, first in enumerate(firsts) if first in number_of]
    texts = clip.embed_texts([captions[first] for first in distinct])
    return prompt_end(features[rows], [number_of[firsts[row]] for row in rows], texts)
