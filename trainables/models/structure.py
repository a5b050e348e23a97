"""What loaded modules are made of, so that a run can be shown to have given them back as they were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn


class Structure:
    """The make-up of some modules at one time: submodules, parameters and their types, hooks, modes. No values.

    Args:
        modules: By name; they are looked at when this is made.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._entries = _entries(modules)
        # An address says which object it was only for as long as that object lives.
        self._alive = [[*root.modules(), *root.parameters()] for root in modules.values()]

    def holds_for(self, modules: Mapping[str, nn.Module]) -> bool:
        """Whether modules are made up of the same objects in the same state."""
        return self._entries == _entries(modules)


def versions_of(module: nn.Module) -> list[int]:
    """Returns how often each parameter has been changed in place, as autograd counts it."""
    return [parameter._version for parameter in module.parameters()]


def kept_together(roots: Iterable[nn.Module]) -> Callable[[], None]:
    """Returns what puts modules together again as they are now, whatever is loaded into them until then.

    That is: submodules, parameters and buffers, hooks, attributes, and what configurations say. Tensors are held and
    not copied, so that one that is changed in place stays changed.
    """
    roots = list(roots)
    modules = {id(module): module for root in roots for module in root.modules()}
    held = [(vars(module), _shallow(vars(module))) for module in modules.values()]
    data = [(value, value.data, value.requires_grad) for root in roots for value in root.parameters()]
    configs = [vars(config) for root in roots if (config := vars(root).get("config")) is not None]
    said = [(content, dict(content)) for content in configs]

    def undo() -> None:
        for own, before in [*held, *said]:
            own.clear()
            own.update(_shallow(before))
        for parameter, tensor, trains in data:
            parameter.data = tensor
            parameter.requires_grad_(trains)

    return undo


def _shallow(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a module, with copies of the dictionaries in which it keeps its children, tensors and hooks."""
    plain = (dict, OrderedDict)  # a configuration of diffusers is of another type, and never changes
    return {key: value.copy() if type(value) in plain else value for key, value in attributes.items()}


def forget_adapters(module: nn.Module) -> None:
    """Takes away what PEFT, diffusers and transformers note on a module that has adapters; its layers stay."""
    for mark in ("peft_config", "_hf_peft_config_loaded"):
        vars(module).pop(mark, None)


def _entries(modules: Mapping[str, nn.Module]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for part, root in modules.items():
        for path, module in root.named_modules():
            name = f"{part}.{path}"
            found.append((name, *_of_module(module)))
            found += [(name, key, *_of_parameter(value)) for key, value in module._parameters.items()]
            found += [(name, key, *_of_tensor(value)) for key, value in module._buffers.items()]
    return found


def _of_module(module: nn.Module) -> tuple[Any, ...]:
    own = vars(module)
    hooks = {key: len(value) for key, value in own.items() if key.endswith("_hooks") and value}
    return (
        id(module),
        module.training,
        hooks,
        "forward" in own,  # wrapped by some library
        type(own.get("processor")),
        bool(own.get("gradient_checkpointing")),
        "peft_config" in own,
        bool(getattr(module, "_hf_peft_config_loaded", False)),
    )


def _of_parameter(value: torch.Tensor | None) -> tuple[Any, ...]:
    if value is None:
        return (None,)
    hooks = [value._backward_hooks, getattr(value, "_post_accumulate_grad_hooks", None)]
    return (
        id(value),
        *_of_tensor(value),
        value.requires_grad,
        value.grad is None,
        [len(kind or ()) for kind in hooks],
    )


def _of_tensor(value: torch.Tensor | None) -> tuple[Any, ...]:
    if value is None:
        return (None,)
    layouts = [value.is_contiguous()]
    if value.dim() == 4:
        layouts.append(value.is_contiguous(memory_format=torch.channels_last))
    return (value.dtype, value.device, tuple(value.shape), layouts)
