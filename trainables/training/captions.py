"""What is done to captions of files: tags in random order, and the empty prompt in a caption's place.

Both are drawn from streams of the data, so that arms with one seed read the same captions. A caption has a few orders
that are fixed, not a new one in every step, so that all of them can be read by the text encoders once, before training,
and kept in the cache for every run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from trainables.config.fields import TrainingConfig
from trainables.data.subjects import Subject
from trainables.randomness import stream_seed

#: Orders of the tags of one caption, at most. Of three tags and fewer these are all that there are.
CAPTION_ORDERS = 8
#: Any number of orders from 1 to `CAPTION_ORDERS` that a caption can have (1, 2, 6 or 8) divides it.
_PLACES = 24
_SEPARATOR = ","


def caption_orders(caption: str, trigger: str = "", keep_tokens: int = 0) -> tuple[str, ...]:
    """Returns a caption with its tags in `CAPTION_ORDERS` different orders, or in all if these are fewer.

    Which orders follows from the caption alone: they are the same in every run, for every seed. Tags are what stands
    between commas, without the blanks around them, as in kohya's sd-scripts (``shuffle_caption``); empty ones are left
    out.

    Args:
        trigger: What the caption begins with, that stays in front and is no tag; with the comma behind it.
        keep_tokens: Tags in front, after the trigger, that stay there.
    """
    begin = trigger if caption.startswith(trigger) else ""
    tags = [tag.strip() for tag in caption[len(begin) :].split(_SEPARATOR) if tag.strip()]
    fixed, moved = tags[:keep_tokens], tags[keep_tokens:]
    generator = torch.Generator().manual_seed(stream_seed(0, f"caption_orders/{keep_tokens}/{caption}"))
    wanted = min(CAPTION_ORDERS, math.factorial(min(len(moved), CAPTION_ORDERS)))
    found: dict[tuple[int, ...], None] = {}
    while len(found) < wanted:
        found[tuple(torch.randperm(len(moved), generator=generator).tolist())] = None
    return tuple(begin + f"{_SEPARATOR} ".join(fixed + [moved[place] for place in order]) for order in found)


def training_captions(subject: Subject, training: TrainingConfig) -> list[tuple[str, ...]]:
    """Returns the prompts of each training image, as many for each, of which every draw of the image takes one.

    All orders of a caption are drawn as often; one that has fewer than others has each of them several times.
    """
    if not training.shuffle_captions:
        return [training.training_prompts(caption) for caption in subject.captions]
    trigger = subject.instance_prompt if subject.is_data_set else ""
    orders = [caption_orders(caption, trigger, training.keep_tokens) for caption in subject.captions]
    return [_prompts(each, training) for each in orders]


def _prompts(orders: Sequence[str], training: TrainingConfig) -> tuple[str, ...]:
    prompts = [prompt for order in orders for prompt in training.training_prompts(order)]
    return tuple(prompts * (_PLACES // len(orders)))
