"""The weights that a run is judged by: the trained ones, or their moving average, in one ordinary model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainables.distributed.fsdp import parameters_of
from trainables.models.backbone import Backbone
from trainables.training.loop import Trainer
from trainables.training.meter import Meter


@contextmanager
def averaged(trainer: Trainer | None, meter: Meter) -> Iterator[None]:
    """Puts the moving average in the place of the weights, where there is one; a shared model is put together."""
    if trainer is not None and trainer.shards is not None:
        with meter.measure("evaluate"):
            trainer.show_whole()
        try:
            yield
        finally:
            with meter.measure("evaluate"):
                trainer.shards.park()
        return
    if trainer is None or trainer.average is None:
        yield
        return
    trainer.average.store(trainer.parameters.values())
    trainer.average.copy_to(trainer.parameters.values())
    try:
        yield
    finally:
        trainer.average.restore(trainer.parameters.values())


def judged_weights(trainer: Trainer | None, backbone: Backbone | None) -> dict[str, torch.Tensor]:
    """Returns what is judged inside `averaged`, by name of parameter; the tensors are those of the model itself.

    Args:
        backbone: The ordinary model of the process that leads.
    """
    assert trainer is not None
    assert backbone is not None
    whole = parameters_of(backbone)
    return {name: whole[name] for name in trainer.parameters}
