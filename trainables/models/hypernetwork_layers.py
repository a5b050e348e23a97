"""What the networks of a hypernetwork are made of, in AUTOMATIC1111's words; nothing here needs torch.

`layer_structure` lists widths as multiples of the context's, from input to output: 1,2,1 is a linear layer from d to 2d
and one from 2d to d. After each linear layer come, where wanted and in this order, the activation, a layer norm and
dropout; the last linear layer has neither activation (`activate_output`, which old files have, apart) nor dropout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Activations that A1111 and ComfyUI both know -> torch's classes. A1111's "swish" is Hardswish, and so is ComfyUI's.
SHARED_ACTIVATIONS = {
    "linear": "Identity",
    "relu": "ReLU",
    "leakyrelu": "LeakyReLU",
    "elu": "ELU",
    "swish": "Hardswish",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softsign": "Softsign",
    "mish": "Mish",
}
#: Those of files that A1111 can have trained: it knows torch's own by their names in small letters.
ACTIVATIONS = SHARED_ACTIVATIONS | {
    name.lower(): name
    for name in (
        "CELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LogSigmoid", "ReLU6", "SELU", "SiLU",
        "Softplus", "Softshrink", "Tanhshrink",
    )
}  # fmt: skip

LINEAR, ACTIVATION, NORM, DROPOUT = "linear", "activation", "norm", "dropout"


@dataclass(frozen=True)
class LayerPlan:
    """The layers of each network of a hypernetwork.

    Attributes:
        multipliers: Widths as multiples of the context's; the first and the last are 1.
        activation: A name of `ACTIVATIONS`; "linear" is none.
        layer_norm: A layer norm follows each linear layer, the last one too.
        activate_output: The activation follows the last linear layer too, as in A1111 before November 2022.
    """

    multipliers: tuple[float, ...] = (1.0, 2.0, 1.0)
    activation: str = "linear"
    layer_norm: bool = False
    activate_output: bool = False

    def layers(self, dropout: Sequence[float] = ()) -> list[tuple[str, int]]:
        """Returns the layers in order, each as its kind and the number of the linear layer that it belongs to.

        Args:
            dropout: A1111's dropout structure: the probability after each entry of `multipliers`; none by default.
        """
        found = []
        count = len(self.multipliers) - 1
        for number in range(count):
            found.append((LINEAR, number))
            if self.activation != "linear" and (number < count - 1 or self.activate_output):
                found.append((ACTIVATION, number))
            if self.layer_norm:
                found.append((NORM, number))
            if number + 1 < len(dropout) and dropout[number + 1] > 0:
                found.append((DROPOUT, number))
        return found

    def widths(self, context: int) -> tuple[int, ...]:
        """Returns the widths of layers for contexts of one width, rounded down as A1111 does."""
        return tuple(int(context * multiplier) for multiplier in self.multipliers)

    def problems(self, contexts: Iterable[int]) -> list[str]:
        """Returns what keeps such networks from being made for contexts of some widths, one message a problem."""
        return [
            f"layer_structure {text_of(self.multipliers)} has a layer without a unit for contexts of width {context}, "
            f"which are as wide as the model's; take multipliers of at least {1 / context:.3g}"
            for context in contexts
            if min(self.widths(context)) < 1
        ]


def multipliers_of(structure: object) -> tuple[float, ...]:
    """Returns the multipliers that a layer structure names, as text ("1,2,1") or as a list of numbers.

    Raises:
        ValueError: They do not begin and end with 1, or are no positive numbers.
    """
    pieces = structure.split(",") if isinstance(structure, str) else structure
    if not isinstance(pieces, list | tuple):
        raise ValueError(f"layer_structure takes text such as 1,2,1 or a list of numbers, got {structure!r}")
    try:
        found = tuple(float(piece) for piece in pieces)
    except (TypeError, ValueError):
        raise ValueError(
            f"layer_structure {structure!r} holds what is no number; write multiples of the context's width, for "
            "example 1,2,1"
        ) from None
    if not all(math.isfinite(value) and value > 0 for value in found):
        raise ValueError(
            f"layer_structure {structure!r} must hold positive numbers: multiples of the context's width, for "
            "example 1,2,1"
        )
    if len(found) < 2 or found[0] != 1 or found[-1] != 1:
        raise ValueError(
            f"layer_structure {structure!r} must begin and end with 1, because what the networks read and what they "
            "add have the width of the context; for example 1,2,1"
        )
    return found


def text_of(multipliers: Sequence[float]) -> str:
    """Returns a layer structure as text, e.g. "1,2,1"."""
    return ",".join(f"{value:g}" for value in multipliers)
