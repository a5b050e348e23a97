"""Networks before the projections to keys and values: what they compute, how often, beside what, and their removal."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from peft import LoraConfig
from torch import nn

from trainables.errors import UserError
from trainables.models.backbone import Backbone, enable_gradient_checkpointing
from trainables.models.hypernetwork_layers import ACTIVATIONS, SHARED_ACTIVATIONS, LayerPlan, multipliers_of
from trainables.models.hypernetworks import ContextNetwork, Hypernetwork, attention_widths, insert, remove

WIDTHS = {"cross": (16,), "self": (16, 32)}  # of the tiny model: both kinds have contexts of width 16


def drawn(widths: tuple[int, ...] = (16,), *, cross_only: bool = True, **options: Any) -> Hypernetwork:
    """Returns a hypernetwork that changes contexts by about as much as they are."""
    plan = options.pop("plan", LayerPlan((1, 2, 1), "tanh"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = Hypernetwork(widths, plan, cross_only=cross_only, **options)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made


def inputs(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, time steps, and contexts of text."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, 4, 4, 4, generator=generator)
    return latents, torch.full((rows,), 500), torch.randn(rows, 77, 16, generator=generator)


def output(denoiser: Any, *, by_position: bool = False) -> torch.Tensor:
    latents, steps, text = inputs()
    result = (
        denoiser(latents, steps, text)
        if by_position
        else denoiser(latents, steps, encoder_hidden_states=text)
    )
    return torch.as_tensor(result.sample)


class ByHand(AttnProcessor2_0):
    """Attention whose contexts are changed by matrices, written out; for tanh and two linear layers."""

    def __init__(self, hypernetwork: Hypernetwork, cross_only: bool) -> None:
        super().__init__()
        self.state = {name: value.detach() for name, value in hypernetwork.state_dict().items()}
        self.cross_only = cross_only

    def changed(self, context: torch.Tensor, role: str) -> torch.Tensor:
        begin = f"banks.{context.shape[-1]}.{role}.linear"
        hidden = context @ self.state[f"{begin}.0.weight"].T + self.state[f"{begin}.0.bias"]
        added = hidden.tanh() @ self.state[f"{begin}.2.weight"].T + self.state[f"{begin}.2.bias"]
        return context + added

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        keys = values = context
        if attn.is_cross_attention or not self.cross_only:
            keys, values = self.changed(context, "k"), self.changed(context, "v")
        heads = attn.heads

        def split(rows: torch.Tensor) -> torch.Tensor:
            return rows.unflatten(-1, (heads, -1)).transpose(1, 2)

        query, key, value = split(attn.to_q(hidden_states)), split(attn.to_k(keys)), split(attn.to_v(values))
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        return attn.to_out[0]((weights @ value).transpose(1, 2).flatten(2))


def test_widths_of_contexts(backbone: Backbone) -> None:
    assert attention_widths(backbone.denoiser) == WIDTHS
    assert attention_widths(backbone.vae) == {"cross": (), "self": ()}


@pytest.mark.parametrize("by_position", [False, True])
@pytest.mark.parametrize("cross_only", [True, False])
def test_attention_computes_what_is_written_out(
    cross_only: bool, by_position: bool, backbone: Backbone
) -> None:
    """Self-attention of the width of the text is left alone where only cross-attention is meant."""
    widths = (16,) if cross_only else (16, 32)
    hypernetwork = drawn(widths, cross_only=cross_only)
    denoiser = backbone.denoiser
    with torch.no_grad():
        base = output(denoiser)
        insert(denoiser, hypernetwork)
        ours = output(denoiser, by_position=by_position)
        remove(denoiser)
        denoiser.set_attn_processor(ByHand(hypernetwork, cross_only))
        torch.testing.assert_close(ours, output(denoiser), rtol=1e-4, atol=1e-5)
    assert (ours - base).abs().max() > 0.05


def test_each_kind_of_layer_comes_in_its_place() -> None:
    """Linear, activation, layer norm; after the last linear layer no activation."""
    network = ContextNetwork(4, LayerPlan((1, 2, 0.5, 1), "relu", layer_norm=True))
    kinds = [type(layer).__name__ for layer in network.linear]
    assert kinds == ["Linear", "ReLU", "LayerNorm", "Linear", "ReLU", "LayerNorm", "Linear", "LayerNorm"]
    assert [layer.out_features for layer in network.linear if isinstance(layer, nn.Linear)] == [8, 2, 4]
    context = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    hidden = context
    for layer in network.linear:
        hidden = layer(hidden)
    torch.testing.assert_close(network(context, 0.7), context + 0.7 * hidden)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name: str) -> None:
    network = ContextNetwork(4, LayerPlan((1, 1, 1), name))
    named = {"linear": [], "swish": ["Hardswish"]}.get(name, [ACTIVATIONS[name]])
    assert [type(each).__name__ for each in network.linear if not isinstance(each, nn.Linear)] == named


def test_dropout_is_of_hidden_layers_in_training_alone() -> None:
    network = ContextNetwork(8, LayerPlan((1, 4, 1)), dropout=0.5)
    with torch.no_grad():
        network.linear[1].weight.copy_(torch.ones(8, 32))
        network.linear[1].bias.zero_()
        network.linear[0].weight.zero_()
        network.linear[0].bias.fill_(1.0)
    context = torch.zeros(64, 8)
    assert torch.equal(network.eval()(context), torch.full((64, 8), 32.0))
    torch.manual_seed(0)
    sums = network.train()(context)
    assert (
        sums == sums[:, :1]
    ).all()  # all units of a row see the same hidden values: nothing is dropped after them
    assert sums.unique().numel() > 3
    assert (sums % 2 == 0).all()  # what is kept counts twice
    assert float(sums.detach().mean()) == pytest.approx(32, abs=3)


def count_calls(hypernetwork: Hypernetwork) -> Counter[str]:
    calls: Counter[str] = Counter()
    for name, module in hypernetwork.named_modules():
        if isinstance(module, ContextNetwork):
            key = name.removeprefix("banks.")
            module.register_forward_pre_hook(lambda *_, key=key: calls.update([key]))
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("gradients", [False, True])
def test_text_contexts_are_changed_once_a_forward_pass(
    gradients: bool, checkpointing: bool, backbone: Backbone
) -> None:
    denoiser = backbone.denoiser.train()
    layers = [layer for layer in denoiser.modules() if isinstance(layer, Attention)]
    cross = sum(layer.is_cross_attention for layer in layers)
    assert cross > 2
    hypernetwork = drawn((16, 32), cross_only=False)
    calls = count_calls(hypernetwork)
    insert(denoiser, hypernetwork)
    if checkpointing:
        enable_gradient_checkpointing(denoiser)
    own = Counter(f"{layer.cross_attention_dim}.k" for layer in layers if not layer.is_cross_attention)
    for _ in range(2):
        calls.clear()
        with torch.set_grad_enabled(gradients):
            result = output(denoiser)
        assert calls["16.k"] == calls["16.v"] == 1 + own["16.k"]  # of the text, and of self-attention as wide
        assert calls["32.k"] == own["32.k"]
        if gradients:
            result.square().sum().backward()
            again = 1 if checkpointing else 0  # self-attention is computed again, the text is not
            assert calls["16.k"] == 1 + own["16.k"] * (1 + again)


def gradients_of(denoiser: Any, hypernetwork: Hypernetwork) -> list[torch.Tensor]:
    hypernetwork.zero_grad()
    output(denoiser).square().sum().backward()
    return [parameter.grad.clone() for parameter in hypernetwork.parameters() if parameter.grad is not None]


def test_gradient_checkpointing_changes_no_gradient(backbone: Backbone) -> None:
    denoiser = backbone.denoiser.train()
    hypernetwork = drawn((16, 32), cross_only=False)
    insert(denoiser, hypernetwork)
    plain = gradients_of(denoiser, hypernetwork)
    enable_gradient_checkpointing(denoiser)
    recomputed = gradients_of(denoiser, hypernetwork)
    assert len(plain) == len(list(hypernetwork.parameters()))
    assert all(float(each.abs().max()) > 0 for each in plain)
    assert all(torch.equal(one, other) for one, other in zip(plain, recomputed, strict=True))


def test_two_passes_before_one_backward_pass(backbone: Backbone) -> None:
    """With checkpointing each finds its own contexts again, with its own dropout."""
    denoiser = backbone.denoiser.train()
    hypernetwork = drawn(dropout=0.5)
    insert(denoiser, hypernetwork)
    enable_gradient_checkpointing(denoiser)

    def sums(together: bool) -> list[torch.Tensor]:
        hypernetwork.zero_grad()
        torch.manual_seed(3)
        first = output(denoiser).sum()
        if not together:
            first.backward()
        second = output(denoiser).square().sum()
        (first + second if together else second).backward()
        return [
            parameter.grad.clone() for parameter in hypernetwork.parameters() if parameter.grad is not None
        ]

    for one, other in zip(sums(True), sums(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
def test_any_attention_processor_and_later_changes_of_it(processor: type, backbone: Backbone) -> None:
    denoiser = backbone.denoiser
    with torch.no_grad():
        base = output(denoiser)
        insert(denoiser, drawn())
        before = output(denoiser)
        denoiser.set_attn_processor(processor())
        torch.testing.assert_close(output(denoiser), before, rtol=1e-4, atol=1e-5)
    assert (before - base).abs().max() > 0.05


def add_lora(denoiser: Any) -> None:
    denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_k", "to_v"], init_lora_weights=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        for name, parameter in denoiser.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.5)
            if "lora_A" in name:
                nn.init.normal_(parameter, std=0.5)


@pytest.mark.parametrize("first", ["lora", "hypernetwork"])
def test_lora_before_or_after_reads_the_changed_context(first: str, backbone: Backbone) -> None:
    denoiser = backbone.denoiser
    hypernetwork = drawn()
    with torch.no_grad():
        if first == "lora":
            add_lora(denoiser)
            insert(denoiser, hypernetwork)
        else:
            insert(denoiser, hypernetwork)
            output(denoiser)
            add_lora(denoiser)
        ours = output(denoiser)
        layer = next(
            one for one in denoiser.modules() if isinstance(one, Attention) and one.is_cross_attention
        )
        text = inputs()[2]
        merged = layer.to_k.base_layer.weight + layer.to_k.get_delta_weight("default")
        keys = hypernetwork.changed(text, "k") @ merged.T
        torch.testing.assert_close(layer.to_k(text), keys, rtol=1e-4, atol=1e-5)
        # The same weights, merged, without a LoRA in the module tree.
        denoiser.fuse_lora()
        denoiser.unload_lora()
        torch.testing.assert_close(output(denoiser), ours, rtol=1e-4, atol=1e-5)


def test_it_trains_in_bfloat16_autocast_with_float32_weights(backbone: Backbone) -> None:
    denoiser = backbone.denoiser
    denoiser.to(torch.bfloat16)
    hypernetwork = drawn()
    insert(denoiser, hypernetwork)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output(denoiser).float().square().sum().backward()
    for parameter in hypernetwork.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert float(parameter.grad.abs().max()) > 0


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16])
def test_a_model_in_lower_precision_without_autocast(own: torch.dtype, backbone: Backbone) -> None:
    """Networks in float32 compute in float32; what they give has the model's type."""
    hypernetwork = drawn().to(own)
    context = inputs()[2].to(torch.bfloat16)
    changed = hypernetwork.changed(context, "k")
    assert changed.dtype == torch.bfloat16
    exact = drawn().changed(context.float(), "k")
    torch.testing.assert_close(changed.float(), exact, rtol=2e-2, atol=2e-2)


def test_fused_projections_are_refused(backbone: Backbone) -> None:
    denoiser = backbone.denoiser
    insert(denoiser, drawn())
    denoiser.fuse_qkv_projections()
    with pytest.raises(UserError, match=r"unfuse_qkv_projections\(\)"):
        output(denoiser)
    denoiser.unfuse_qkv_projections()
    output(denoiser)


def test_a_second_one_is_refused_and_the_first_stays(backbone: Backbone) -> None:
    insert(backbone.denoiser, drawn())
    before = output(backbone.denoiser)
    with pytest.raises(UserError, match="has a hypernetwork already"):
        insert(backbone.denoiser, drawn())
    assert torch.equal(output(backbone.denoiser), before)


def test_removal_leaves_the_model_as_it_was(backbone: Backbone) -> None:
    denoiser = backbone.denoiser
    with torch.no_grad():
        base = output(denoiser)
        hypernetwork = drawn((16, 32), cross_only=False)
        insert(denoiser, hypernetwork)
        add_lora(denoiser)
        output(denoiser)  # its hooks follow the LoRA
        denoiser.delete_adapters("default")
        remove(denoiser)
        remove(denoiser)  # nothing is left to be removed
        assert torch.equal(output(denoiser), base)
    assert not hasattr(denoiser, "hypernetwork")
    assert not [name for name, module in denoiser.named_modules() if module._forward_pre_hooks]
    insert(denoiser, hypernetwork)  # it may be used again


def test_a_copy_of_the_denoiser_computes_with_its_own_networks(backbone: Backbone) -> None:
    """As FSDP makes one."""
    denoiser = backbone.denoiser
    insert(denoiser, drawn((16, 32), cross_only=False))
    twin = copy.deepcopy(denoiser)
    with torch.no_grad():
        before = output(denoiser)
        assert torch.equal(output(twin), before)
        for parameter in twin.hypernetwork.parameters():
            parameter.zero_()
        assert torch.equal(output(denoiser), before)
        remove(denoiser)
        assert torch.equal(output(twin), output(denoiser))


def test_strength_may_be_changed_at_any_time(backbone: Backbone) -> None:
    denoiser = backbone.denoiser
    with torch.no_grad():
        base = output(denoiser)
        hypernetwork = drawn()
        insert(denoiser, hypernetwork)
        hypernetwork.strength = 0.0
        torch.testing.assert_close(output(denoiser), base, rtol=0, atol=0)


def test_starts() -> None:
    made = Hypernetwork([64, 16], LayerPlan((1, 2, 1), "relu", layer_norm=True), cross_only=True)
    assert list(made.banks) == ["16", "64"]
    context = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    made.start_at_zero()
    assert torch.equal(made.changed(context, "v"), context)
    made.start_as_a1111()
    changed = (made.changed(context, "v") - context).detach().abs().max()
    assert 1e-4 < float(changed) < 0.1  # the images, before the first step
    for network in made.networks():
        for layer in network.linear:
            if isinstance(layer, nn.Linear | nn.LayerNorm):
                assert float(layer.bias.abs().max()) == 0
                assert float(layer.weight.abs().max()) < 0.06
    wide = made.networks()[2].linear[0].weight
    assert float(wide.std()) == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("structure", ["1,2", "2,1", [1], "1", [2, 1, 2], "1,2,1,3"])
def test_a_structure_that_does_not_begin_and_end_with_1_is_refused(structure: object) -> None:
    with pytest.raises(ValueError, match=r"must begin and end with 1.*for example 1,2,1"):
        multipliers_of(structure)


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        ("1,0,1", "positive numbers"),
        ("1,-2,1", "positive numbers"),
        ("1,nan,1", "positive numbers"),
        ("1,inf,1", "positive numbers"),
        ("1,two,1", "no number"),
        ("1,,1", "no number"),
        ([1, None, 1], "no number"),
        ("", "no number"),
        (3, "takes text such as 1,2,1"),
    ],
)
def test_other_structures_that_are_none(structure: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        multipliers_of(structure)


def test_a_layer_without_a_unit_is_named() -> None:
    plan = LayerPlan(multipliers_of("1,0.01,1"))
    (problem,) = plan.problems([768, 32])
    assert "contexts of width 32" in problem
    assert "at least 0.0312" in problem
    assert plan.widths(768) == (768, 7, 768)


def test_both_programs_know_the_activations_that_train() -> None:
    assert set(SHARED_ACTIVATIONS) < set(ACTIVATIONS)
    assert len(SHARED_ACTIVATIONS) == 9
