"""Files of hypernetworks: ours and A1111's, who reads them how, and what is refused; the loader for pipelines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from benchmarks.support.tiny_models import make_tiny_model
from study import load_hypernetwork
from tests.helpers import hypernetwork_readers as readers
from tests.helpers.training_runs import MakeTrainer
from trainables.errors import UserError
from trainables.methods.hypernetwork import METHOD
from trainables.methods.hypernetwork_files import (
    StoredHypernetwork,
    read_hypernetwork,
    stored_of,
    unload_hypernetwork,
    write_a1111,
    write_hypernetwork,
)
from trainables.methods.registry import get_method
from trainables.models.hypernetwork_layers import SHARED_ACTIVATIONS, LayerPlan
from trainables.models.hypernetworks import Hypernetwork, insert, make_from
from trainables.training.loop import train_step

DOCS = Path(__file__).parents[3] / "docs" / "methods.md"


def stored(
    plan: LayerPlan, widths: tuple[int, ...] = (16,), *, cross_only: bool = False
) -> StoredHypernetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = Hypernetwork(widths, plan, cross_only=cross_only)
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.4)
    return StoredHypernetwork(
        plan, cross_only, {name: value.detach() for name, value in made.banks.state_dict().items()}
    )


def ours(content: StoredHypernetwork, context: torch.Tensor) -> list[torch.Tensor]:
    made = make_from(content.plan, content.tensors, cross_only=content.cross_only, strength=1.0)
    return [made.changed(context, role) for role in ("k", "v")]


def theirs(pair: readers.Pair, context: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [context + network(context) for network in pair]


def contexts(width: int) -> torch.Tensor:
    return torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))


def assert_equal(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


# ------------------------------------------------------------------ our own file


@pytest.mark.parametrize("cross_only", [True, False])
def test_our_file_says_what_it_holds(cross_only: bool, tmp_path: Path) -> None:
    written = stored(LayerPlan((1, 2, 0.5, 1), "swish", layer_norm=True), (16, 32), cross_only=cross_only)
    written = StoredHypernetwork(written.plan, cross_only, written.tensors, (32, 64))
    path = tmp_path / "hypernetwork.safetensors"
    write_hypernetwork(path, written)
    read = read_hypernetwork(path)
    assert (read.plan, read.cross_only, read.widths, read.self_widths) == (
        written.plan,
        cross_only,
        (16, 32),
        (32, 64),
    )
    assert all(torch.equal(read.tensors[name], value) for name, value in written.tensors.items())
    with safe_open(path, "pt") as file:
        assert file.metadata() == {
            "study.format": "hypernetwork",
            "study.version": "1",
            "study.layer_structure": "1,2,0.5,1",
            "study.activation_func": "swish",
            "study.is_layer_norm": "true",
            "study.activate_output": "false",
            "study.attention_layers": "cross" if cross_only else "all",
            "study.self_attention_widths": "32,64",
        }
        names = set(file.keys())
    positions = (0, 2, 3, 5, 6, 7)  # 1 and 4 are activations
    assert names == {
        f"{width}.{role}.linear.{position}.{kind}"
        for width in (16, 32)
        for role in "kv"
        for position in positions
        for kind in ("weight", "bias")
    }


def test_equal_weights_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        write_hypernetwork(tmp_path / name, stored(LayerPlan(), (16, 32)))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_strength_of_the_training_is_in_the_weights(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    for norm in (False, True):
        fields = {"strength": 0.6, "add_layer_norm": norm, "weight_initialization": "normal"}
        trainer = make_trainer("hypernetwork", **fields)
        context = contexts(16)
        wanted = [trainer.backbone.denoiser.hypernetwork.changed(context, role) for role in ("k", "v")]
        METHOD.save(trainer.backbone, trainer.config, tmp_path / str(norm))
        found = read_hypernetwork(tmp_path / str(norm) / "hypernetwork.safetensors")
        assert_equal(ours(found, context), wanted)
        assert found.self_widths == (16, 32)


# ------------------------------------------------------------------ A1111's file


@pytest.mark.parametrize("activation", SHARED_ACTIVATIONS)
@pytest.mark.parametrize("structure", [(1, 2, 1), (1, 2, 2, 1), (1, 0.5, 1)])
def test_a1111_and_comfyui_compute_what_we_do(
    structure: tuple[float, ...], activation: str, tmp_path: Path
) -> None:
    content, path = stored(LayerPlan(structure, activation), (16, 32)), tmp_path / "cat.pt"
    assert write_a1111(path, content) == []
    comfyui = readers.comfyui(path)
    assert comfyui is not None
    for width in (16, 32):
        context = contexts(width)
        wanted = ours(content, context)
        assert_equal(theirs(readers.a1111(path)[width], context), wanted)
        assert_equal(theirs(comfyui[width], context), wanted)
    assert_equal(ours(read_hypernetwork(path), contexts(32)), ours(content, contexts(32)))


def test_every_key_of_a1111_is_written(tmp_path: Path) -> None:
    path = tmp_path / "cat.pt"
    write_a1111(path, stored(LayerPlan((1, 2, 1), "relu")), name="tabby", step=400)
    content = torch.load(path, weights_only=True)
    pair = content.pop(16)
    assert isinstance(pair, tuple)
    assert [list(state) for state in pair] == [
        ["linear.0.weight", "linear.0.bias", "linear.2.weight", "linear.2.bias"]
    ] * 2
    assert content == {
        "step": 400,
        "name": "tabby",
        "layer_structure": [1.0, 2.0, 1.0],
        "activation_func": "relu",
        "is_layer_norm": False,
        "weight_initialization": None,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
        "activate_output": False,
        "use_dropout": False,
        "dropout_structure": [0.0, 0.0, 0.0],
        "last_layer_dropout": False,
        "optional_info": None,
    }


def test_layer_norm_is_a_note_where_comfyui_computes_something_else(tmp_path: Path) -> None:
    path, context = tmp_path / "cat.pt", contexts(16)
    for activation, differs in (("linear", False), ("relu", True)):
        content = stored(LayerPlan((1, 2, 1), activation, layer_norm=True))
        notes = write_a1111(path, content)
        wanted, comfyui = ours(content, context), readers.comfyui(path)
        assert_equal(theirs(readers.a1111(path)[16], context), wanted)
        assert comfyui is not None
        other = theirs(comfyui[16], context)
        assert bool(notes) == differs == (not torch.allclose(other[0], wanted[0], atol=1e-4))
    assert "ComfyUI will give other images" in notes[0]


def test_what_was_trained_with_dropout_is_exported_without(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """ComfyUI leaves dropout on when images are drawn; positions count as if there had been none."""
    trainer = make_trainer("hypernetwork", dropout=0.5, attention_layers="all", learning_rate=1e-2)
    for _ in range(3):
        train_step(trainer)
    content, path, context = stored_of(trainer.backbone.denoiser), tmp_path / "cat.pt", contexts(16)
    assert write_a1111(path, content) == []
    trainer.backbone.denoiser.eval()
    with torch.no_grad():
        wanted = [trainer.backbone.denoiser.hypernetwork.changed(context, role) for role in ("k", "v")]
    comfyui = readers.comfyui(path)
    assert comfyui is not None
    for reader in (readers.a1111(path), comfyui):
        assert_equal(theirs(reader[16], context), wanted)


def test_an_activation_that_comfyui_does_not_know_is_a_note(tmp_path: Path) -> None:
    content, path = stored(LayerPlan((1, 2, 1), "gelu")), tmp_path / "cat.pt"
    (note,) = write_a1111(path, content)
    assert "ComfyUI does not know the activation gelu" in note
    assert readers.comfyui(path) is None
    assert_equal(theirs(readers.a1111(path)[16], contexts(16)), ours(content, contexts(16)))


def test_a1111_tells_layers_apart_by_width_alone(tmp_path: Path) -> None:
    content = stored(LayerPlan(), cross_only=True)
    clash = StoredHypernetwork(content.plan, True, content.tensors, (16, 32))
    with pytest.raises(UserError, match="attention_layers: all"):
        write_a1111(tmp_path / "cat.pt", clash)
    assert not (tmp_path / "cat.pt").exists()
    write_a1111(tmp_path / "cat.pt", StoredHypernetwork(content.plan, True, content.tensors, (32,)))


@pytest.mark.parametrize(
    ("settings", "dropout"),
    [
        ({"dropout_structure": [0, 0.3, 0.2, 0], "use_dropout": True}, [0, 0.3, 0.2, 0]),
        ({"dropout_structure": [0, 0, 0.2, 0]}, [0, 0, 0.2, 0]),
        ({"use_dropout": True}, [0, 0.3, 0, 0]),  # before dropout structures
        ({"use_dropout": True, "last_layer_dropout": True}, [0, 0.3, 0.3, 0]),
        ({}, None),
    ],
)
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("after_last", [False, True, None])
def test_files_that_a1111_trained_are_read_as_a1111_reads_them(
    after_last: bool | None, norm: bool, settings: dict[str, Any], dropout: list[float] | None, tmp_path: Path
) -> None:
    """Positions count dropout there; a missing `activate_output` means true."""
    structure, path = [1, 2, 2, 1], tmp_path / "old.pt"
    after = True if after_last is None else after_last
    pair = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        module = readers.a1111_module(16, structure, "tanh", norm, after, dropout)
        pair.append({f"linear.{name}": value for name, value in module.state_dict().items()})
    content = {
        16: tuple(pair),
        "layer_structure": structure,
        "activation_func": "tanh",
        "is_layer_norm": norm,
    }
    content |= settings | ({} if after_last is None else {"activate_output": after_last})
    torch.save(content, path)
    found = read_hypernetwork(path)
    assert not found.cross_only
    assert_equal(ours(found, contexts(16)), theirs(readers.a1111(path)[16], contexts(16)))


def test_the_first_files_of_a1111_name_two_layers(tmp_path: Path) -> None:
    path, generator = tmp_path / "first.pt", torch.Generator().manual_seed(0)
    shapes = {
        "linear1.weight": (32, 16),
        "linear1.bias": (32,),
        "linear2.weight": (16, 32),
        "linear2.bias": (16,),
    }
    pair = tuple(
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in "kv"
    )
    torch.save({16: pair, "step": 3, "name": "first"}, path)
    context = contexts(16)
    wanted = []
    for state in pair:
        hidden = context @ state["linear1.weight"].T + state["linear1.bias"]
        wanted.append(context + hidden @ state["linear2.weight"].T + state["linear2.bias"])
    assert_equal(ours(read_hypernetwork(path), context), wanted)


# ------------------------------------------------------------------ files that are none


def bad(folder: Path, kind: str) -> Path:
    path = folder / ("bad.pt" if kind.startswith("pt") else "bad.safetensors")
    good = stored(LayerPlan())
    match kind:
        case "truncated" | "pt truncated":
            (write_a1111 if kind.startswith("pt") else write_hypernetwork)(path, good)
            path.write_bytes(path.read_bytes()[:-100])
        case "text" | "pt text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "empty" | "pt empty":
            path.write_bytes(b"")
        case "lora":
            save_file({"unet.to_k.lora_A.weight": torch.zeros(2, 2)}, path)
        case "newer":
            save_file({"a": torch.zeros(1)}, path, {"study.format": "hypernetwork", "study.version": "2"})
        case "no structure":
            save_file({"16.k": torch.zeros(1)}, path, {"study.format": "hypernetwork", "study.version": "1"})
        case "shape":
            tensors = {**good.tensors, "16.k.linear.0.weight": torch.zeros(3, 16)}
            write_hypernetwork(path, StoredHypernetwork(good.plan, False, tensors))
        case "missing":
            tensors = {name: value for name, value in good.tensors.items() if name != "16.v.linear.1.bias"}
            write_hypernetwork(path, StoredHypernetwork(good.plan, False, tensors))
        case "names":
            write_hypernetwork(path, StoredHypernetwork(good.plan, False, {"unet.weight": torch.zeros(1)}))
        case "structure":
            write_hypernetwork(path, StoredHypernetwork(LayerPlan((1, 2)), False, good.tensors))
        case "pt embedding":
            torch.save({"string_to_param": {"*": torch.zeros(1, 16)}, "name": "cat"}, path)
        case "pt list":
            torch.save([torch.zeros(1)], path)
        case "pt single":
            torch.save({16: {"linear.0.weight": torch.zeros(1)}}, path)
        case "pt position":
            torch.save({16: ({"linear.7.weight": torch.zeros(1)}, {})}, path)
        case "pt activation":
            torch.save({16: ({}, {}), "activation_func": "snake"}, path)
        case "pt structure":
            torch.save({16: ({}, {}), "layer_structure": [1, 2]}, path)
        case "pt code":
            torch.save({16: Path("x")}, path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", "is damaged, or no hypernetwork"),
        ("text", "is damaged, or no hypernetwork"),
        ("empty", "is damaged, or no hypernetwork"),
        ("lora", "load_lora_weights"),
        ("newer", "has version 2 of the format"),
        ("no structure", "lack study.layer_structure"),
        ("shape", "16.k.linear.0.weight"),
        ("missing", "16.v.linear.1.bias"),
        ("names", "do not begin with the width|invalid literal"),
        ("structure", "must begin and end with 1"),
        ("pt truncated", "is damaged, or no hypernetwork"),
        ("pt text", "is damaged, or no hypernetwork"),
        ("pt empty", "is damaged, or no hypernetwork"),
        ("pt embedding", "no key that is the width of a context"),
        ("pt list", "it holds a list"),
        ("pt single", "entry 16 is no pair of state dicts"),
        ("pt position", "has a linear.7.weight, where layer_structure 1,2,1 has no layer"),
        ("pt activation", "activation 'snake' is none of linear, relu"),
        ("pt structure", "must begin and end with 1"),
        ("pt code", "holds more than tensors and settings"),
        ("absent", "there is no file"),
    ],
)
def test_a_file_that_is_none_is_named_with_what_to_do(
    kind: str, words: str, models: Path, tmp_path: Path
) -> None:
    path = bad(tmp_path, kind)
    pipeline = pipeline_of(models)
    with pytest.raises(UserError, match=words) as error:
        load_hypernetwork(pipeline, path)
    assert str(path) in str(error.value)
    assert not hasattr(pipeline.unet, "hypernetwork")


# ------------------------------------------------------------------ the loader


def pipeline_of(models: Path, kind: Any = StableDiffusionPipeline) -> Any:
    pipeline = kind.from_pretrained(str(models / "model"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any) -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return torch.as_tensor(
        pipeline("a sks cat", num_inference_steps=2, generator=noise, output_type="pt").images
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A hypernetwork for both widths of the tiny model."""
    write_hypernetwork(tmp_path / "hypernetwork.safetensors", stored(LayerPlan(), (16, 32)))
    return tmp_path / "hypernetwork.safetensors"


def test_images_with_strength_without_and_after_unloading(file: Path, models: Path) -> None:
    pipeline = pipeline_of(models)
    base = drawn(pipeline)
    assert load_hypernetwork(pipeline, file.parent) is pipeline  # the folder will do
    whole = drawn(pipeline)
    pipeline.unet.hypernetwork.strength = 0.0
    assert torch.equal(drawn(pipeline), base)
    unload_hypernetwork(pipeline)
    load_hypernetwork(pipeline, file, strength=0.5)
    half = drawn(pipeline)
    assert (whole - base).abs().max() > 0.05
    assert (half - base).abs().max() > 0.02
    assert (half - whole).abs().max() > 0.02
    with pytest.raises(UserError, match="has a hypernetwork already"):
        load_hypernetwork(pipeline, file)
    assert torch.equal(drawn(unload_hypernetwork(pipeline)), base)
    assert not any(
        parameter.requires_grad
        for parameter in load_hypernetwork(pipeline, file).unet.hypernetwork.parameters()
    )


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -float("inf"), "0.5", None, True, 1j])
def test_a_strength_that_is_no_finite_number_is_refused(strength: Any, file: Path, models: Path) -> None:
    pipeline = pipeline_of(models)
    with pytest.raises(UserError, match="strength must be a finite number") as error:
        load_hypernetwork(pipeline, file, strength=strength)
    assert repr(strength) in str(error.value)
    assert not hasattr(pipeline.unet, "hypernetwork")


def test_it_takes_the_models_type_and_moves_with_it(file: Path, models: Path) -> None:
    pipeline = pipeline_of(models).to(torch.bfloat16)
    load_hypernetwork(pipeline, file)
    assert {value.dtype for value in pipeline.unet.hypernetwork.parameters()} == {torch.bfloat16}
    assert torch.isfinite(drawn(pipeline)).all()
    pipeline.to(torch.float32)
    assert {value.dtype for value in pipeline.unet.hypernetwork.parameters()} == {torch.float32}
    assert torch.isfinite(drawn(pipeline)).all()


def test_pipelines_of_other_classes_with_the_same_parts(file: Path, models: Path) -> None:
    pipeline = pipeline_of(models, StableDiffusionImg2ImgPipeline)
    assert load_hypernetwork(pipeline, file).unet.hypernetwork.strength == 1.0
    with pytest.raises(UserError, match="a dict has none of the parts"):
        load_hypernetwork({}, file)


def test_gradient_free_use_computes_the_text_once(file: Path, models: Path) -> None:
    pipeline = pipeline_of(models)
    load_hypernetwork(pipeline, file)
    calls = []
    pipeline.unet.hypernetwork.banks["16"]["k"].register_forward_pre_hook(
        lambda _, args: calls.append(args[0].shape[1])
    )
    drawn(pipeline)
    assert calls.count(77) == 2  # once a solver step


def test_a_file_for_another_width_is_refused(models: Path, tmp_path: Path) -> None:
    pipeline = pipeline_of(models)
    path = tmp_path / "sd2.safetensors"
    write_hypernetwork(path, stored(LayerPlan(), (1024,)))
    with pytest.raises(UserError, match=r"contexts of width 1024.*contexts of width 16, 32") as error:
        load_hypernetwork(pipeline, path)
    assert "another kind of base model" in str(error.value)
    write_hypernetwork(path, stored(LayerPlan(), (32,), cross_only=True))
    with pytest.raises(UserError, match="cross-attention of this model has contexts of width 16:"):
        load_hypernetwork(pipeline, path)
    assert not hasattr(pipeline.unet, "hypernetwork")
    make_tiny_model(tmp_path / "wide", resolution=16, width=24)
    wide = StableDiffusionPipeline.from_pretrained(str(tmp_path / "wide"), safety_checker=None)
    write_hypernetwork(path, stored(LayerPlan(), (16,), cross_only=True))
    with pytest.raises(UserError, match=r"contexts of width 16, but cross-attention of this model has .* 24"):
        load_hypernetwork(wide, path)


def test_a_file_of_a1111_is_loaded_too(models: Path, tmp_path: Path) -> None:
    content = stored(LayerPlan((1, 2, 1), "mish"), (16, 32))
    write_a1111(tmp_path / "cat.pt", content)
    write_hypernetwork(tmp_path / "hypernetwork.safetensors", content)
    images = [
        drawn(load_hypernetwork(pipeline_of(models), tmp_path / name))
        for name in ("cat.pt", "hypernetwork.safetensors")
    ]
    assert torch.equal(*images)


def test_networks_of_a1111_for_widths_of_another_model_are_left_out(models: Path, tmp_path: Path) -> None:
    """A1111 lets one tick any widths, and leaves alone those that a model does not have."""
    path = tmp_path / "cat.pt"
    content = stored(LayerPlan(), (16, 24, 1024))
    write_a1111(path, content)
    pipeline = load_hypernetwork(pipeline_of(models), path)
    assert list(pipeline.unet.hypernetwork.banks) == ["16"]
    own = tmp_path / "hypernetwork.safetensors"
    write_hypernetwork(own, content.of_widths([16]))
    assert torch.equal(drawn(pipeline), drawn(load_hypernetwork(pipeline_of(models), own)))
    write_hypernetwork(own, content)
    with pytest.raises(UserError, match="contexts of width 24, 1024"):  # of ours: of another model
        load_hypernetwork(pipeline_of(models), own)
    write_a1111(path, stored(LayerPlan(), (32, 1024)))
    with pytest.raises(UserError, match="contexts of width 1024, but attention"):  # without the text's
        load_hypernetwork(pipeline_of(models), path)


def test_lora_of_a_file_beside_it_in_either_order(
    make_trainer: MakeTrainer, file: Path, models: Path, tmp_path: Path
) -> None:
    trainer = make_trainer("lora", learning_rate=3e-2)
    for _ in range(3):
        train_step(trainer)
    get_method("lora").save(trainer.backbone, trainer.config, tmp_path / "lora")
    name = "pytorch_lora_weights.safetensors"
    images = []
    for order in ("lora", "hypernetwork"):
        pipeline = pipeline_of(models)
        if order == "hypernetwork":
            load_hypernetwork(pipeline, file)
        pipeline.load_lora_weights(str(tmp_path / "lora"), weight_name=name)
        if order == "lora":
            load_hypernetwork(pipeline, file)
        images.append(drawn(pipeline))
        pipeline.unload_lora_weights()
        alone = drawn(pipeline)
        assert (images[-1] - alone).abs().max() > 0.01
        assert torch.equal(alone, drawn(load_hypernetwork(pipeline_of(models), file)))
    assert torch.equal(*images)


def test_training_goes_on_beside_a_lora_that_is_already_there(make_trainer: MakeTrainer) -> None:
    """Adapters that something else has put on the same network take the changed contexts, and are left as they are."""
    trainer = make_trainer("hypernetwork", learning_rate=1e-2)
    trainer.backbone.denoiser.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
    for name, parameter in trainer.backbone.denoiser.named_parameters():
        parameter.requires_grad_("hypernetwork" in name)
    before = {name: value.detach().clone() for name, value in trainer.parameters.items()}
    for _ in range(2):
        train_step(trainer)
    assert all(not torch.equal(value, before[name]) for name, value in trainer.parameters.items())
    trainer.backbone.denoiser.delete_adapters("default")


# ------------------------------------------------------------------ the documentation


def test_the_example_of_the_documentation_runs(
    file: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = DOCS.read_text(encoding="utf-8").split("\n## Hypernetwork")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(models / "model")
    (tmp_path / "weights").symlink_to(file.parent)
    exec(compile(code, "methods.md", "exec"), {})
    assert (tmp_path / "cat.png").stat().st_size > 100


def test_nothing_is_inserted_twice_by_hand(models: Path) -> None:
    pipeline = pipeline_of(models)
    made = Hypernetwork([16], LayerPlan(), cross_only=True)
    insert(pipeline.unet, made)
    with pytest.raises(UserError):
        insert(pipeline.unet, made)
