"""How long a loaded pipeline takes to go from one trained subject to another.

What a service that draws many subjects waits for: weights of one are taken off, and those of the next are loaded from
their files. An adapter, embeddings or a hypernetwork go onto the base model that stays in memory; a whole model takes
the place of another.
"""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from trainables.methods.protocol import Method
from trainables.models.backbone import Backbone
from trainables.models.structure import kept_together

SWITCHES = 3  # of which the median counts
ENOUGH_SECONDS = 1.0  # after which no further switch is begun


def measure_switch(backbone: Backbone, method: Method, weights: Path) -> float:
    """Returns the median wall seconds of taking weights off a pipeline and loading weights from files onto it.

    Loaded are the run's own, as those of another subject would be: by `Method.load`, as by ``study generate``. They are
    loaded once before, since the first use of a loader is slower; the files are then in the system's cache. There are
    `SWITCHES` of them, fewer where they take long. Afterwards the model is what it was.

    Args:
        backbone: As the base model.
        weights: Folder that `Method.save` wrote.
    """
    slot = _Slot(backbone, method, weights)
    spans: list[float] = []
    try:
        slot.load()
        while len(spans) < SWITCHES and sum(spans) < ENOUGH_SECONDS:
            begin = time.perf_counter()
            slot.clear()
            slot.load()
            spans.append(time.perf_counter() - begin)
    finally:
        slot.clear()
    return statistics.median(spans)


class _Slot:
    """The pipeline around a base model, onto which trained weights are loaded, and off which they are taken again.

    Loaders of words change tokenizers in place, so that these are copied for each load; where the first load has added
    no word to one, it is left alone afterwards.
    """

    def __init__(self, backbone: Backbone, method: Method, weights: Path) -> None:
        self._backbone = backbone
        self._method = method
        self._weights = weights
        self._copied = backbone.family.tokenizers
        self._put_together = kept_together(backbone.modules.values())
        self._loaded: Any = None

    def load(self) -> None:
        """Puts the weights on the base model, or loads a whole one beside it, until the device has them."""
        pipeline, tokenizers = self._backbone.pipeline(), self._backbone.others
        for name in self._copied:
            setattr(pipeline, name, copy.deepcopy(tokenizers[name]))
        self._loaded = self._method.load(pipeline, self._weights).to(self._backbone.device)
        if self._backbone.device.type == "cuda":
            torch.cuda.synchronize(self._backbone.device)
        self._copied = tuple(
            name for name in self._copied if len(getattr(pipeline, name)) != len(tokenizers[name])
        )

    def clear(self) -> None:
        """Takes the weights off."""
        self._loaded = None
        self._put_together()
        for name in self._backbone.family.tokenizers:
            setattr(self._backbone.pipeline(), name, self._backbone.others[name])
