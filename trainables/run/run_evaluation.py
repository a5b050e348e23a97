"""All that is measured of a run's model: the images that it draws, and its loss on held-out images."""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainables.config.fields import TrainingConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.evaluator import Evaluation, Evaluator, evaluate, prepare_evaluation
from trainables.evaluation.metrics_table import HELD_OUT_LOSS
from trainables.models.backbone import Backbone
from trainables.run_config import RunConfig
from trainables.training.held_out_loss import HeldOutLoss, prepare_held_out_loss


@dataclass(frozen=True)
class RunEvaluation:
    """What a run's model is measured with; made by `prepare_run_evaluation`."""

    evaluator: Evaluator
    held_out_loss: HeldOutLoss

    def measure(self, backbone: Backbone, *, is_base: bool, final: bool) -> Evaluation:
        """Draws and scores images, and measures the loss; arguments: see `evaluate`."""
        result = evaluate(self.evaluator, backbone, is_base=is_base, final=final)
        return replace(
            result, metrics={**result.metrics, HELD_OUT_LOSS: self.held_out_loss.measure(backbone)}
        )


def prepare_run_evaluation(
    backbone: Backbone,
    subject: Subject,
    config: RunConfig,
    training: TrainingConfig,
    models: MetricModels,
    cache: Cache,
) -> RunEvaluation:
    """Prepares both while `backbone` is the base model.

    Args:
        training: Of the run, settled for the subject: it says by which words the subject is asked for.
    """
    spoken = training.reword(subject.instance_prompt)
    evaluator = prepare_evaluation(
        backbone, subject, config.evaluation, models, cache, config.seed, subject.resolution
    )
    loss = prepare_held_out_loss(
        backbone,
        subject,
        spoken,
        cache,
        config.seed,
        config.evaluation.batch_size,
        [training.reword(caption) for caption in subject.reference_captions],
    )
    return RunEvaluation(evaluator.spoken_of(spoken), loss)
