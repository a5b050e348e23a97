"""By what the best step of a run is chosen, and that nothing of it judges the result.

The best of several noisy values is too good on average, so that the value that chose a step is no result. Where a run
restores its best step (`EvaluationConfig.restore_best`) the choice rests on the prompts of searches, on noise and on
held-out images of its own; the restored weights are then judged on prompts, noise and held-out images that had no part
in it, of a data set nor any of their group or with their caption (``held_out_halves.py``). All runs of a study are
judged by the same half of the held-out images, the untrained base model's too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from trainables.config.fields import EvaluationConfig
from trainables.data.subjects import Subject
from trainables.errors import UserError
from trainables.evaluation.held_out_captions import PLACEHOLDER, bare_captions, phases_of
from trainables.evaluation.held_out_halves import Halves, deal_out, every_second
from trainables.evaluation.metrics_table import HELD_OUT_LOSS, METRICS
from trainables.util.text import without_case

CHOICE = "choice"  # stream of noise
FEWEST_REFERENCES = 2  # one to choose by, another to judge by


def best_step(values: Iterable[tuple[int, float | None]], metric: str) -> int | None:
    """Returns the step with the best value, the earliest of several; None where no value is known.

    Args:
        values: Steps and values in a metric that has a better direction.
    """
    sign = 1 if METRICS[metric].direction == "higher" else -1
    known = [(sign * value, -step) for step, value in values if value is not None]
    return -max(known)[1] if known else None


def choice_settings(config: EvaluationConfig) -> EvaluationConfig | None:
    """Returns the settings of the evaluations that choose a step by images; None where images choose none."""
    if config.restore_best in (None, HELD_OUT_LOSS):
        return None
    return config.model_copy(update={"prompts": config.restore_best_prompts, "prompt_set": "search"})


def all_settings(config: EvaluationConfig) -> tuple[EvaluationConfig, ...]:
    """Returns the settings of all evaluations of a run: of its result, and of what chooses its step by images."""
    chosen_by = choice_settings(config)
    return (config,) if chosen_by is None else (config, chosen_by)


def halves_of(subject: Subject) -> Halves:
    """Returns which of a subject's references judge, and which choose a step."""
    if not subject.is_data_set:
        return every_second(len(subject.references))
    return deal_out(bare_captions(subject), subject.reference_characters, subject.reference_groups)


def choosing(subject: Subject) -> Subject:
    """Returns a subject with the held-out images that choose a step.

    Raises:
        UserError: There are too few to keep some for judging.
    """
    halves = halves_of(subject)
    if not halves.choosing:
        raise UserError(
            too_few_references(subject.name, len(halves.judging), is_data_set=subject.is_data_set)
        )
    return _with_references(subject, halves.choosing)


def judging(subject: Subject) -> Subject:
    """Returns a subject with the held-out images that judge the result: those that choose no step."""
    return _with_references(subject, halves_of(subject).judging)


def _with_references(subject: Subject, rows: Sequence[int]) -> Subject:
    """The subject with some of its held-out images, and all that is said of them."""
    held_out = (
        "references",
        "reference_names",
        "reference_captions",
        "reference_characters",
        "reference_groups",
    )
    said = {field: getattr(subject, field) for field in held_out}
    if subject.is_data_set:
        said["reference_phases"] = phases_of(bare_captions(subject), subject.reference_characters)
    taken: dict[str, Any] = {
        field: tuple(values[row] for row in rows) if values else () for field, values in said.items()
    }
    return replace(subject, **taken)


def too_few_references(subject: str, count: int, *, is_data_set: bool = False) -> str:
    """Returns the message for a subject whose held-out images cannot be dealt out.

    Args:
        count: Of its held-out images, which are all of one unit if they are several of a data set.
    """
    what, where = ("data set", "dataset.holdout") if is_data_set else ("subject", "holdout")
    alike = " of one group or caption, which stay together" if is_data_set and count > 1 else ""
    return (
        f"{what} {subject!r} has {count} held-out image{'s' * (count != 1)}{alike}, and evaluation.restore_best needs "
        f"at least {FEWEST_REFERENCES}{' of different ones' if alike else ''}: one to choose the step by, another to "
        f"judge the result by; add references, hold out more ({where}), or leave restore_best out"
    )


def evaluations_of(subject: Subject, config: EvaluationConfig) -> list[tuple[Subject, EvaluationConfig]]:
    """Returns what each of a run's evaluations rests on, the subject with its held-out images and the settings: that of
    the result first, then, if images choose its step, that of the choice.

    Raises:
        UserError: There are too few held-out images to restore a best step.
    """
    if config.restore_best is None:
        return [(subject, config)]
    return list(zip((judging(subject), choosing(subject)), all_settings(config), strict=False))


def shared_prompts(config: EvaluationConfig, templates: Sequence[Sequence[str]]) -> list[str]:
    """Returns the templates by which a step would be chosen and its result judged, whatever their case and spaces.

    Runs of a search are judged by the prompts of searches, and only noise and held-out images differ: their scores
    choose a configuration and are no results.

    Args:
        templates: Of each of a run's evaluations, as `evaluations_of` has them.
    """
    if config.prompt_set == "search":
        return []
    seen = {plain_template(template) for chosen_by in templates[1:] for template in chosen_by}
    return [
        template for judged_by in templates[:1] for template in judged_by if plain_template(template) in seen
    ]


def plain_template(text: str) -> str:
    """Returns what is the same for templates that differ in case or spaces alone, such as after the placeholder."""
    return without_case(text.replace(PLACEHOLDER, f" {PLACEHOLDER} "))
