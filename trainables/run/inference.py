"""What the result of a run costs its users: time and memory of drawing with it, and time of changing it for another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from trainables.evaluation.inference_memory import measure_inference_memory
from trainables.evaluation.latency import measure_latency
from trainables.evaluation.protocol import Protocol
from trainables.evaluation.switching import measure_switch
from trainables.methods.protocol import Method
from trainables.models.backbone import Backbone

Costs = dict[str, float | None]

_LOGGER = logging.getLogger(__name__)
_DRAWING = (
    "image_latency_seconds",
    "image_latency_fused_seconds",
    "inference_bytes",
    "inference_fused_bytes",
)
_SWITCH = "switch_seconds"

#: Of a run that has not come to its end.
UNMEASURED: Costs = dict.fromkeys((*_DRAWING, _SWITCH))


def drawing_costs(backbone: Backbone, method: Method, protocol: Protocol) -> Costs:
    """Returns what drawing with the model as it is now costs, with adapters beside the weights and merged."""
    latency, memory = measure_latency(backbone, method, protocol), measure_inference_memory(backbone, method)
    return dict(zip(_DRAWING, (latency.beside, latency.fused, memory.beside, memory.fused), strict=True))


def switching_cost(backbone: Backbone, method: Method, weights: Path, undo: Callable[[], None]) -> Costs:
    """Returns how long it takes to go from one subject's weights to another's, and leaves the model the base model.

    None for it where the model is not the base model again, or the weights do not fit into memory beside it: the result
    of the run has been measured, and does not hang on that.

    Args:
        weights: Folder of the run's weights.
        undo: Removes what the run has added to the modules.

    Raises:
        OSError: The weights cannot be read.
    """
    try:
        undo()
        backbone.restore()
        if backbone.is_base_model():
            return {_SWITCH: measure_switch(backbone, method, weights)}
    except OSError:
        raise
    except Exception as error:
        _LOGGER.warning("%s could not be measured (%s: %s)", _SWITCH, type(error).__name__, error)
    return {_SWITCH: None}
