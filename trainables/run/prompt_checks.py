"""Which prompts of a run are too long for its model, and whether that must not be or is only worth a note."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainables.config.fields import EMBEDDED, EvaluationConfig, ModelConfig, SubjectConfig, TrainingConfig
from trainables.data.path_map import folder_of
from trainables.data.subjects import Captions, Subject, prompts_of, training_captions
from trainables.errors import UserError
from trainables.evaluation.prompts import evaluation_templates, fill, spans_of
from trainables.models.families import family_in
from trainables.models.folders import local_folder
from trainables.models.placeholders import expand
from trainables.models.prompt_lengths import (
    PromptReader,
    Reading,
    clip_reader,
    memory_reader,
    pipeline_reader,
)
from trainables.run.held_out_checks import templates_asked
from trainables.run_config import RunConfig

_CAPTIONS_SHOWN = 20  # of those that are cut off: a data set may have hundreds
_SHOWN = 160  # characters of a prompt, or of what is lost of it, in a message
# Between words; of other signs than ASCII's the ellipsis, the commas and full stop of Chinese and Japanese, dashes.
_PUNCTUATION = re.compile(r"[\s.,:;!?()\u2026\u3001\uff0c\u3002\u2013\u2014]+")
_QUOTES = "'\"`\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
_POSSESSIVE = re.compile(r"['\u2019]s$", re.IGNORECASE)


@dataclass
class Findings:
    """What is said of the prompts of a subject.

    Attributes:
        problems: What must not be: the model would not be taught, or judged by, what the study says.
        notes: What is allowed, but probably not meant.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """Takes over what is not said yet."""
        self.problems += [problem for problem in other.problems if problem not in self.problems]
        self.notes += [note for note in other.notes if note not in self.notes]


@dataclass(frozen=True)
class Prompts:
    """The texts of a subject that a model reads.

    Attributes:
        captions: By the file, or image, to which they belong.
        templates: Of evaluation prompts, with ``{subject}``.
        orders: Of captions whose tags are read in other orders than the written one, and that may be too long: all
            texts that are read in the caption's place.
    """

    subject: str
    instance: str
    class_: str
    captions: Mapping[str, str]
    templates: Sequence[str]
    is_data_set: bool = False
    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def begin(self) -> str:
        """Of a message about it."""
        return f"{'data set' if self.is_data_set else 'subject'} {self.subject!r}: "


def find_cut_prompts(
    model: ModelConfig,
    subject: SubjectConfig,
    evaluation: EvaluationConfig,
    captions: Captions,
    training: TrainingConfig | None = None,
) -> Findings:
    """Returns what is said of a subject's prompts before anything is loaded; nothing, if the model is not here.

    Args:
        evaluation: Of a run: the prompts of its result are looked at, and those that choose its step.
        training: Of the method that may have words of its own for the subject; None: none.
    """
    folder = local_folder(model)
    reader = pipeline_reader(folder) if folder is not None else None
    found = Findings()
    if reader is None:
        return found
    for number, templates in enumerate(templates_asked(subject, evaluation) or [()]):
        prompts = _prompts_of(subject, templates, captions)
        if prompts is not None:
            prompts = replace(prompts, captions={}) if number else prompts  # captions are looked at once
            found.add(_find_cut(prompts, reader, model.path, evaluation, training))
    return found


def _find_cut(
    prompts: Prompts,
    reader: PromptReader,
    model: str,
    evaluation: EvaluationConfig,
    training: TrainingConfig | None,
) -> Findings:
    try:
        prompts, reader, notes = _in_words_of(training, prompts, reader)
    except UserError as error:
        return Findings(list(error.problems))
    found = check_prompts(prompts, reader, model, _clip(evaluation))
    found.notes += notes
    return found


def find_cut_prompts_of_run(config: RunConfig) -> Findings:
    """Returns what is said of a run's prompts before anything is loaded."""
    training = config.training
    return find_cut_prompts(config.model, config.subject, config.evaluation, training.captions, training)


def find_broken_words(model: ModelConfig, subject: SubjectConfig) -> list[str]:
    """Returns a note where the words that name a subject are no single tokens of its model's; else nothing.

    They are those of the instance prompt that the class prompt does not have: the rare token (Ruiz et al. 2022, sec.
    3.2). What a word of several tokens is taught, other words with these tokens learn too. Nothing is said of the
    embedded model, which spells all words but its own, nor of a model that is not here.
    """
    folder = local_folder(model)
    if model.path == EMBEDDED or folder is None or subject.is_data_set:  # a trigger may well be common words
        return []
    try:
        instance, class_ = prompts_of(subject)
    except UserError:  # told where subjects are checked
        return []
    known = {word.casefold() for word in _words(class_)}
    words = [word for word in dict.fromkeys(_words(instance)) if word.casefold() not in known]
    family = family_in(folder)
    # A T5's pieces are parts of words, and of rare ones in every case.
    numbers = [number for number, part in enumerate(family.text_encoders) if not part.reads]
    found = []
    for reader in (pipeline_reader(folder, number) for number in numbers):
        broken = {} if reader is None else {word: reader.pieces(word) for word in words}
        found += [
            f"subject {subject.name!r}: the tokenizer of {model.path!r} breaks {word!r} of the instance prompt up, "
            f"into {', '.join(map(repr, pieces))}, which other words have too; take a rare word that is one token, "
            "such as sks of Stable Diffusion"
            for word, pieces in broken.items()
            if len(pieces) > 1
        ]
    return list(dict.fromkeys(found))


def _words(text: str) -> list[str]:
    """The words of a prompt without the punctuation between and about them, which is a token of its own in every CLIP.

    Brackets and the like stay: who writes [V] or <cat> means a word with them.
    """
    words = (_POSSESSIVE.sub("", word.strip(_QUOTES)).strip(_QUOTES) for word in _PUNCTUATION.split(text))
    return [word for word in words if word.strip("-")]


def refuse_cut_prompts(
    subject: Subject, evaluation: EvaluationConfig, tokenizer: Any, model: str, training: TrainingConfig
) -> None:
    """Refuses a loaded subject whose prompts do not fit a loaded model, which may not have been here before.

    Args:
        tokenizer: Of transformers, with the model's limit.
        model: As the user names it.
        training: Says how the subject is spoken of.

    Raises:
        UserError: With every problem that `check_prompts` finds.
    """
    prompts = Prompts(
        subject=subject.name,
        instance=subject.instance_prompt,
        class_=subject.class_prompt,
        captions={
            name: text
            for name, text in zip(subject.image_names, subject.captions, strict=True)
            if text != subject.instance_prompt
        },
        templates=evaluation_templates(subject, evaluation),
        is_data_set=subject.is_data_set,
    )
    prompts, reader, _ = _in_words_of(training, prompts, memory_reader(tokenizer))
    problems = check_prompts(prompts, reader, model).problems
    if problems:
        raise UserError(*problems)


def check_prompts(
    prompts: Prompts, reader: PromptReader, model: str, clip: PromptReader | None = None
) -> Findings:
    """Returns what is said of a subject's prompts.

    Args:
        reader: Of the model `model`.
        clip: Of the CLIP that judges evaluation prompts, if it is known.
    """
    found = Findings()
    says = _Says(prompts.begin, repr(model), reader.limit)
    for name, text in (("instance_prompt", prompts.instance), ("class_prompt", prompts.class_)):
        for reading in reader.read([text]) or ():
            if reading.cut_at is not None:
                found.problems.append(says.cut(name, reading))
    cut = bool(found.problems)
    _check_captions(found, says, prompts, reader)
    if cut:
        return found  # every evaluation prompt would be named for what is the instance prompt's fault
    said: set[str] = set()
    _check_templates(found, says, prompts.templates, prompts.instance, reader, said)
    _check_templates(found, says, prompts.templates, prompts.class_, reader, said)
    if clip is not None:
        judge = _Says(says.subject, "evaluation.clip", clip.limit)
        _check_templates(found, judge, prompts.templates, prompts.class_, clip, said)
    return found


def find_cut(texts: Sequence[str], reader: PromptReader, model: str) -> list[str]:
    """Returns a note on each of some prompts that the model `model` does not read to the end."""
    says = _Says("", repr(model), reader.limit)
    return [
        says.cut(f"the prompt {_shown(reading.text)}", reading)
        for reading in reader.read(texts) or ()
        if reading.cut_at is not None
    ]


@dataclass(frozen=True)
class _Says:
    """The sentences about prompts; `subject` begins them."""

    subject: str
    model: str
    limit: int

    def cut(self, name: str, reading: Reading, what: str = "is lost") -> str:
        return (
            f"{self.subject}{name} has {reading.tokens} tokens and {self.model} reads {self.limit} (begin and end "
            f"count), so that {_shown(reading.lost)} {what}; shorten it"
        )

    def cut_in_orders(self, name: str, readings: Sequence[Reading], text: str) -> str:
        """Of a caption that is read in several orders of its tags, of which some lose their end."""
        cut = [reading for reading in readings if reading.cut_at is not None]
        lost = {tag for reading in cut for tag in _tags_from(reading.text, reading.cut_at or 0)}
        told = ", ".join(tag for tag in dict.fromkeys(_tags_from(text, 0)) if tag in lost)
        return (
            f"{self.subject}{name} has {max(reading.tokens for reading in cut)} tokens and {self.model} reads "
            f"{self.limit} (begin and end count), so that {len(cut)} of the {len(readings)} orders of its tags "
            f"(shuffle_captions) lose their end, which is one or another of {_shown(told)}; shorten it"
        )

    def same(self, kind: str, names: Sequence[str]) -> str:
        return (
            f"{self.subject}{kind} {_listed(names)} differ only beyond the {self.limit} tokens that "
            f"{self.model} reads, and become one; shorten them"
        )


def _check_captions(found: Findings, says: _Says, prompts: Prompts, reader: PromptReader) -> None:
    files, texts = list(prompts.captions), list(prompts.captions.values())
    orders = [prompts.orders.get(file, (text,)) for file, text in prompts.captions.items()]
    readings = reader.read([text for several in orders for text in several])
    if readings is None:
        return
    left = iter(readings)
    of_caption = [list(itertools.islice(left, len(several))) for several in orders]
    groups = _become_one(of_caption)
    found.problems += [says.same("the captions", [files[number] for number in group]) for group in groups]
    named = {number for group in groups for number in group}
    notes = []
    for number, several in enumerate(of_caption):
        if number in named or all(reading.cut_at is None for reading in several):
            continue
        name = f"the caption {files[number]}"
        in_orders = len(several) > 1
        notes.append(
            says.cut_in_orders(name, several, texts[number]) if in_orders else says.cut(name, several[0])
        )
    found.notes += notes[:_CAPTIONS_SHOWN]
    if len(notes) > _CAPTIONS_SHOWN:
        found.notes.append(f"{says.subject}and {len(notes) - _CAPTIONS_SHOWN} more captions are cut off so")


def _tags_from(text: str, place: int) -> list[str]:
    """The tags of a caption that end after a place in it: what stands between commas."""
    begin = place + 1 if text[place : place + 1] == "," else text.rfind(",", 0, place) + 1
    return [tag.strip() for tag in text[begin:].split(",") if tag.strip()]


def _check_templates(
    found: Findings, says: _Says, templates: Sequence[str], phrase: str, reader: PromptReader, said: set[str]
) -> None:
    """Looks at evaluation prompts that are filled with a phrase; `said` are templates that have been named."""
    templates = list(dict.fromkeys(templates))
    readings = reader.read([fill(template, phrase) for template in templates])
    if readings is None:
        return
    for group in _become_one([[reading] for reading in readings]):
        if not said.issuperset(templates[number] for number in group):
            found.problems.append(
                says.same("the evaluation prompts", [_shown(templates[number]) for number in group])
            )
            said.update(templates[number] for number in group)
    for template, reading in zip(templates, readings, strict=True):
        if reading.cut_at is None or template in said:
            continue
        said.add(template)
        name = f"the evaluation prompt {_shown(template)} with {_shown(phrase)} in it"
        if any(end <= reading.cut_at for _, end in spans_of(template, phrase)):
            found.notes.append(says.cut(name, reading))
        else:
            found.problems.append(says.cut(name, reading, "is lost, and with it words of the subject"))


def _become_one(readings: Sequence[Sequence[Reading]]) -> list[list[int]]:
    """Returns the numbers of texts that differ as they stand and are the same as the model reads them.

    Args:
        readings: Of each text: one, or those of all orders in which it is read.
    """
    groups: dict[frozenset[tuple[int, ...]], list[int]] = {}
    for number, several in enumerate(readings):
        groups.setdefault(frozenset(reading.read_ids for reading in several), []).append(number)
    whole = [frozenset(reading.all_ids for reading in several) for several in readings]
    return [group for group in groups.values() if len({whole[number] for number in group}) > 1]


def _prompts_of(subject: SubjectConfig, templates: Sequence[str], captions: Captions) -> Prompts | None:
    """Returns the texts of a subject that is not loaded, or None if it is not known what they are."""
    try:
        instance, class_ = prompts_of(subject)
    except UserError:  # told where subjects are checked
        return None
    texts = training_captions(subject) if captions == "files" or subject.is_data_set else {}
    return Prompts(subject.name, instance, class_, texts, templates, subject.is_data_set)


def _in_words_of(
    training: TrainingConfig | None, prompts: Prompts, reader: PromptReader
) -> tuple[Prompts, PromptReader, list[str]]:
    """Returns prompts as a method has them, what reads its words, and notes on what was taken for granted.

    Raises:
        UserError: The method cannot be taught by these prompts.
    """
    if training is None:
        return prompts, reader, []
    begin = prompts.begin
    problems: list[str] = []
    said: dict[str, str] = {}
    orders: dict[str, list[str]] = {}
    try:
        training = training.for_subject(prompts.instance, prompts.class_)
        instance = training.reword(prompts.instance)
    except UserError as error:
        raise UserError(*(f"{begin}{problem}" for problem in error.problems)) from None
    words = training.added_words
    for file, text in prompts.captions.items():
        try:
            said[file] = training.reword(text)
            if training.shuffle_captions and reader.could_cut(_widest(expand(said[file], words))):
                orders[file] = [training.reword(order) for order in _orders(prompts, text, training)]
        except UserError as error:
            problems += [f"{begin}the caption {file}: {problem}" for problem in error.problems]
    if words:
        taught = [instance, *said.values(), *training.training_prompts(prompts.instance)]
        problems += [f"{begin}{problem}" for problem in _words_elsewhere(words[0], taught, prompts)]
    if problems:
        raise UserError(*problems)
    prompts = replace(
        prompts,
        instance=expand(instance, words),
        captions={file: expand(text, words) for file, text in said.items()},
        orders={file: [expand(text, words) for text in texts] for file, texts in orders.items()},
    )
    return prompts, reader.knowing(words), [f"{begin}{note}" for note in training.subject_notes]


def _orders(prompts: Prompts, caption: str, training: TrainingConfig) -> Sequence[str]:
    """The orders of a caption's tags that runs train on, which are the same in every run."""
    from trainables.training.captions import caption_orders  # which loads torch

    trigger = prompts.instance if prompts.is_data_set else ""
    return caption_orders(caption, trigger, training.keep_tokens)


def _widest(caption: str) -> str:
    """A text as long as the longest order of a caption: a blank is put behind each comma."""
    return caption.replace(",", ", ")


def _words_elsewhere(word: str, taught: Iterable[str], prompts: Prompts) -> Iterator[str]:
    """Names prompts in which tokenizers would find an added word that nobody has put there.

    They look for it in the lower-cased text, within other words too.

    Args:
        taught: Prompts that hold the word where it is meant.
    """
    alone = rf"(?<!\w){re.escape(word)}(?!\w)"
    rest = {text: re.sub(alone, " ", text) for text in taught}
    places = {
        "class_prompt": {prompts.class_: prompts.class_},
        "the evaluation prompt": {template: template for template in prompts.templates},
        "the training prompt": rest,
    }
    for kind, texts in places.items():
        found = next((text for text, read in texts.items() if word.lower() in read.lower()), None)
        if found is not None:
            yield (
                f"placeholder_token: {word!r} is found in {kind} {_shown(found)} (tokenizers look within words too), "
                "where the model would read what was learnt; take one that occurs in no prompt, for example <my-cat>"
            )


def _clip(evaluation: EvaluationConfig) -> PromptReader | None:
    if evaluation.clip == EMBEDDED:
        from trainables.embedded import CLIP

        return clip_reader(Path(CLIP))
    return clip_reader(folder_of(evaluation.clip))


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
