"""What a run draws and how AdamW steps, written out without any code of the project, and whether a run trained so.

A difference of a hundredth in a rate, a decay that is lost, another limit of gradients or other moments show where
nothing hides them: the other run is in float64, `disturb` lets no number begin at zero, which no decay changes, and an
epsilon about as large as the gradients neither lets their rounding choose the direction of a step nor drowns them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

SHARE = 3e-4  # rounding of float32 comes to 6e-5


def stream(name: str, subject: str = "cat", seed: int = 0) -> torch.Generator:
    """The stream of that name of a run."""

    def number(text: str) -> int:
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1

    return torch.Generator().manual_seed(number(f"{number(f'{seed}/subject/{subject}')}/{name}"))


@dataclass
class Adam:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2) after clipping by the norm of all gradients.

    Attributes:
        rate: Of all parameters, or one for each.
    """

    parameters: Sequence[torch.Tensor]
    rate: float | Sequence[float]
    decay: float
    clip: float
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    step: int = 0
    first: list[torch.Tensor] = field(init=False)
    second: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.first = [torch.zeros_like(value) for value in self.parameters]
        self.second = [torch.zeros_like(value) for value in self.parameters]

    @torch.no_grad()
    def update(self, gradients: Sequence[torch.Tensor | None]) -> None:
        """Does one step; a parameter without a gradient, on which nothing of the loss hangs, stays as it is."""
        known = [gradient for gradient in gradients if gradient is not None]
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in known))
        scale, (one, two) = min(1.0, self.clip / (norm + 1e-6)), self.betas
        self.step += 1
        rates = [self.rate] * len(self.parameters) if isinstance(self.rate, float) else self.rate
        for value, rate, first, second, gradient in zip(
            self.parameters, rates, self.first, self.second, gradients, strict=True
        ):
            if gradient is None:
                continue
            gradient = gradient * scale
            first.mul_(one).add_(gradient, alpha=1 - one)
            second.mul_(two).add_(gradient.square(), alpha=1 - two)
            value.mul_(1 - rate * self.decay)
            mean, square = first / (1 - one**self.step), second / (1 - two**self.step)
            value.sub_(rate * mean / (square.sqrt() + self.epsilon))


@torch.no_grad()
def disturb(parameters: Mapping[str, torch.Tensor]) -> None:
    """Adds noise to what trains, in place."""
    draws = torch.Generator().manual_seed(5)
    for value in parameters.values():
        value += 0.05 * torch.randn(value.shape, generator=draws)


@torch.no_grad()
def check_trained(
    trained: Mapping[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    began: Mapping[str, torch.Tensor],
    share: float = SHARE,
) -> None:
    """Compares what a run has trained with what it should have, parameter by parameter.

    Args:
        began: Both before the first step.
        share: Of the longest way that a number of the parameter went, by which none may be off.

    Raises:
        AssertionError: With every parameter that has not moved, or that is off, and by which share.
    """
    assert list(trained) == list(expected) == list(began)
    ways = {name: float((value - began[name]).abs().max()) for name, value in expected.items()}
    assert all(ways.values()), [name for name, way in ways.items() if not way]
    errors = {name: float((trained[name] - value).abs().max()) for name, value in expected.items()}
    off = {name: error / ways[name] for name, error in errors.items() if error > share * ways[name]}
    assert not off, f"{len(off)} of {len(ways)} parameters are off: {off}"
