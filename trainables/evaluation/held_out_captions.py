"""What a data set is asked for: its held-out captions, in two halves for search and confirm.

A data set is judged on captions of images that were never trained on. Each distinct caption belongs to one half, dealt
out by its hash within its character, so that nothing that a search was tuned on is asked again and every character with
two captions is in both halves; of characters with one, every second one is in the search's. That is settled over all
held-out images, also where a half of these alone judges (``choice.py``). Needs no torch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainables.config.fields import CHARACTER_PLACEHOLDERS, EvaluationConfig
from trainables.data.subjects import Subject
from trainables.errors import UserError
from trainables.util.text import without_case

PROMPTS = {"confirm": 16, "search": 8}  # as many as the built-in lists of subjects have
PLACEHOLDER = "{subject}"
_CHARACTER, _OTHER = CHARACTER_PLACEHOLDERS
_LEAST = 2  # captions of a half: prompt fidelity is measured against the others
_PROMPT_RULE = (
    "an evaluation prompt of a data set begins with {subject}, in whose place the trigger and a comma are put, for "
    'example "{subject}a cat in the snow"'
)


@dataclass(frozen=True)
class Asked:
    """A prompt of a data set.

    Attributes:
        caption: Without the trigger.
        character: Whom it is about; empty where nobody is named, or images of several share the caption.
    """

    caption: str
    character: str = ""

    @property
    def template(self) -> str:
        """``{subject}`` and the caption: the data set's with the trigger in the placeholder, plain without."""
        return PLACEHOLDER + self.caption


def bare_captions(subject: Subject) -> tuple[str, ...]:
    """Returns the captions of a data set's references without the trigger, one for each reference."""
    return tuple(caption.removeprefix(subject.instance_prompt) for caption in subject.reference_captions)


def asked_of(subject: Subject, config: EvaluationConfig) -> tuple[Asked, ...]:
    """Returns the prompts that a data set is evaluated on: the study's own, or held-out captions.

    Raises:
        UserError: With what `check_asked` says.
    """
    captions, phases = bare_captions(subject), subject.reference_phases
    problems = check_asked(captions, subject.reference_characters, config, phases)
    if problems:
        raise UserError(*(f"data set {subject.name!r}: {problem}" for problem in problems))
    return choose(captions, subject.reference_characters, config, phases)


def check_asked(
    captions: Sequence[str], characters: Sequence[str], config: EvaluationConfig, phases: Sequence[str] = ()
) -> list[str]:
    """Returns what keeps a data set from being evaluated, one message a problem.

    Args:
        captions: Of its held-out images, without the trigger.
        characters: Whom each shows; empty where nobody is named.
        phases: Of each (`phases_of`); empty where these are all images that are held out.
    """
    if config.prompts is not None:
        return [
            f"{_PROMPT_RULE}; got {template!r}"
            for template in config.prompts
            if not template.startswith(PLACEHOLDER) or template.count(PLACEHOLDER) > 1
        ] + _without_characters(config.prompts, _names(characters))
    found = len(_half(captions, characters, config, phases))
    if found >= _LEAST:
        return []
    return [
        f"the {config.prompt_set} phase needs at least {_LEAST} distinct held-out captions, since prompt fidelity is "
        f"measured against the other captions, and search and confirm share none; its half has {found}: hold out more "
        "images (dataset.holdout), name a folder of references with captions, or give evaluation.prompts"
    ]


def choose(
    captions: Sequence[str], characters: Sequence[str], config: EvaluationConfig, phases: Sequence[str] = ()
) -> tuple[Asked, ...]:
    """Returns the prompts of one phase: `EvaluationConfig.num_prompts`, or `PROMPTS` where it is not stated.

    As many of every character as there are, one of each in turn; those of a character stand together, so that prompts
    at equal distances are of different ones.

    Args:
        captions: Of the held-out images, without the trigger.
        characters: Whom each shows; empty where nobody is named.
        phases: Of each (`phases_of`); empty where these are all images that are held out.
    """
    if config.prompts is not None:
        return _own_prompts(config.prompts[: config.num_prompts], _names(characters))
    half = _half(captions, characters, config, phases)
    turn: dict[str, int] = {}
    ranked = []
    for asked in half:
        turn[asked.character] = turn.get(asked.character, -1) + 1
        ranked.append((turn[asked.character], asked.character, asked))
    ranked.sort(key=lambda row: row[:2])
    chosen = {asked for *_, asked in ranked[: config.num_prompts or PROMPTS[config.prompt_set]]}
    return tuple(asked for asked in half if asked in chosen)


def characters_of_subjects(config: EvaluationConfig) -> list[str]:
    """Returns a message for each prompt that asks for characters, where subjects are judged, which have none."""
    return [
        f"evaluation prompt {template!r} asks for a character of a data set, and a subject has none; write "
        "{subject} in its place"
        for template in (*(config.prompts or ()), *(config.restore_best_prompts or ()))
        if _names_characters(template)
    ]


def _names_characters(template: str) -> bool:
    return any(place in template for place in CHARACTER_PLACEHOLDERS)


def _names(characters: Sequence[str]) -> list[str]:
    return sorted({name for name in characters if name})


def _without_characters(templates: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names the templates for whose characters a data set has too few."""
    problems = []
    for template in templates:
        needed = 2 if _OTHER in template else 1
        if _names_characters(template) and len(names) < needed:
            problems.append(
                f"evaluation prompt {template!r} asks for {'another character' if needed == 2 else 'a character'}, and "
                f"its held-out images name {names[0] + ' alone' if names else 'nobody'}; name characters "
                "(dataset.character_column), or write a prompt without the placeholder"
            )
    return problems


def _own_prompts(templates: Sequence[str], names: Sequence[str]) -> tuple[Asked, ...]:
    """The study's own prompts with characters put in: each in turn, and beside it one after the other of the rest.

    A prompt that names one of them is about that one; one that names two is compared with the images of all.
    """
    asked = []
    for number, template in enumerate(templates):
        caption, character = template.removeprefix(PLACEHOLDER), ""
        if _names_characters(template):
            turn, place = divmod(number, len(names))
            character = names[place]
            other = names[(place + 1 + turn % max(1, len(names) - 1)) % len(names)]
            caption = caption.replace(_CHARACTER, character).replace(_OTHER, other)
            if _OTHER in template:
                character = ""
        asked.append(Asked(caption, character))
    return tuple(asked)


def phases_of(captions: Sequence[str], characters: Sequence[str]) -> tuple[str, ...]:
    """Returns the phase, "confirm" or "search", to which the caption of each held-out image belongs.

    The distinct captions of a character are dealt out in turn, in the order of their hashes. The first goes to confirm,
    but where their number is odd: then to confirm and search by turns, in the order of the hashes of the characters'
    names, or all that is over (and every character with one caption) would be confirm's.

    Args:
        captions: Of all images that are held out, without the trigger.
        characters: Whom each shows; empty where nobody is named.
    """
    distinct = _distinct(captions, characters)
    counts = Counter(asked.character for asked in distinct)
    odd = sorted((name for name, count in counts.items() if count % 2), key=_hash)
    dealt = {name: number % 2 for number, name in enumerate(odd)}
    phases = {}
    for asked in distinct:
        number = dealt.get(asked.character, 0)
        dealt[asked.character] = number + 1
        phases[caption_key(asked.caption)] = "search" if number % 2 else "confirm"
    return tuple(phases[caption_key(caption)] for caption in captions)


def told_apart(held_out: Iterable[str], trained: Iterable[str]) -> set[str]:
    """Returns the characters whose images are judged by their own: those of whom a held-out image can be compared with
    another real one, held out or trained on. Of the others nobody knows how alike real images of them are.

    Args:
        held_out: Whom each held-out image shows; empty text where nobody is named.
        trained: The same of the training images.
    """
    of_training = set(trained)
    return {name for name, n in Counter(held_out).items() if name and (n > 1 or name in of_training)}


def _half(
    captions: Sequence[str], characters: Sequence[str], config: EvaluationConfig, phases: Sequence[str]
) -> list[Asked]:
    """The distinct captions of one phase."""
    rows = zip(captions, phases or phases_of(captions, characters), strict=True)
    own = {caption_key(caption) for caption, phase in rows if phase == config.prompt_set}
    return [asked for asked in _distinct(captions, characters) if caption_key(asked.caption) in own]


def _distinct(captions: Sequence[str], characters: Sequence[str]) -> list[Asked]:
    """Distinct captions by character, and within it by their hash."""
    shown: dict[str, set[str]] = {}
    written: dict[str, str] = {}
    for number, caption in enumerate(captions):
        key = caption_key(caption)
        written.setdefault(key, caption)
        shown.setdefault(key, set()).add(characters[number] if characters else "")
    found = [Asked(written[key], next(iter(who)) if len(who) == 1 else "") for key, who in shown.items()]
    return sorted(found, key=lambda asked: (asked.character, _hash(asked.caption)))


def caption_numbers(subject: Subject) -> tuple[int, ...]:
    """Returns a number for each reference of a data set, the same for those whose captions are one."""
    keys = [caption_key(caption) for caption in bare_captions(subject)]
    return tuple(keys.index(key) for key in keys)


def caption_key(caption: str) -> str:
    """Returns what is the same for captions that differ in case or spaces alone, which are one."""
    return without_case(caption)


def _hash(caption: str) -> str:
    return hashlib.sha256(f"held-out caption {caption_key(caption)}".encode()).hexdigest()


def same_caption(caption: str, other: str) -> bool:
    """Whether two captions are one, but for case and spaces."""
    return caption_key(caption) == caption_key(other)
