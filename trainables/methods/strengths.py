"""How strongly a model shows what it was taught: 0 is the base model, 1 as trained, and beyond.

Where weights were trained, or adapters that can be merged into weights, strength s means the weights
W + s (W' - W), of which W are the base model's and W' those after training. Of LoRA, LoHa and LoKr that is what
programs call the strength of an adapter; of DoRA and of adapters that rotate it is the strength of their merged
difference, so that 0 is always the base model. A word that was learnt beside them has no strength: it stays as it was
learnt, and 0 is then the base model that is asked by it. A method that knows strengths has a function
``with_strength(backbone, weights)`` beside those of the protocol; one that cannot have any says why in ``no_strength``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from trainables.methods.protocol import Method

Dial = Callable[[float], None]


def strength_obstacle(method: Method) -> str | None:
    """Returns why a method's training has no strength that can be turned; None if it has."""
    if hasattr(method, "with_strength"):
        return None
    unsaid = "it has no function with_strength" if method.trains else "it trains nothing"
    reason = getattr(method, "no_strength", unsaid)
    return f"{method.title} has no strength to be turned: {reason}; leave --strength out"


def between(weights: Iterable[tuple[nn.Parameter, torch.Tensor, torch.Tensor]]) -> Dial:
    """Returns what gives parameters the weights of a strength; of 0 and 1 bit by bit those that were given.

    Args:
        weights: Parameter, its value in the base model, its value after training.
    """
    import torch

    kept = [(parameter, base.clone(), trained.clone()) for parameter, base, trained in weights]

    @torch.no_grad()
    def turn(strength: float) -> None:
        for parameter, base, trained in kept:
            value = torch.lerp(base.float(), trained.float(), strength)
            parameter.data.copy_(value)

    return turn
