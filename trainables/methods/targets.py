"""Which modules of a base model the names in `target_modules` mean, by PEFT's rule, and what is wrong with them."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from trainables.models.families import Part

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer
LINEAR, CONVOLUTION = "Linear", "Conv2d"


def target_problems(
    targets: str | Iterable[str],
    kinds: Mapping[str, str],
    part: str,
    *,
    linear_only: bool = False,
    words: Collection[str] = (),
) -> list[str]:
    """Returns what is wrong with target modules of one part of a model, one message a problem.

    Args:
        targets: Ends of modules' names, or one regular expression for whole names.
        kinds: Name of each module -> its kind, from `kinds_of` or `kinds_in`.
        part: What messages call it.
        linear_only: The adapters cannot be put on convolutions.
        words: What may stand for several modules by itself; for messages.
    """
    if isinstance(targets, str) and targets.lower() == ALL_LINEAR:
        return []
    fit = (LINEAR,) if linear_only else (LINEAR, CONVOLUTION)
    lost, problems = [], []
    for entry in [targets] if isinstance(targets, str) else targets:
        matched = [name for name in kinds if _matches(entry, name, is_pattern=isinstance(targets, str))]
        unfit = [name for name in matched if kinds[name] not in fit]
        if not matched:
            lost.append(entry)
        elif unfit:
            problems.append(_unfit(entry, unfit, kinds, part, fit))
    told = [_lost(lost, kinds, part, fit) + _about_words(lost, targets, words)] if lost else []
    return told + problems


def kinds_of(module: nn.Module) -> dict[str, str]:
    """Returns the kind of each module inside a module, by name: `LINEAR`, `CONVOLUTION`, or its class."""
    from torch import nn

    kinds = {LINEAR: nn.Linear, CONVOLUTION: nn.Conv2d}
    return {
        name: next((kind for kind, of in kinds.items() if isinstance(child, of)), type(child).__name__)
        for name, child in module.named_modules()
        if name
    }


@functools.cache
def kinds_in(folder: Path, part: Part) -> dict[str, str]:
    """Returns the same for a part of a model folder, of which it reads the configuration and no weights.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not one of the part's class; TypeError likewise.
    """
    import torch

    config = json.loads((folder / part.name / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):  # modules without memory
        return kinds_of(part.make(config))


def _matches(entry: str, name: str, *, is_pattern: bool) -> bool:
    """The rule of `peft.tuners.tuners_utils.check_target_module_exists`."""
    if is_pattern:
        return re.fullmatch(entry, name) is not None
    return name == entry or name.endswith(f".{entry}")


def _lost(entries: list[str], kinds: Mapping[str, str], part: str, fit: Collection[str]) -> str:
    sound = sorted({_ending(name) for name, kind in kinds.items() if kind in fit})
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


def _unfit(entry: str, names: list[str], kinds: Mapping[str, str], part: str, fit: Collection[str]) -> str:
    number = f"{len(names)} modules" if len(names) > 1 else "a module"
    example = f"{names[0]} ({kinds[names[0]]})"
    what = "linear layers" if CONVOLUTION not in fit else "linear layers and convolutions"
    return f"{entry!r} matches {number} of {part} that cannot be adapted, such as {example}; name {what} only"


def _ending(name: str) -> str:
    """The end of a module's name, as one writes it in a list: its last part, with the one before a number."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]
