"""How many floating-point operations a call takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def count_flops(step: Callable[[], Any]) -> int:
    """Returns the operations of matrix products and convolutions in a call, backward pass included.

    Attention is run in its plain form, whose products are all counted: fused kernels differ between machines, and the
    CPU's is not counted at all.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        step()
    return int(counter.get_total_flops())
