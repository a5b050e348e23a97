"""What can be found wrong with restoring the best step before anything is loaded: it needs something to choose by that
does not judge the result."""

from __future__ import annotations

from contextlib import suppress

from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.data.data_sets import split_of
from trainables.data.images import list_images
from trainables.data.path_map import folder_of
from trainables.data.subjects import hold_out
from trainables.errors import UserError
from trainables.evaluation.checks import check_evaluation
from trainables.evaluation.choice import (
    FEWEST_REFERENCES,
    choice_settings,
    shared_prompts,
    too_few_references,
)
from trainables.run.held_out_checks import halves_of_entries, templates_asked


def check_choice(config: EvaluationConfig, subject: SubjectConfig, section: str = "evaluation") -> list[str]:
    """Returns what is wrong with choosing the best step of a run on a subject, one message a problem.

    Args:
        section: Of the study file, where the settings stand.
    """
    if config.restore_best is None:
        return []
    problems = []
    settings = choice_settings(config)
    if settings is not None:
        problems += check_evaluation(settings, (config.restore_best,), section)
    if shared := shared_prompts(config, templates_asked(subject, config)):
        problems.append(
            f"{shared[0]!r} would choose the best step (evaluation.restore_best) and judge the result, which favours "
            "what was chosen by luck; take others in evaluation.prompts or evaluation.restore_best_prompts"
        )
    count, enough = _held_out(subject)
    if not enough:
        problems.append(too_few_references(subject.name, count, is_data_set=subject.is_data_set))
    return problems


def _held_out(subject: SubjectConfig) -> tuple[int, bool]:
    """Returns the number of held-out images, and whether they suffice; so they do where it is told elsewhere."""
    with suppress(UserError, OSError):
        if subject.is_data_set:
            entries = split_of(subject)[0].references
            return len(entries), not entries or bool(halves_of_entries(entries).choosing)
        if subject.images is None:
            return 0, True
        if subject.references is not None:
            count = len(list_images(folder_of(subject.references))[0])
            return count, count >= FEWEST_REFERENCES
        names = [path.name for path in list_images(folder_of(subject.images))[0]]
        count = len(hold_out(names, subject.holdout))
        return count, len(names) <= subject.holdout or count >= FEWEST_REFERENCES
    return 0, True
