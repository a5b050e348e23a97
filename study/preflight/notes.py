"""What a study file allows, but probably does not mean: said before a study runs, which goes on all the same."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import Any

from study.preflight.checks import check_prompts, data_notes, evaluation_notes
from study.preflight.class_checks import class_notes
from study.preflight.detectable import detectable_notes
from study.spec.sections import code_of
from study.spec.study_spec import StudySpec
from trainables.methods.registry import BASE, method_config_class
from trainables.models.folders import model_notes

#: What can be switched in every method, and must not be taken for the method.
FACTORS = ("with_prior_preservation", "prior_preservation_target", "train_text_encoder")


def study_notes(spec: StudySpec) -> list[str]:
    """Returns what is allowed, but probably not meant, one message each; the study has no problems (`check_study`)."""
    prompts = [note for found in check_prompts(spec) for note in found.notes]
    return list(
        dict.fromkeys(
            [
                *_same_prompts(spec),
                *prompts,
                *data_notes(spec),
                *_buckets(spec),
                *evaluation_notes(spec),
                *_confounded(spec),
                *_uneven(spec),
                *model_notes(spec.model),
                *class_notes(spec),
                *detectable_notes(spec),
            ]
        )
    )


def _confounded(spec: StudySpec) -> list[str]:
    """Two methods without a common value of a factor cannot be told apart from the factor."""
    values: dict[str, dict[str, set[Any]]] = {factor: {} for factor in FACTORS}
    for name, arm in spec.arms.items():
        if arm.method == BASE:
            continue
        for factor, known in values.items():
            if "method" in method_config_class(arm.method).needs_of(factor):
                continue  # the method does not read it, so that it cannot be crossed with it
            needs = method_config_class(arm.method).needs_of(factor)
            if all(set(_found(spec, name, other)) & set(values) for other, values in needs.items()):
                known.setdefault(code_of(arm.method), set()).update(_found(spec, name, factor))
    return [
        f"{factor} is {_only(a)} in every arm of {first} and {_only(b)} in every arm of {second}: a difference between "
        "the two may be that of this factor; hold it equal, or cross it with the methods"
        for factor, known in values.items()
        for (first, a), (second, b) in itertools.combinations(sorted(known.items()), 2)
        if not a & b
    ]


def _found(spec: StudySpec, arm: str, field: str) -> tuple[Any, ...]:
    """Values that a training field has in an arm."""
    dimension = spec.space(arm).parameters.get(field)
    return tuple(dimension.probes()) if dimension is not None else (spec.method_fields(arm)[field],)


def _uneven(spec: StudySpec) -> list[str]:
    """Methods with different numbers of trials are compared after different amounts of tuning."""
    trials: dict[str, int] = {}
    for name, arm in spec.arms.items():
        if arm.method != BASE and spec.space(name).parameters:
            method = code_of(arm.method)
            trials[method] = trials.get(method, 0) + spec.trials_of(name)
    if len(set(trials.values())) < 2:
        return []
    counts = ", ".join(f"{method} {count}" for method, count in sorted(trials.items()))
    return [
        f"the methods have different numbers of trials ({counts}): a difference between them may be that of tuning; "
        "write search.trials_per_method, which is dealt out over the arms of each method"
    ]


def _only(values: set[Any]) -> str:
    return " or ".join(sorted(str(value).lower() for value in values))


def _same_prompts(spec: StudySpec) -> list[str]:
    """A class prompt that names the subject itself keeps the class from nothing, and measures nothing of it."""
    return [
        f"subject {subject.name!r}: class_prompt is the instance prompt, {subject.class_prompt!r}; it should name the "
        "class without the rare token, for example 'a dog' for 'a sks dog'"
        for subject in spec.subjects
        if subject.class_prompt is not None
        and subject.instance_prompt is not None
        and subject.class_prompt.split() == subject.instance_prompt.split()
    ]


def _buckets(spec: StudySpec) -> list[str]:
    """How the images of data sets lie in buckets, for each resolution at which some arm trains on these."""
    from trainables.run.bucket_notes import bucket_notes

    if True not in spec.values_of("aspect_ratio_buckets"):
        return []
    batch = max(size for size in spec.values_of("train_batch_size") if isinstance(size, int))
    resolutions = sorted({value or 0 for value in spec.values_of("resolution")})
    return [
        note
        for subject in spec.subjects
        if subject.is_data_set
        for resolution in resolutions
        for note in bucket_notes(subject, spec.model, resolution or None, batch)
    ]


def print_notes(notes: Iterable[str]) -> None:
    """Prints notes on the standard error, one a line."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr, flush=True)
