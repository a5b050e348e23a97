"""All that is measured of a run's model: the images that it draws, and its loss on held-out images.

A run that restores its best step has it all twice: once for the result, and once, on other prompts, noise and held-out
images, for the evaluations that choose the step (``trainables/evaluation/choice.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from trainables.config.fields import TrainingConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject
from trainables.errors import UserError
from trainables.evaluation.choice import (
    CHOICE,
    choice_settings,
    choosing,
    evaluations_of,
    judging,
    shared_prompts,
)
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.evaluator import Evaluation, Evaluator, evaluate, prepare_evaluation
from trainables.evaluation.metrics_table import HELD_OUT_LOSS
from trainables.evaluation.prompts import evaluation_templates
from trainables.events import ALL_METRICS
from trainables.models.backbone import Backbone
from trainables.run_config import RunConfig
from trainables.training.held_out_loss import HeldOutLoss, prepare_held_out_loss


@dataclass(frozen=True)
class Judge:
    """What a model is measured with.

    Attributes:
        evaluator: Of its images; None where the loss alone is measured.
        held_out_loss: Of the model itself.
    """

    evaluator: Evaluator | None
    held_out_loss: HeldOutLoss


@dataclass(frozen=True)
class RunEvaluation:
    """What a run's model is measured with; made by `prepare_run_evaluation`.

    Attributes:
        evaluator: Of the result.
        held_out_loss: Of the result.
        choice: What chooses the step to restore, or None where none is restored.
    """

    evaluator: Evaluator
    held_out_loss: HeldOutLoss
    choice: Judge | None = None

    def evaluator_of(self, *, final: bool) -> Evaluator:
        """Returns what draws and scores the images of an evaluation at the end, or on the way."""
        between = self.choice.evaluator if self.choice is not None and not final else None
        return between or self.evaluator

    @property
    def chosen_by(self) -> str | None:
        """What chooses the step: the loss, or images and so all metrics (`ALL_METRICS`); None if none is restored."""
        if self.choice is None:
            return None
        return HELD_OUT_LOSS if self.choice.evaluator is None else ALL_METRICS

    def measure(
        self,
        backbone: Backbone,
        *,
        is_base: bool,
        final: bool,
        choosing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Evaluation:
        """Draws and scores images, and measures the loss; `is_base` and `final`: see `evaluate`.

        Args:
            choosing: Is entered around what chooses a step: around everything, around the loss, or not at all.
        """
        chosen_by = None if final else self.chosen_by
        loss = self.held_out_loss if self.choice is None or final else self.choice.held_out_loss
        with choosing() if chosen_by == ALL_METRICS else nullcontext():
            result = evaluate(self.evaluator_of(final=final), backbone, is_base=is_base, final=final)
        with choosing() if chosen_by is not None else nullcontext():
            value = loss.measure(backbone)
        return replace(result, metrics={**result.metrics, HELD_OUT_LOSS: value})

    def measure_for_choice(self, backbone: Backbone) -> dict[str, float | None]:
        """Returns what chooses a step, and no more: where it is the loss, no images are drawn."""
        assert self.choice is not None
        if self.choice.evaluator is None:
            return {HELD_OUT_LOSS: self.choice.held_out_loss.measure(backbone)}
        return self.measure(backbone, is_base=False, final=False).metrics

    def provenance(self) -> dict[str, Any]:
        """What every number of the result rests on, and what the step was chosen by, as JSON values."""
        content = self.evaluator.provenance()
        if self.choice is None:
            return content
        chosen_by = {"held_out_loss_rows": len(self.choice.held_out_loss.latents)}
        own = self.choice.evaluator
        return content | {CHOICE: chosen_by | (own.provenance() if own is not None else {})}


def prepare_run_evaluation(
    backbone: Backbone,
    subject: Subject,
    config: RunConfig,
    training: TrainingConfig,
    models: MetricModels,
    cache: Cache,
    *,
    chooses: bool = True,
) -> RunEvaluation:
    """Prepares all that is measured while `backbone` is the base model.

    Args:
        training: Of the run, settled for the subject: it says by which words the subject is asked for.
        chooses: Whether the run has steps to choose from; the base model has none, and is judged like the others.

    Raises:
        UserError: A step is to be chosen, and prompts or held-out images do not suffice to judge the result by others.
    """
    settings, spoken = config.evaluation, training.reword(subject.instance_prompt)
    choice = None

    def loss_on(held_out: Subject, stream: str) -> HeldOutLoss:
        captions = [training.reword(caption) for caption in held_out.reference_captions]
        return prepare_held_out_loss(
            backbone, held_out, spoken, cache, config.seed, settings.batch_size, stream, captions
        )

    if settings.restore_best is not None:
        parts = evaluations_of(subject, settings)
        if shared := shared_prompts(settings, [evaluation_templates(*part) for part in parts]):
            raise UserError(
                f"{shared[0]!r} would choose the best step and judge the result, which favours what was chosen by "
                "luck; take others in evaluation.prompts or evaluation.restore_best_prompts"
            )
        own, subject = choosing(subject), judging(subject)
        if chooses:
            by_images, drawn = choice_settings(settings), None
            if by_images is not None:
                drawn = prepare_evaluation(
                    backbone, own, by_images, models, cache, config.seed, own.resolution, CHOICE
                ).spoken_of(spoken)
            choice = Judge(drawn, loss_on(own, f"{CHOICE}/held-out"))
    evaluator = prepare_evaluation(
        backbone, subject, settings, models, cache, config.seed, subject.resolution
    )
    return RunEvaluation(evaluator.spoken_of(spoken), loss_on(subject, "held-out"), choice)
