"""What can be found wrong with judging a data set by its held-out images and captions, before anything is loaded.

One thing is measured: whether the embedded CLIP, which is small and always here, finds captions in the images.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainables.config.fields import EMBEDDED, EvaluationConfig, SubjectConfig, images_on_the_way
from trainables.data.data_sets import split_of
from trainables.data.image_folders import Entry
from trainables.errors import UserError
from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES, MIN_DISTRIBUTION_UNITS, NEED_TWO_PROMPTS
from trainables.evaluation.choice import all_settings, choosing, judging
from trainables.evaluation.held_out_captions import (
    Asked,
    characters_of_subjects,
    check_asked,
    choose,
    phases_of,
    told_apart,
)
from trainables.evaluation.held_out_halves import Halves, deal_out, unit_numbers
from trainables.evaluation.prompts import templates_of

_SIDE = 64  # pixels at which the embedded CLIP reads images
_DISTANCES = ("dataset_kid", "dataset_cmmd")
_WORST_CHARACTER = "worst_character"


@dataclass(frozen=True)
class HeldOut:
    """What some evaluation of a data set rests on.

    Attributes:
        settings: Of the evaluation.
        chooses: It chooses the step that is restored, and does not judge the result.
        entries: Its held-out images.
        phases: Of their captions, as it is settled over all held-out images.
        trained: Characters that are trained on.
    """

    settings: EvaluationConfig
    chooses: bool
    entries: tuple[Entry, ...]
    phases: tuple[str, ...]
    trained: frozenset[str] = frozenset()

    @property
    def captions(self) -> tuple[str, ...]:
        """Of the images, without the trigger."""
        return tuple(entry.caption for entry in self.entries)

    @property
    def characters(self) -> tuple[str, ...]:
        """Whom each image shows; empty text where nobody is named."""
        return tuple(entry.character for entry in self.entries)

    @property
    def asked(self) -> tuple[Asked, ...]:
        """The captions that are asked for."""
        return choose(self.captions, self.characters, self.settings, self.phases)

    @property
    def told_apart(self) -> set[str]:
        """Characters that are asked for and have results of their own."""
        return {asked.character for asked in self.asked} & told_apart(self.characters, self.trained)

    @property
    def images(self) -> int:
        """Images that are drawn of `asked` at once."""
        count = len(self.asked) * self.settings.images_per_prompt
        return images_on_the_way(count, 0, self.settings.images_between)[0] if self.chooses else count


def held_out_of(subject: SubjectConfig, config: EvaluationConfig) -> list[HeldOut]:
    """Returns what the evaluations of a run on a data set rest on: that of its result first, then, if images choose its
    step, that of the choice. Nothing, if the data set is unsound, which is told elsewhere.
    """
    with suppress(UserError, OSError):
        split = split_of(subject)[0]
        entries, trained = split.references, frozenset(entry.character for entry in split.training)
        phases = phases_of([entry.caption for entry in entries], [entry.character for entry in entries])
        if entries and config.restore_best is None:
            return [HeldOut(config, False, entries, phases, trained)]
        halves = halves_of_entries(entries)
        if halves.choosing:
            parts = zip(all_settings(config), (False, True), (halves.judging, halves.choosing), strict=False)
            return [
                HeldOut(
                    settings,
                    chooses,
                    tuple(entries[row] for row in rows),
                    tuple(phases[row] for row in rows),
                    trained,
                )
                for settings, chooses, rows in parts
            ]
    return []


def templates_asked(subject: SubjectConfig, config: EvaluationConfig) -> list[tuple[str, ...]]:
    """Returns the templates of a run's evaluations: of its result, and of what chooses its step by images.

    Nothing or less of a data set that is unsound or has too few images or captions, which is told elsewhere.
    """
    if not subject.is_data_set:
        return [templates_of(subject.images is None, settings) for settings in all_settings(config)]
    return [tuple(asked.template for asked in part.asked) for part in held_out_of(subject, config)]


def halves_of_entries(entries: Sequence[Entry]) -> Halves:
    """Returns which of a data set's held-out images judge, and which choose a step, as `choice.halves_of` does."""
    return deal_out(
        [entry.caption for entry in entries],
        [entry.character for entry in entries],
        [entry.group for entry in entries],
    )


def check_held_out(
    subject: SubjectConfig,
    config: EvaluationConfig,
    metrics: Mapping[str, str] | None = None,
    section: str = "evaluation",
) -> list[str]:
    """Returns what keeps a data set from being evaluated, or a metric from having a value, one message a problem.

    Of a subject: prompts that ask for characters.

    Args:
        metrics: Those that the study searches by, beside `EvaluationConfig.restore_best`, each with the field that
            names it.
        section: Of the study file, where the settings stand.
    """
    if not subject.is_data_set:
        return characters_of_subjects(config)
    problems = []
    for part in held_out_of(subject, config):
        begin = f"data set {subject.name!r}: "
        half = f" (of the held-out images that {_half(part)}: evaluation.restore_best)"
        asked = check_asked(part.captions, part.characters, part.settings, part.phases)
        problems += [f"{begin}{problem}{half if config.restore_best else ''}" for problem in asked]
        if asked:
            continue
        chosen_by = {config.restore_best: "evaluation.restore_best"} if config.restore_best else {}
        needed = chosen_by if part.chooses else metrics or {}
        problems += [f"{begin}{problem}" for problem in _unknown(subject, part, needed, section)]
    return list(dict.fromkeys(problems))


def held_out_notes(
    subject: SubjectConfig, config: EvaluationConfig, metrics: Iterable[str] = ()
) -> list[str]:
    """Returns what of a data set cannot be measured, though nothing in the study goes by it.

    Args:
        metrics: Those for which `check_held_out` told it.
    """
    if not subject.is_data_set:
        return []
    halved = _distances_of_halves(subject, config)
    if set(metrics) & set(NEED_TWO_PROMPTS):
        return halved
    untold = [
        f"data set {subject.name!r}: {_unread()}, so that prompt fidelity and quality of its runs are not known, and "
        "arms are ranked by the likeness to its held-out images"
        for part in held_out_of(subject, config)
        if not part.chooses and not _tells_captions(subject, part)
    ]
    return [*halved, *untold[:1]]


def _distances_of_halves(subject: SubjectConfig, config: EvaluationConfig) -> list[str]:
    """Says where KID and CMMD are not known because half of the held-out images choose the step."""
    whole = config.model_copy(update={"restore_best": None})
    all_of_them, half = (next(iter(held_out_of(subject, one)), None) for one in (whole, config))
    if all_of_them is None or half is None or not _has_distances(all_of_them) or _has_distances(half):
        return []
    remedy = ", or ".join(["leave it out", *_to_hold_out_more(subject)])
    return [
        f"data set {subject.name!r}: evaluation.restore_best leaves {len(half.entries)} of its "
        f"{len(all_of_them.entries)} held-out images to judge the result, and the others choose the step; with fewer "
        f"than {MIN_DISTRIBUTION_IMAGES} images, or {MIN_DISTRIBUTION_UNITS} captions or groups, its runs have no KID "
        f"and no CMMD: {remedy}"
    ]


def _has_distances(part: HeldOut) -> bool:
    """Whether there are enough images, drawn and held out, for distances of distributions."""
    return (
        min(len(part.entries), part.images) >= MIN_DISTRIBUTION_IMAGES
        and _fewest_units(part) >= MIN_DISTRIBUTION_UNITS
    )


def _to_hold_out_more(subject: SubjectConfig) -> list[str]:
    """What a user can do for more held-out images; nothing of a data set that comes with the project."""
    if subject.dataset is None:
        return []
    if subject.dataset.references is not None:
        return ["add images to dataset.references"]
    return ["hold out more (dataset.holdout)"]


def _unknown(
    subject: SubjectConfig, part: HeldOut, metrics: Mapping[str, str], section: str
) -> Iterable[str]:
    """Why metrics that something goes by would have no value; with each the field that names it."""
    enough = len(part.entries) >= MIN_DISTRIBUTION_IMAGES
    more, another = _to_hold_out_more(subject), "take subject_fidelity_scaled"
    if not part.chooses and part.settings.restore_best is not None:
        another += ", or leave evaluation.restore_best out, so that all held-out images judge"
    for name, place in metrics.items():
        if name in NEED_TWO_PROMPTS and not _tells_captions(subject, part):
            distance = (
                f", or dataset_kid with {MIN_DISTRIBUTION_IMAGES} images a run and more (num_prompts times "
                "images_per_prompt, in evaluation and evaluation.search)"
            )
            yield (
                f"{_unread()}, so that {name} would have no value in any run: it cannot be {place}; take "
                f"subject_fidelity_scaled{distance if enough else ''}, or another evaluation.clip"
            )
        if name.startswith(_DISTANCES) and not enough:
            yield (
                f"{name} as {place} needs at least {MIN_DISTRIBUTION_IMAGES} held-out images, since the distance of "
                f"two distributions is noise below; {len(part.entries)} {_half(part)}: "
                f"{', or '.join([*more, another])}"
            )
        elif name.startswith(_DISTANCES) and part.images < MIN_DISTRIBUTION_IMAGES:
            between = ", evaluation.images_between" if part.chooses else ""
            yield (
                f"{name} as {place} needs at least {MIN_DISTRIBUTION_IMAGES} images of held-out captions, since the "
                f"distance of two distributions is noise below; {section} draws {part.images} of "
                f"{len(part.asked)} captions: raise num_prompts or images_per_prompt{between}, or take "
                "subject_fidelity_scaled"
            )
        elif name.startswith(_DISTANCES) and (few := _fewest_units(part)) < MIN_DISTRIBUTION_UNITS:
            yield (
                f"{name} as {place} needs at least {MIN_DISTRIBUTION_UNITS} captions that are drawn, and as many "
                f"held-out groups or captions, since images of one are no independent samples; there are {few}: "
                f"{', '.join(['raise num_prompts', *more])}, or {another}"
            )
        if name == _WORST_CHARACTER and not part.told_apart:
            own = "name the column that has them (dataset.character_column), add images of them, or "
            yield (
                f"{name} as {place} needs characters, and none is named that is on two real images, one of them held "
                f"out; {own if subject.dataset is not None else ''}take subject_fidelity_scaled"
            )


def _fewest_units(part: HeldOut) -> int:
    """Independent samples of the side that has fewer: captions that are drawn, groups or captions that are held out."""
    held_out = unit_numbers(part.captions, [entry.group for entry in part.entries])
    return min(len(part.asked), len(set(held_out)))


def _half(part: HeldOut) -> str:
    if part.settings.restore_best is None:
        return "judge its runs"
    return "choose the step" if part.chooses else "judge the result"


def _unread() -> str:
    return "the embedded CLIP does not find its captions in its held-out images"


def _tells_captions(subject: SubjectConfig, part: HeldOut) -> bool:
    """Whether prompt fidelity has a scale; taken for granted where it is not known beforehand."""
    if part.settings.clip != EMBEDDED or part.settings.prompts is not None:
        return True
    content = tuple((entry.name, entry.caption, *_stamp(entry)) for entry in part.entries)
    return _embedded_clip_reads(subject, part.settings.restore_best is not None, part.chooses, content)


def _stamp(entry: Entry) -> tuple[int, ...]:
    """What changes with an image's file; nothing of those that come with the project."""
    with suppress(OSError):
        found = entry.path.stat()
        return found.st_mtime_ns, found.st_size
    return ()


@functools.lru_cache(maxsize=64)
def _embedded_clip_reads(
    config: SubjectConfig, halved: bool, chooses: bool, content: tuple[tuple[Any, ...], ...]
) -> bool:
    """See `_tells_captions`; asked several times in a check, and anew where `content` has changed."""
    from trainables.data.subjects import resolve_held_out
    from trainables.evaluation.encoders import load_clip
    from trainables.evaluation.real_captions import end_of_all

    try:
        subject = resolve_held_out(config, _SIDE)
    except UserError:  # told where subjects are checked
        return True
    if halved:
        subject = (choosing if chooses else judging)(subject)
    clip = load_clip(EMBEDDED)
    return end_of_all(subject, clip.embed_images(subject.references), clip).tells_captions
