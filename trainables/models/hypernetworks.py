"""Hypernetworks: residual networks on the contexts of which a denoiser's attention layers make keys and values.

Instead of ``to_k(c)`` and ``to_v(c)`` a layer computes ``to_k(c + s * f_k(c))`` and ``to_v(c + s * f_v(c))``, where
f_k and f_v are two small networks, shared by all layers whose contexts are as wide (AUTOMATIC1111, 2022; no paper).
They stand before the projections by hooks, so that they work with any attention processor and beside LoRA adapters, put
on before or after: a LoRA on to_k reads the changed context, as its base layer does.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from trainables.errors import UserError
from trainables.models.cross_attention import attention_layers
from trainables.models.hypernetwork_layers import ACTIVATION, ACTIVATIONS, LINEAR, LayerPlan

NAME = "hypernetwork"  # the submodule of the denoiser
KEY, VALUE = "k", "v"  # A1111's order
_TEXT = "encoder_hidden_states"  # diffusers' name of a denoiser's text contexts
_SHARED = "shared_contexts"  # attribute of a tensor: what it has been turned into for all layers


class ContextNetwork(nn.Module):
    """c -> c + strength * f(c), with a small network f on each position of the context.

    Attributes:
        linear: The layers of f, dropout left out; parameters have A1111's names ``linear.<position>.weight|bias``.

    Args:
        width: Of contexts.
        plan: The layers.
        dropout: Probability with which outputs of hidden layers are zeroed in training.
    """

    def __init__(self, width: int, plan: LayerPlan, dropout: float = 0.0) -> None:
        super().__init__()
        widths, layers = plan.widths(width), plan.layers()
        self.linear = nn.Sequential(*(_layer(kind, number, widths, plan) for kind, number in layers))
        self._dropout = dropout
        last = max(number for _, number in layers)
        ends = {number: position for position, (_, number) in enumerate(layers) if number < last}
        self._ends_of_hidden_layers = frozenset(ends.values())

    def forward(self, context: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        """Returns the changed context [..., width], in the type of the given one."""
        hidden = context.to(self.last_affine.weight.dtype)
        for position, layer in enumerate(self.linear):
            hidden = layer(hidden)
            if self._dropout and position in self._ends_of_hidden_layers:
                hidden = F.dropout(hidden, self._dropout, self.training)
        return (context + strength * hidden).to(context.dtype)

    @property
    def last_affine(self) -> nn.Linear | nn.LayerNorm:
        """The last layer with parameters: where its weight and bias are 0, f is 0."""
        *_, last = (layer for layer in self.linear if isinstance(layer, nn.Linear | nn.LayerNorm))
        return last


def _layer(kind: str, number: int, widths: tuple[int, ...], plan: LayerPlan) -> nn.Module:
    if kind == LINEAR:
        return nn.Linear(widths[number], widths[number + 1])
    if kind == ACTIVATION:
        made: nn.Module = getattr(nn, ACTIVATIONS[plan.activation])()
        return made
    return nn.LayerNorm(widths[number + 1])


class Hypernetwork(nn.Module):
    """A pair of networks, for keys and for values, for each width of context that is changed.

    Attributes:
        banks: Width as text -> "k" and "v" -> `ContextNetwork`.
        cross_only: Layers of self-attention are left alone, whatever their width.
        strength: Factor on what the networks add; may be changed at any time.

    Args:
        widths: Of contexts.
        plan: The layers of each network.
        cross_only: See above.
        dropout: As of `ContextNetwork`.
        strength: See above.
    """

    def __init__(
        self,
        widths: Iterable[int],
        plan: LayerPlan,
        *,
        cross_only: bool,
        dropout: float = 0.0,
        strength: float = 1.0,
    ) -> None:
        super().__init__()
        self.banks = nn.ModuleDict(
            {
                str(width): nn.ModuleDict(
                    {role: ContextNetwork(width, plan, dropout) for role in (KEY, VALUE)}
                )
                for width in sorted(set(widths))
            }
        )
        self.plan = plan
        self.cross_only = cross_only
        self.strength = strength
        self._idle = False
        self._hooks: list[Any] = []

    def networks(self) -> list[ContextNetwork]:
        """Returns all networks, by width, keys before values."""
        return [module for module in self.modules() if isinstance(module, ContextNetwork)]

    def changed(self, context: torch.Tensor, role: str) -> torch.Tensor:
        """Returns a context as keys (role "k") or values ("v") are made of it."""
        if self._idle:
            return context
        network = self.banks[str(context.shape[-1])][role]  # type: ignore[index]
        result: torch.Tensor = network(context, self.strength)
        return result

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Leaves all contexts as they are for as long as it lasts, and computes nothing."""
        self._idle = True
        try:
            yield
        finally:
            self._idle = False

    @torch.no_grad()
    def start_at_zero(self) -> None:
        """Zeroes the last affine layer of each network, so that nothing is changed before the first step."""
        for network in self.networks():
            nn.init.zeros_(network.last_affine.weight)
            nn.init.zeros_(network.last_affine.bias)

    @torch.no_grad()
    def start_as_a1111(self) -> None:
        """Draws all weights, those of layer norms too, from a normal of deviation 0.01; biases are 0."""
        for network in self.networks():
            for layer in network.linear:
                if isinstance(layer, nn.Linear | nn.LayerNorm):
                    nn.init.normal_(layer.weight, mean=0.0, std=0.01)
                    nn.init.zeros_(layer.bias)


class _Shared:
    """What the text contexts of one forward pass become, computed once for all layers.

    Where gradients are wanted it is computed before the denoiser begins: outside the stretches that gradient
    checkpointing computes again. Elsewhere it is computed when the first layer asks, where offloading has the weights
    on the device by then.
    """

    def __init__(self, hypernetwork: Hypernetwork, context: torch.Tensor) -> None:
        self.owner = hypernetwork
        # Of the denoiser's argument, and not of the view that bears this object: the graph of autograd would hold the
        # view, and the view the graph.
        self._context = context
        self._known: dict[str, torch.Tensor] = {}
        if torch.is_grad_enabled():
            for role in (KEY, VALUE):
                self.get(role)

    def get(self, role: str) -> torch.Tensor:
        """Returns the changed context."""
        if role not in self._known:
            self._known[role] = self.owner.changed(self._context, role)
        return self._known[role]


class _BeforeDenoiser:
    """Hook: lets the text contexts of a forward pass bear a `_Shared`, which lives as long as they do."""

    def __init__(self, hypernetwork: Hypernetwork, position: int) -> None:
        self._hypernetwork = hypernetwork
        self._position = position

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        by_name = _TEXT in kwargs
        context = kwargs.get(_TEXT) if by_name else (args[self._position : self._position + 1] or (None,))[0]
        banks = self._hypernetwork.banks
        if not isinstance(context, torch.Tensor) or str(context.shape[-1]) not in banks:
            return None
        view = context.view_as(context)
        setattr(view, _SHARED, _Shared(self._hypernetwork, context))
        if by_name:
            return args, {**kwargs, _TEXT: view}
        return (*args[: self._position], view, *args[self._position + 1 :]), kwargs


class _BeforeAttention:
    """Hook of an attention layer: keeps the hooks on the modules that are its projections now.

    PEFT puts a module of its own in a projection's place and takes it away again, at any time.
    """

    def __init__(self, hypernetwork: Hypernetwork) -> None:
        self._hooks = {f"to_{role}": _BeforeProjection(hypernetwork, role) for role in (KEY, VALUE)}
        self._hooked: dict[str, tuple[nn.Module, Any]] = {}

    def __call__(self, module: Any, args: tuple[Any, ...]) -> None:
        # Not by `fused_projections`, which unfusing leaves as it is.
        if type(module.processor).__name__.startswith("Fused"):
            raise UserError(
                "a hypernetwork needs the projections to keys and values apart, and they are fused; call "
                "unfuse_qkv_projections() first"
            )
        self.follow(module)

    def follow(self, module: Any) -> None:
        """Hooks the projections of an attention layer that are not hooked yet."""
        for name, hook in self._hooks.items():
            projection = getattr(module, name)
            known = self._hooked.get(name)
            if known is not None and known[0] is projection:
                continue
            if known is not None:
                known[1].remove()
            self._hooked[name] = (projection, projection.register_forward_pre_hook(hook))

    def remove(self) -> None:
        """Takes the hooks off the projections."""
        for _, handle in self._hooked.values():
            handle.remove()
        self._hooked.clear()


class _BeforeProjection:
    """Hook of a projection to keys or values: changes the context that it is given."""

    def __init__(self, hypernetwork: Hypernetwork, role: str) -> None:
        self._hypernetwork = hypernetwork
        self._role = role

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        context, *others = args
        shared = getattr(context, _SHARED, None)
        if shared is not None and shared.owner is self._hypernetwork:
            return (shared.get(self._role), *others)
        return (self._hypernetwork.changed(context, self._role), *others)


def attention_widths(denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the widths of contexts in a denoiser: under "cross" those of cross-attention, under "self" the others."""
    found: dict[str, set[int]] = {"cross": set(), "self": set()}
    for _, layer in attention_layers(denoiser):
        found["cross" if layer.is_cross_attention else "self"].add(int(layer.cross_attention_dim))
    return {kind: tuple(sorted(widths)) for kind, widths in found.items()}


def insert(denoiser: nn.Module, hypernetwork: Hypernetwork) -> None:
    """Makes a hypernetwork a submodule of a denoiser, and its attention layers compute with it; `remove` undoes it.

    Raises:
        UserError: There is one already.
    """
    if hasattr(denoiser, NAME):
        raise UserError("the model has a hypernetwork already; remove it first (unload_hypernetwork)")
    hypernetwork.train(denoiser.training)
    denoiser.add_module(NAME, hypernetwork)
    names = list(inspect.signature(type(denoiser).forward).parameters)
    if _TEXT in names:
        before = _BeforeDenoiser(hypernetwork, names.index(_TEXT) - 1)  # without self
        hypernetwork._hooks.append(denoiser.register_forward_pre_hook(before, with_kwargs=True))
    for _, layer in attention_layers(denoiser):
        if hypernetwork.cross_only and not layer.is_cross_attention:
            continue
        if str(layer.cross_attention_dim) in hypernetwork.banks:
            hook = _BeforeAttention(hypernetwork)
            hypernetwork._hooks += [hook, layer.register_forward_pre_hook(hook)]
            hook.follow(layer)


def remove(denoiser: nn.Module) -> None:
    """Takes a hypernetwork out of a denoiser, which then is what it was before; nothing if there is none."""
    hypernetwork = getattr(denoiser, NAME, None)
    if isinstance(hypernetwork, Hypernetwork):
        while hypernetwork._hooks:
            hypernetwork._hooks.pop().remove()
        delattr(denoiser, NAME)


def make_from(
    plan: LayerPlan, tensors: Mapping[str, torch.Tensor], *, cross_only: bool, strength: float
) -> Hypernetwork:
    """Returns a frozen hypernetwork with given weights, in float32.

    Args:
        tensors: ``<width>.<k|v>.linear.<position>.<weight|bias>``.

    Raises:
        ValueError: The tensors are not those of the plan.
    """
    try:
        widths = sorted({int(name.split(".")[0]) for name in tensors})
    except ValueError:
        raise ValueError("names of tensors do not begin with the width of a context") from None
    if not widths or plan.problems(widths):
        raise ValueError("; ".join(plan.problems(widths)) or "it holds no weights")
    with torch.device("meta"):  # draws no random numbers
        made = Hypernetwork(widths, plan, cross_only=cross_only, strength=strength)
    floats = {name: value.detach().to(torch.float32) for name, value in tensors.items()}
    try:
        made.banks.load_state_dict(floats, assign=True)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split("\n\t")[1:]) or str(error)) from None
    made.requires_grad_(False)
    return made.eval()
