"""Types and sizes of the tiny runs that tests of training make."""

from __future__ import annotations

from collections.abc import Callable

from trainables.run_config import RunConfig
from trainables.training.loop import Trainer

RESOLUTION = 16

MakeConfig = Callable[..., RunConfig]

MakeTrainer = Callable[..., Trainer]

WITH_PRIOR = "+prior"  # after a method's name: with prior preservation
OF_KIND = ":"  # between a method's name and its kind of adapter
