"""What stays in memory from run to run in a warm process: base models and metric models, each loaded once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from trainables.config import EvaluationConfig, ModelConfig
from trainables.families import Backbone, load_backbone

if TYPE_CHECKING:
    from trainables.evaluation.encoders import MetricModels


class Resident:
    """Loaded models by what names them.

    Every run gives its backbone back as it was (`Backbone.restore`), so that the next one starts from the
    base model. A model that is asked for replaces others of its kind: memory holds one base model and one set
    of metric models.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def backbone(self, model: ModelConfig, device: torch.device) -> Backbone:
        """Returns the base model, loading it if it is not the one in memory."""
        backbone: Backbone = self._get(
            "backbone", (model, device.type, device.index), lambda: load_backbone(model, device)
        )
        return backbone

    def metric_models(self, config: EvaluationConfig, device: torch.device) -> MetricModels:
        """Returns the metric models of an evaluation, loading them if they are not those in memory."""
        from trainables.evaluation.encoders import load_metric_models

        identity = (config.image_encoder, config.clip, device.type, device.index)
        models: MetricModels = self._get(
            "metrics", identity, lambda: load_metric_models(config.image_encoder, config.clip, device)
        )
        return models

    def _get(self, kind: str, identity: Any, load: Any) -> Any:
        kept = self._kept.get(kind)
        if kept is not None and kept[0] == identity:
            return kept[1]
        self._kept.pop(kind, None)  # first, so that two models are never in memory together
        loaded = load()
        self._kept[kind] = (identity, loaded)
        return loaded
