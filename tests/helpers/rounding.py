"""How far rounding carries runs of one configuration apart, measured on this processor by a second order of summation.

Whatever adds up the same gradients in another order (more processes, other buckets, another processor's kernels)
ends near the run of one process, not at it. How near depends on the processor, the precision and the number of steps,
so that no fixed tolerance is right everywhere: the same run is trained once more in one process, with each step's
gradient summed over parts of the batch, last part first, and its distance is the yardstick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainables.events import read_events
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training import loop
from trainables.training.batches import Batch

#: How many times the distance of the second order of summation another order may have. A wrong reduction, one member's
#: part off by 1 %, has several hundred times in float32 (`test_a_fault_of_one_percent_in_the_exchange_is_seen`).
ORDERS = 10.0


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """Everything that a run has trained, by file and name."""
    folder = Path(config.output_dir) / "weights"
    files = sorted(folder.rglob("*.safetensors"))
    assert files, f"no weights in {config.output_dir}"
    return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


def told(config: RunConfig, kind: str, field: str) -> list[float]:
    """A number that the run's events of a kind have told, one after the other."""
    return [event.data[field] for event in read_events(Path(config.output_dir)) if event.kind == kind]


def apart(config: RunConfig, other: RunConfig, start: RunConfig) -> float:
    """The distance of two runs' weights (L2, all together), in units of how far training has moved `other`.

    The largest difference of a single weight is no measure: a weight whose gradient is nothing but rounding moves by
    whole steps of Adam in either direction.
    """
    ours, theirs, before = weights(config), weights(other), weights(start)
    assert ours.keys() == theirs.keys() == before.keys()
    difference = sum(float((ours[name].double() - theirs[name]).square().sum()) for name in ours)
    movement = sum(float((theirs[name].double() - before[name]).square().sum()) for name in ours)
    assert movement > 0, "nothing has been trained, so that there is nothing to be the same"
    return float((difference / movement) ** 0.5)


class Yardstick:
    """What a run that one process has trained is compared with.

    Attributes:
        spread: How far apart another order of summation has ended (see `apart`).

    Args:
        alone: The run, which has ended.
        size: Parts of the batch in the second order.
    """

    def __init__(self, alone: RunConfig, size: int, resident: Resident | None = None) -> None:
        self.alone = alone
        self._start = _like(alone, "start", {"max_train_steps": 1, "learning_rate": 1e-12})
        self._other = _like(alone, f"in-{size}-parts", {})
        list(execute(self._start, resident))
        with _summed_in_parts(size):
            list(execute(self._other, resident))
        self.spread = apart(self._other, alone, self._start)

    def distance(self, config: RunConfig) -> float:
        """How far a run has ended from the one of one process, in units of the spread: about 1 for rounding."""
        return apart(config, self.alone, self._start) / self.spread

    def assert_same(self, config: RunConfig) -> None:
        """The run is the one of one process, but for rounding: weights, losses and gradient norms."""
        assert self.distance(config) < ORDERS, config.output_dir
        for field in ("loss", "gradient_norm"):
            expected, other = (told(run, "progress", field) for run in (self.alone, self._other))
            rounding = max(abs(a - b) / abs(b) for a, b in zip(other, expected, strict=True))
            # One unit in the last place of float32, if the second order of summation happens to give the same.
            tolerance = ORDERS * max(rounding, torch.finfo(torch.float32).eps)
            assert told(config, "progress", field) == pytest.approx(expected, rel=tolerance), field


def _like(config: RunConfig, name: str, training: dict[str, float]) -> RunConfig:
    content = config.model_dump(mode="json")
    content["training"] |= training
    content["output_dir"] += f"-{name}"
    return RunConfig.model_validate(content)


@contextmanager
def _summed_in_parts(size: int) -> Iterator[None]:
    """Lets each step's loss, and so its gradient, be the sum over so many parts of the batch, the last part first."""
    original = loop.batch_loss

    def batch_loss(trainer: loop.Trainer, batch: Batch) -> torch.Tensor:
        parts = [original(trainer, batch.part(rank, size)) for rank in reversed(range(size))]
        return torch.stack(parts).sum()

    loop.batch_loss = batch_loss
    try:
        yield
    finally:
        loop.batch_loss = original
