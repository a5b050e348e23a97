"""A denoiser as it was before training: what of it trains is put aside for a while, and nothing is computed twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import nn

Pairs = Sequence[tuple[nn.Parameter, torch.Tensor]]


def base_copies(
    parameters: Sequence[nn.Parameter],
    originals: Sequence[torch.Tensor],
    frozen: Mapping[nn.Parameter, torch.Tensor],
) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Returns the parameters that hold, or will hold, other numbers than the base model's, with those beside them.

    Copies are on the parameter's device, in its type and memory layout.

    Args:
        parameters: Of the base model's own.
        originals: Their base weights, wherever these lie; none where nothing is going to change.
        frozen: What some hold that do not train.
    """
    return [
        (parameter, torch.empty_like(parameter, requires_grad=False).copy_(original))
        for parameter, original in zip(parameters, originals, strict=len(originals) > 0)
        if parameter.requires_grad or (parameter in frozen and not torch.equal(frozen[parameter], original))
    ]


def copy_back(pairs: Iterable[tuple[nn.Parameter, torch.Tensor]]) -> None:
    """Gives parameters the values and types of originals, wherever these lie."""
    for parameter, original in pairs:
        if parameter.dtype == original.dtype:
            parameter.data.copy_(original)
        else:
            parameter.data = original.to(parameter.device, copy=True)


@contextmanager
def holding(pairs: Pairs) -> Iterator[None]:
    """Lets parameters hold other values, of the same type and layout, for as long as it lasts; nothing is copied."""
    kept = [parameter.data for parameter, _ in pairs]
    try:
        for parameter, value in pairs:
            parameter.data = value
        yield
    finally:
        for (parameter, _), value in zip(pairs, kept, strict=True):
            parameter.data = value


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and each of its modules back into the mode that it had."""
    training = [child for child in module.modules() if child.training]
    module.eval()
    try:
        yield
    finally:
        for child in training:
            child.training = True


@contextmanager
def without_cached_casts() -> Iterator[None]:
    """Keeps autocast from remembering the weights that it casts.

    It remembers them by parameter until its own context ends: a later forward pass would get those that a parameter
    held here, and without a gradient.
    """
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(enabled)
