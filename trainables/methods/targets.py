"""Which modules of a base model the names in `target_modules` mean, by PEFT's rule, and what is wrong with them."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from trainables.models.families import Part

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer
LINEAR, CONVOLUTION = "Linear", "Conv2d"


@dataclass(frozen=True)
class Layer:
    """A module of a model, as adapters see it.

    Attributes:
        kind: `LINEAR`, `CONVOLUTION`, or the module's class.
        inputs: Numbers that one output is computed from: features, or channels of a group times pixels of the kernel;
            0 for what is neither linear nor a convolution. `outputs` likewise.
        kernel: Sides of a convolution's kernel.
    """

    kind: str
    inputs: int = 0
    outputs: int = 0
    kernel: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """The rank that its weight has at most."""
        return min(self.inputs, self.outputs)

    @property
    def pointwise(self) -> bool:
        """Whether it mixes channels of a pixel alone."""
        return self.kind == LINEAR or (self.kind == CONVOLUTION and set(self.kernel) == {1})

    def __str__(self) -> str:
        if self.kind != CONVOLUTION:
            return self.kind
        return f"{self.kind} {'x'.join(map(str, self.kernel))}"


def fitting(layer: Layer, fits: str) -> bool:
    """Whether a layer is among ``convolutions`` (and linear layers), ``1x1 convolutions``, or ``linear layers``."""
    if fits == "convolutions":
        return layer.kind in (LINEAR, CONVOLUTION)
    return layer.pointwise if fits == "1x1 convolutions" else layer.kind == LINEAR


def target_problems(
    targets: str | Iterable[str],
    layers: Mapping[str, Layer],
    part: str,
    *,
    fits: str = "convolutions",
    words: Collection[str] | None = (),
) -> list[str]:
    """Returns what is wrong with target modules of one part of a model, one message a problem.

    Args:
        targets: Ends of modules' names, or one regular expression for whole names.
        layers: Modules by name, from `layers_of` or `layers_in`.
        part: What messages call it.
        fits: What the adapters can be put on at most, see `fitting`.
        words: What may stand for several modules by itself, for messages; None: the targets are such a word's.
    """
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return []
    lost, problems = [], []
    for entry in [targets] if isinstance(targets, str) else targets:
        matched = [name for name in layers if _matches(entry, name, is_pattern=isinstance(targets, str))]
        unfit = [name for name in matched if not fitting(layers[name], fits)]
        if not matched:
            lost.append(entry)
        elif unfit:
            problems.append(_unfit(entry, unfit, layers, part, fits))
    if not lost:
        return problems
    about = "" if words is None else _about_words(lost, targets, words)
    return [_lost(lost, layers, part, fits) + about, *problems]


def targeted(targets: str | Iterable[str], layers: Mapping[str, Layer], fits: str) -> dict[str, Layer]:
    """Returns the layers that target modules mean and that take adapters."""
    entries = [targets] if isinstance(targets, str) else list(targets)
    pattern = isinstance(targets, str)
    everything = isinstance(targets, str) and targets.lower() == ALL_LINEAR
    return {
        name: layer
        for name, layer in layers.items()
        if (everything and layer.kind == LINEAR)
        or (
            not everything
            and fitting(layer, fits)
            and any(_matches(entry, name, is_pattern=pattern) for entry in entries)
        )
    }


def layers_of(module: nn.Module) -> dict[str, Layer]:
    """Returns what each module inside a module is, by name."""
    return {name: _layer(child) for name, child in module.named_modules() if name}


def _layer(module: nn.Module) -> Layer:
    from torch import nn

    if isinstance(module, nn.Linear):
        return Layer(LINEAR, module.in_features, module.out_features)
    if isinstance(module, nn.Conv2d):
        return Layer(
            CONVOLUTION, module.weight[0].numel(), module.out_channels, tuple(map(int, module.kernel_size))
        )
    return Layer(type(module).__name__)


@functools.cache
def layers_in(folder: Path, part: Part) -> dict[str, Layer]:
    """Returns the same for a part of a model folder, of which it reads the configuration and no weights.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not one of the part's class; TypeError likewise.
    """
    import torch

    config = json.loads((folder / part.name / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # modules without memory
        return layers_of(part.make(config))


def _matches(entry: str, name: str, *, is_pattern: bool) -> bool:
    """The rule of `peft.tuners.tuners_utils.check_target_module_exists`."""
    if is_pattern:
        return re.fullmatch(entry, name) is not None
    return name == entry or name.endswith(f".{entry}")


def _lost(entries: list[str], layers: Mapping[str, Layer], part: str, fits: str) -> str:
    sound = sorted({_ending(name) for name, layer in layers.items() if fitting(layer, fits)})
    near = [match for entry in entries for match in difflib.get_close_matches(entry, sound, n=1)]
    hint = f"did you mean {' and '.join(map(repr, dict.fromkeys(near)))}? It" if near else "it"
    named = ", ".join(map(repr, entries))
    verb = "matches" if len(entries) == 1 else "match"
    return f"{named} {verb} no module of {part}; {hint} has: {', '.join(sound)}"


def _about_words(lost: list[str], targets: str | Iterable[str], words: Collection[str]) -> str:
    """What is to be known of names that stand for several modules, where one of them may have been meant."""
    words = [*words, ALL_LINEAR]
    near = [match for entry in lost for match in difflib.get_close_matches(entry, words, n=1)]
    if isinstance(targets, str):
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return (
            f". A text that is none of {', '.join(words)}{hint} is one regular expression for whole names of modules; "
            "write several names as a list, [to_q, to_v]"
        )
    return f". {near[0]!r} stands alone, without brackets" if near else ""


_NAMES = {
    "convolutions": "linear layers and convolutions",
    "1x1 convolutions": "linear layers and 1x1 convolutions",
    "linear layers": "linear layers",
}


def _unfit(entry: str, names: list[str], layers: Mapping[str, Layer], part: str, fits: str) -> str:
    number = f"{len(names)} modules" if len(names) > 1 else "a module"
    example = f"{names[0]} ({layers[names[0]]})"
    return f"{entry!r} matches {number} of {part} that cannot be adapted, such as {example}; name {_NAMES[fits]} only"


def _ending(name: str) -> str:
    """The end of a module's name, as one writes it in a list: its last part, with the one before a number."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
