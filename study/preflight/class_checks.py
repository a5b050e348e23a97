"""What of the downstream phase can be known before a launch: its data set, its classifiers, and what is to be drawn.

No model is in memory for it, but for networks of timm, which say by being built whether they take a size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from study.preflight.method_checks import ends_of_search
from study.spec.downstream import DownstreamSpec
from study.spec.downstream_data import ALL_CLASSES, generation_of
from trainables.errors import UserError
from trainables.evaluation.prepared_classes import LEFT_OUT, PreparedClasses, prepared_at, read_prepared
from trainables.methods.registry import BASE

if TYPE_CHECKING:
    from study.spec.study_spec import StudySpec
    from trainables.config.fields import SubjectConfig, TrainingConfig
    from trainables.models.prompt_lengths import PromptReader


def check_classes_of(spec: StudySpec) -> list[str]:
    """Returns every problem that would stop the downstream phase, or the runs that draw for it, one message each."""
    downstream = spec.downstream
    if downstream is None:
        return []
    prepared, problems = _data_set(downstream)
    problems += _classifier_problems(downstream, prepared)
    if prepared is not None:
        problems += _share_problems(downstream, prepared)
        problems += _confirm_problems(spec)
        problems += _drawing_problems(spec, downstream)
    return list(dict.fromkeys(problems))


def _data_set(downstream: DownstreamSpec) -> tuple[PreparedClasses | None, list[str]]:
    """The data set, if it is here, and what is wrong with its files: of one that is not here its subjects tell."""
    from trainables.evaluation.checked_classes import check_classes

    if downstream.prepared is None:
        return None, []
    prepared = None
    try:
        prepared = prepared_at(Path(downstream.prepared))
        check_classes(prepared)
    except UserError as error:
        return prepared, [f"downstream.dataset: {problem}" for problem in error.problems]
    return prepared, []


def _classifier_problems(downstream: DownstreamSpec, prepared: PreparedClasses | None) -> list[str]:
    from trainables.classifiers.networks import check_network

    classes = len(prepared.classes) if prepared is not None else 2
    return [
        f"downstream.classifiers: {problem}"
        for choice in downstream.classifiers
        for problem in check_network(choice.network, classes, downstream.resolution, choice.weights)
    ]


def _share_problems(downstream: DownstreamSpec, prepared: PreparedClasses) -> list[str]:
    from trainables.downstream.real_images import share_problem

    train, left_out = prepared.counts["train"], prepared.counts[LEFT_OUT]
    found = (share_problem(train, left_out, share) for share in downstream.real_shares)
    return [f"downstream.real_shares: {problem}" for problem in found if problem is not None]


def _confirm_problems(spec: StudySpec) -> list[str]:
    """Classes of which cells learn generated images, and that no run draws."""
    confirmed = set(spec.confirm.subjects or ())
    missing = [repr(subject.name) for subject in spec.subjects if subject.name not in confirmed]
    if not missing:
        return []
    return [
        f"confirm.subjects: leaves out {', '.join(missing)}, of which classifiers learn generated images that no other "
        "run draws; leave confirm.subjects out"
    ]


def _drawing_problems(spec: StudySpec, downstream: DownstreamSpec) -> Iterator[str]:
    """What is wrong with prompts; of a model that is not here only what needs none is known."""
    from trainables.models.families import family_in
    from trainables.models.folders import local_folder
    from trainables.models.prompt_lengths import pipeline_reader
    from trainables.run.generation_checks import negative_prompt_problems
    from trainables.run.prompt_checks import find_cut

    folder = local_folder(spec.model)
    family = family_in(folder) if folder is not None else None
    reader = pipeline_reader(folder) if folder is not None else None
    negative = downstream.negative_prompt
    yield from negative_prompt_problems(negative, downstream.guidance_scale, family, "downstream")
    if negative is not None and reader is not None:
        for problem in find_cut([negative], reader, spec.model.path):
            yield f"downstream.negative_prompt: {problem}"
    for name, subject in itertools.product(spec.arms, spec.subjects):
        for config in ends_of_search(spec, name):
            for problem in _prompt_problems(spec, name, subject, config, reader):
                yield f"arm {name!r}: downstream.dataset: {problem}"


def _prompt_problems(
    spec: StudySpec, arm: str, subject: SubjectConfig, config: TrainingConfig, reader: PromptReader | None
) -> list[str]:
    """Classes that an arm's method cannot be asked for; what is wrong with a subject's own prompts is told with it."""
    from trainables.data.subjects import prompts_of
    from trainables.run.generation_checks import cut_prompts, prompts_drawn

    assert spec.downstream is not None
    method = spec.arms[arm].method
    settings = generation_of(spec.downstream, subject.name, untrained=method == BASE)
    try:
        instance, class_prompt = prompts_of(subject)
        config = config.for_subject(instance, class_prompt)
    except UserError:
        return []
    prompts, problems = prompts_drawn(settings, method, config, instance, class_prompt)
    if subject.name == ALL_CLASSES and reader is not None:
        problems += [
            f"class {label!r}: {problem}"
            for label, prompt in prompts.items()
            for problem in cut_prompts([prompt], config, reader, spec.model.path)
        ]
    return problems


# ------------------------------------------------------------------ notes


def class_notes(spec: StudySpec) -> list[str]:
    """Returns what is allowed of the downstream phase, but makes results that say little, and notes on its split."""
    downstream = spec.downstream
    if downstream is None or downstream.prepared is None:
        return []
    prepared = prepared_at(Path(downstream.prepared))
    return [
        *(f"downstream.dataset: {note}" for note in prepared.notes),
        *_seed_notes(downstream),
        *_group_notes(downstream, prepared),
    ]


def _seed_notes(downstream: DownstreamSpec) -> list[str]:
    from study.statistics.downstream.comparison import MIN_SEEDS

    few = [
        f"downstream.{field} has {len(values)}"
        for field, values in (
            ("seeds", downstream.seeds),
            ("generator_seeds", downstream.generator_seeds),
        )
        if len(values) < MIN_SEEDS
    ]
    if not few:
        return []
    return [
        f"{' and '.join(few)}: fewer than {MIN_SEEDS} seeds show values, and give no intervals and no verdicts"
    ]


def _group_notes(downstream: DownstreamSpec, prepared: PreparedClasses) -> list[str]:
    """Further images of people or animals that are trained on already are worth less than those of others."""
    if not any(share > 1 for share in downstream.real_shares):
        return []
    data = read_prepared(prepared)
    trained, further = (
        {image.group for image in images if image.group} for images in (data.train, data.left_out)
    )
    if not trained & further:
        return []
    new = len(further - trained)
    said = (
        f"of the same {len(trained)} groups as those that are trained on, and none of another"
        if not new and further == trained
        else f"of {len(trained & further)} of the {len(trained)} groups that are trained on"
        + (f", and of {new} others" if new else ", and of no other")
    )
    return [
        f"downstream.real_shares: further real images are {said}; they are worth less than images of new groups "
        "would be"
    ]
