"""What keeps a method, or a training field, from data sets, which have captions and no subject."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainables.config.fields import ALPHA, SubjectConfig, TrainingConfig
from trainables.methods.registry import BASE, method_config_class, method_names

#: Training field -> the value that a data set cannot be trained with, and why.
ONLY_SUBJECTS: dict[str, tuple[Any, str]] = {
    "with_prior_preservation": (
        True,
        "draws images of a subject's class, and a data set has no class; set with_prior_preservation: false",
    ),
}
#: The same of fields that need a data set.
ONLY_DATA_SETS: dict[str, tuple[Any, str]] = {
    "aspect_ratio_buckets": (
        True,
        "keeps the ratio of a data set's images, and those of subjects are squares; leave it out",
    ),
}


def obstacle_on_data_sets(method: str) -> str | None:
    """Returns why a method cannot be trained on a data set, or None if it can."""
    if not method_config_class(method).TEACHES_A_WORD:
        return None
    others = [
        name for name in method_names() if name != BASE and not method_config_class(name).TEACHES_A_WORD
    ]
    return (
        f"{method} teaches a word for one subject, and a data set shows many things by their captions; take one of "
        f"{', '.join(others)}"
    )


def refused_on_data_sets(data_sets: Iterable[SubjectConfig]) -> dict[str, tuple[Any, str]]:
    """Returns `ONLY_SUBJECTS`, and what else some data sets cannot be trained with."""
    bare = [one.name for one in data_sets if one.dataset is None or one.dataset.masks is None]
    if not bare:
        return ONLY_SUBJECTS
    reason = (
        f"needs masks of the images, and {'data set' if len(bare) == 1 else 'data sets'} {', '.join(bare)} "
        f"{'has' if len(bare) == 1 else 'have'} none; name them (dataset: {{path: FOLDER, masks: PATH}}, or "
        f"masks: {ALPHA}), or leave it out"
    )
    return {**ONLY_SUBJECTS, "masked_loss": (True, reason)}


def check_data_set(method: str, training: TrainingConfig, subject: SubjectConfig) -> list[str]:
    """Returns what keeps a run from its data set, or a subject from what only data sets have, one message a problem."""
    if method == BASE:
        return []
    fields = refused_on_data_sets([subject]) if subject.is_data_set else ONLY_DATA_SETS
    problems = [obstacle_on_data_sets(method)] if subject.is_data_set else []
    problems += [
        f"{name}: {json_word(value)} {reason}"
        for name, (value, reason) in fields.items()
        if getattr(training, name) == value and "method" not in training.needs_of(name)
    ]
    return [problem for problem in problems if problem is not None]


def json_word(value: Any) -> str:
    """Returns a value as a study file has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
