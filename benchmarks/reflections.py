"""HRA's layers with their reflections multiplied in closed form, against PEFT's, in one process, taking turns.

A forward and a backward pass of one adapted linear layer inside a network (its inputs want gradients too), as wide as
layers of the embedded model and of Stable Diffusion are. The ratio is PEFT's time to ours, the median over the turns;
also how far either product of reflections is from that in double precision.

    python -m benchmarks.reflections [--width 64 320 1280] [--rank 8 32] [--tokens 256] [--turns 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def main() -> None:
    """Prints a line for each width and rank."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--width", type=int, nargs="+", default=[64, 320, 1280])
    parser.add_argument("--rank", type=int, nargs="+", default=[8, 32], help="even numbers of reflections")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    if odd := [rank for rank in options.rank if rank < 2 or rank % 2]:
        parser.error(f"--rank takes even numbers from 2 on, got {odd[0]}")

    import torch

    torch.set_num_threads(1)
    print(
        f"{'width':>6}{'rank':>6}{'PEFT, ms':>10}{'ours, ms':>10}{'ratio':>8}{'error, PEFT':>13}{'error, ours':>13}"
    )
    for width in options.width:
        for rank in options.rank:
            print(line(width, rank, options.tokens, options.turns), flush=True)


def line(width: int, rank: int, tokens: int, turns: int) -> str:
    """Measures one width and rank; the vectors are apart, as after some training."""
    import torch
    from peft import HRAConfig, inject_adapter_in_model
    from torch import nn

    from trainables.methods.reflections import multiply_at_once

    torch.manual_seed(0)
    vectors = torch.randn(width, rank)
    inputs, gradient = torch.randn(tokens, width).requires_grad_(), torch.randn(tokens, width)

    def layer() -> Any:
        model = nn.Sequential(nn.Linear(width, width).requires_grad_(False))
        inject_adapter_in_model(HRAConfig(r=rank, target_modules=["0"]), model)
        hra: Any = model[0]
        hra.hra_u["default"].data = vectors.clone()
        return hra

    def seconds(hra: Any) -> float:
        begin = time.perf_counter()
        hra(inputs).backward(gradient)
        return time.perf_counter() - begin

    theirs, ours = layer(), layer()
    multiply_at_once(ours)
    for hra in (theirs, ours):
        seconds(hra)
    pairs = [(seconds(theirs), seconds(ours)) for _ in range(turns)]
    medians = [1e3 * statistics.median(side) for side in zip(*pairs, strict=True)]
    exact = layer()
    exact.hra_u["default"].data = vectors.double()
    right = exact.get_delta_weight("default")
    errors = [
        float((hra.get_delta_weight("default").double() - right).abs().max().detach())
        for hra in (theirs, ours)
    ]
    ratio = statistics.median(a / b for a, b in pairs)
    return (
        f"{width:6}{rank:6}{medians[0]:10.2f}{medians[1]:10.2f}{ratio:8.1f}{errors[0]:13.1e}{errors[1]:13.1e}"
    )


if __name__ == "__main__":
    main()
