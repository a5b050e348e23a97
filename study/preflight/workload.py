"""What the runs of a study have to do: images to draw, steps to train; pure counting, from the study alone.

Multiplied with what a probe has measured (`study.preflight.probe.Measured`) it gives the estimates of a plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search_spaces.schema import Categorical
from study.preflight.data_set_checks import prompt_count
from study.spec.sections import LENGTHS, SHARE
from study.storage.run_key import PHASES, Phase
from trainables.config.fields import (
    CLASS_IMAGES_AT_ONCE,
    HELD_OUT_IMAGES,
    HELD_OUT_LEVELS,
    IMAGES_AT_OTHER_STEPS,
    EvaluationConfig,
    images_on_the_way,
    latency_image_steps,
)
from trainables.data.data_sets import trigger_of
from trainables.evaluation.held_out_captions import PROMPTS
from trainables.methods.registry import BASE, method_config_class

if TYPE_CHECKING:
    from study.preflight.probe import Measured
    from study.spec.study_spec import StudySpec


@dataclass(frozen=True)
class Images:
    """Images of one phase.

    Attributes:
        final: Of the evaluation at the end of a run.
        between: Of all evaluations on the way of a run together, and of its end where its
            best step is chosen by images.
        base: That the base model draws for each pair of subject and seed.
        anchors: That the base model draws for each class.
        steps: Solver steps of each image.
        timed_steps: Of all images together that are drawn for one figure of latency.
        loss_steps: Solver steps of one image that take as long as the loss on held-out images of an evaluation, which
            has one row where a step of a guided image has two.
        at_other_steps: Of a run, drawn in other numbers of solver steps; `other_steps` are the solver steps of these.
        evaluations: Of a run: on the way, at its end, and of the end once more where its best step is chosen.
    """

    final: int
    between: int
    base: int
    anchors: int
    steps: int
    timed_steps: int
    loss_steps: int
    evaluations: int
    at_other_steps: int = 0
    other_steps: int = 0


def images_of(spec: StudySpec, phase: Phase) -> Images:
    """Returns the images of a phase of a study."""
    from trainables.evaluation.choice import choice_settings

    evaluation = spec.evaluation.of_phase(phase)
    templates = _prompts(spec, phase, evaluation)
    instance, classes = templates * evaluation.images_per_prompt, evaluation.num_class_images
    some, of_class = images_on_the_way(instance, classes, evaluation.images_between)
    on_the_way = len({at for at in evaluation.at if at < 1})
    between, base = (some + of_class) * on_the_way, templates + classes
    anchors = _anchors(spec, phase, evaluation, templates)
    chosen_by = choice_settings(evaluation)
    if chosen_by is not None:  # evaluations on the way are of other prompts, and the end is one of them
        own = _prompts(spec, phase, evaluation, chooses=True)
        each = images_on_the_way(own * evaluation.images_per_prompt, classes, evaluation.images_between)
        between, base = sum(each) * (on_the_way + 1), base + own + classes
        of_data_sets = any(
            subject.is_data_set for subject in spec.subjects
        )  # chosen by other held-out captions
        if of_data_sets or chosen_by.prompts != evaluation.prompts or evaluation.prompt_set != "search":
            anchors += _anchors(spec, phase, chosen_by, own)
    again = templates * min(evaluation.images_per_prompt, IMAGES_AT_OTHER_STEPS)
    return Images(
        final=instance + classes,
        between=between,
        base=base,
        anchors=anchors,
        steps=evaluation.num_inference_steps,
        timed_steps=latency_image_steps(evaluation.num_inference_steps),
        loss_steps=HELD_OUT_IMAGES * HELD_OUT_LEVELS // (2 if evaluation.guidance_scale > 1 else 1),
        evaluations=1 + on_the_way + (evaluation.restore_best is not None),
        at_other_steps=again * len(evaluation.inference_steps),
        other_steps=again * sum(evaluation.inference_steps),
    )


def _prompts(spec: StudySpec, phase: Phase, evaluation: EvaluationConfig, *, chooses: bool = False) -> int:
    """Prompts of a run's result, or those that choose its step; of that data set of the phase that has most, where
    their numbers differ.
    """
    names = (spec.search if phase == "search" else spec.confirm).subjects or ()
    counts = [prompt_count(spec.subject(name), evaluation, chooses=chooses) for name in names]
    return max(counts, default=0) or 1


def _anchors(spec: StudySpec, phase: Phase, evaluation: EvaluationConfig, prompts: int) -> int:
    """Images of the base model for the ends of the scales: of each prompt without the subject and of the class prompt
    alone, which data sets do not have; one without a trigger has as many of general prompts instead.
    """
    names = (spec.search if phase == "search" else spec.confirm).subjects or ()
    subjects = [spec.subject(name) for name in names]
    each = math.ceil(evaluation.anchor_images / prompts)
    if not any(subject.is_data_set for subject in subjects):
        return each * (prompts + 1)
    without_trigger = not all(map(trigger_of, subjects))
    general = PROMPTS[evaluation.prompt_set] if without_trigger else 0
    return each * prompts + (math.ceil(evaluation.anchor_images / general) * general if general else 0)


def once_image_steps(spec: StudySpec) -> tuple[float, float]:
    """Returns what is drawn once for all runs of a study: images, and images times solver steps.

    The anchors of each class and phase, the base model's images of each pair of subject and seed, and the class images
    of prior preservation.
    """
    images = image_steps = 0
    used: set[str] = set()
    for phase in PHASES:
        section = spec.search if phase == "search" else spec.confirm
        subjects = section.subjects or ()
        if not section.seeds or (phase == "search" and not any(map(spec.trials_of, spec.arms))):
            continue
        used |= set(subjects)
        each = images_of(spec, phase)
        count = len(_classes(spec, subjects)) * each.anchors
        count += len(subjects) * len(section.seeds) * each.base
        images, image_steps = images + count, image_steps + count * each.steps
    most = steps = 0
    for name, arm in spec.arms.items():
        config = method_config_class(arm.method).model_validate(spec.method_config(name, {}))
        if config.trains_on_class_images and arm.method != BASE:
            made = math.ceil(config.num_class_images / CLASS_IMAGES_AT_ONCE) * CLASS_IMAGES_AT_ONCE
            most, steps = max(most, made), max(steps, made * config.class_num_inference_steps)
    classes = len(_classes(spec, used))
    return images + classes * most, image_steps + classes * steps


def _classes(spec: StudySpec, subjects: Any) -> set[str]:
    """Class prompts of some subjects; those of the embedded world are called by class and number, data sets have none
    in common.
    """
    found = (spec.subject(name) for name in subjects)
    return {
        subject.name if subject.is_data_set else subject.class_prompt or subject.name.rpartition("-")[0]
        for subject in found
    }


def most_steps(spec: StudySpec, arm: str, cost: Measured | None) -> int | None:
    """Returns the optimizer steps of a run of an arm, the longest where it tunes its length; None where they depend on
    the cost of a step, which is not known.
    """
    if spec.arms[arm].method == BASE:
        return 0
    longest = {name: _ends(spec, arm, name)[1] for name in LENGTHS}
    limits = [longest["max_train_steps"]]
    for name, kind in (("max_train_flops", "flops"), ("max_train_seconds", "seconds")):
        if longest[name] is None:
            continue
        if cost is None or not getattr(cost, f"{kind}_per_step"):
            return None
        class_images = class_image_steps(spec, arm) * getattr(cost, f"{kind}_per_image_step")
        limits.append(max(0.0, longest[name] - class_images) / getattr(cost, f"{kind}_per_step"))
    share = _ends(spec, arm, SHARE)[1] or 1.0
    return int(share * min(limit for limit in limits if limit is not None))


def class_image_steps(spec: StudySpec, arm: str) -> int:
    """Returns the class images of a run of an arm times their solver steps: what comes out of its budget first."""
    config = method_config_class(spec.arms[arm].method).model_validate(spec.method_config(arm, {}))
    return config.num_class_images * config.class_num_inference_steps if config.trains_on_class_images else 0


def expected_share(spec: StudySpec, arm: str) -> float:
    """Returns how much of its longest run a run of an arm takes on average, before anything is known of what is good.

    The mean of a range that is drawn evenly, or evenly in its logarithm; 1 where the length is not tuned.
    """
    for name in (*LENGTHS, SHARE):
        dimension = spec.space(arm).parameters.get(name)
        if dimension is None:
            continue
        low, high = _ends(spec, arm, name)
        if isinstance(dimension, Categorical):
            numbers = [value for value in dimension.choices if isinstance(value, int | float)]
            return sum(numbers) / len(numbers) / high
        if dimension.log:
            return float((high - low) / math.log(high / low) / high)
        return float((low + high) / 2 / high)
    return 1.0


def _ends(spec: StudySpec, arm: str, name: str) -> tuple[Any, Any]:
    """Least and most that a training field is in an arm."""
    dimension = spec.space(arm).parameters.get(name)
    if dimension is None:
        value = spec.method_config(arm, {}).get(name)
        return value, value
    numbers = [value for value in dimension.probes() if isinstance(value, int | float)]
    return min(numbers), max(numbers)
