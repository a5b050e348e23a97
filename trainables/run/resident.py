"""What stays in memory from run to run in a warm process: base models and metric models, each loaded once."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from trainables.config.fields import EvaluationConfig, ModelConfig
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.contents import contents_of, digests

if TYPE_CHECKING:
    from trainables.evaluation.encoders import MetricModels

_LOGGER = logging.getLogger(__name__)


class Resident:
    """Loaded models by what names them.

    Every run gives its backbone back (`take_back`), so that the next one starts from the base model: the one in
    memory, if that is as it was loaded, or else one that is loaded anew. A model that is asked for replaces others
    of its kind: memory holds one base model and one set of metric models.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, Any]] = {}

    def backbone(self, model: ModelConfig, device: torch.device) -> Backbone:
        """Returns the base model, loading it if it, with the files that it has now, is not the one in memory."""
        identity = (model, device.type, device.index, digests(contents_of(None, model)))
        backbone: Backbone = self._get("backbone", identity, lambda: load_backbone(model, device))
        return backbone

    def take_back(self, backbone: Backbone, undo: Callable[[], None], *, sound: bool) -> None:
        """Makes a backbone the base model again after a run, or forgets it.

        Whatever goes wrong here is no fault of the run that has ended, and none of the next one: a backbone that
        cannot be put back is dropped from memory.

        Args:
            undo: Removes what the run has added to the modules.
            sound: The run has ended in a way that was provided for; else nobody knows what it has left behind.
        """
        clean = False
        try:
            if sound:
                undo()
                backbone.restore()
                clean = backbone.is_base_model()
                if not clean:
                    _LOGGER.warning("a run's model is not as it was loaded; the next run loads it anew")
        except Exception as error:
            _LOGGER.warning("a run's model could not be put back (%s: %s)", type(error).__name__, error)
        finally:
            if not clean:
                self.forget(backbone)

    def forget(self, model: Any) -> None:
        """Drops a model, so that it is loaded anew when it is asked for; nothing if it is not kept."""
        self._kept = {kind: kept for kind, kept in self._kept.items() if kept[1] is not model}

    def metric_models(self, config: EvaluationConfig, device: torch.device) -> MetricModels:
        """Returns the metric models of an evaluation, loading them if they are not those in memory."""
        from trainables.evaluation.encoders import load_metric_models

        names = {"image_encoder": config.image_encoder, "clip": config.clip}
        identity = (*names.values(), device.type, device.index, digests(contents_of(None, None, names)))
        models: MetricModels = self._get(
            "metrics", identity, lambda: load_metric_models(config.image_encoder, config.clip, device)
        )
        return models

    def _get(self, kind: str, identity: Any, load: Any) -> Any:
        kept = self._kept.get(kind)
        if kept is not None and kept[0] == identity:
            return kept[1]
        self._kept.pop(kind, None)  # first, so that two models are never in memory together
        gc.collect()  # modules and their hooks refer to each other
        loaded = load()
        self._kept[kind] = (identity, loaded)
        return loaded
