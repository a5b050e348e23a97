"""Files from elsewhere that would be put on the model in part, or otherwise than trained, are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.exported_weights import exported, installed, load, trained
from tests.helpers.tiny_families import change_json, make_tiny
from trainables.errors import UserError
from trainables.methods.adapter_files import WEIGHTS_FILE
from trainables.methods.foreign_files import inspect
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone

PEFT_FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("sd1", tmp_path_factory.mktemp("family") / "sd1")


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the UNet in PEFT's layout and in diffusers' names."""
    place = tmp_path_factory.mktemp("files")
    config = trained(load(folder), "lora", place / "weights", r=2, target_modules=["attn2.to_k"])
    for form in ("peft", "diffusers"):
        exported(folder, "lora", config, place / "weights", form, place / form)
    return place


def refused(backbone: Backbone, path: Path, said: str, **fields: Any) -> None:
    """Installs a file, which must be refused, and leaves the base model."""
    untouched = backbone.parameter_digest()
    with pytest.raises(UserError, match=said):
        installed(backbone, path, **fields)
    get_method("foreign").detach(backbone)
    backbone.restore()
    assert backbone.parameter_digest() == untouched


@pytest.mark.parametrize("layout", ["peft", "folders"])
@pytest.mark.parametrize("change", ["renamed", "lacking", "more"])
def test_a_folder_of_peft_must_fit_whole(
    layout: str, change: str, folder: Path, files: Path, tmp_path: Path
) -> None:
    shutil.copytree(files / "peft", tmp_path / "mine")
    file = tmp_path / "mine" / "unet" / PEFT_FILE
    state = load_file(file)
    key = min(state)
    if change == "renamed":  # as a tool that names modules otherwise: PEFT alone would judge the base model
        changed = {name.replace("base_model.model.", "base_model.model.unet."): state[name] for name in state}
        said = f"lacks {len(state)} tensors"
    elif change == "lacking":
        changed = {name: value for name, value in state.items() if name != key}
        said = "lacks 1 tensors .*lora_A"
    else:
        changed = state | {key.replace("attn2.to_k", "attn2.to_q"): state[key].clone()}
        said = "has 1 tensors .*to_q"
    save_file(changed, file)
    refused(load(folder), tmp_path / "mine" if layout == "folders" else tmp_path / "mine" / "unet", said)


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_is_checked_as_its_file_is(whole: bool, folder: Path, files: Path, tmp_path: Path) -> None:
    state = load_file(files / "diffusers" / WEIGHTS_FILE)
    up, down = (next(key for key in sorted(state) if f"lora_{side}" in key) for side in "BA")
    te = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
    magnitude = torch.ones(16, 1)
    cases: dict[str, tuple[dict[str, torch.Tensor], str]] = {
        "nowhere": (
            {key.replace("attn2.to_k", "attn9.to_k"): value for key, value in state.items()},
            "of another kind of model|cannot load",
        ),
        "one": ({**state, up.replace("attn2", "attn9"): state[up], down.replace("attn2", "attn9"): state[down]},
                "of another kind of model|cannot load"),
        "half": ({key: value for key, value in state.items() if key != down}, "tensors are missing|cannot load"),
        "dora": ({**state, f"{te}.lora_magnitude_vector": magnitude}, "DoRA of a text encoder"),
        "alpha": ({**state, down.replace("lora_A.weight", "alpha"): torch.tensor(1.0)},
                  "multiply alpha / rank into"),
        "lokr": ({f"{te}.lokr_w1": magnitude.clone(), f"{te}.lokr_w2": magnitude}, "LoKr of a text encoder"),
    }  # fmt: skip
    for name, (changed, said) in cases.items():
        file = tmp_path / name / WEIGHTS_FILE
        file.parent.mkdir()
        save_file({key: value.clone() for key, value in changed.items()}, file)
        refused(load(folder), file.parent if whole else file, said)


def test_adapters_of_a_part_that_the_model_has_not_are_refused(
    folder: Path, files: Path, tmp_path: Path
) -> None:
    shutil.copytree(files / "peft", tmp_path / "mine")
    shutil.copytree(tmp_path / "mine" / "unet", tmp_path / "mine" / "text_encoder_2")
    refused(load(folder), tmp_path / "mine", "adapters for text_encoder_2")


@pytest.mark.parametrize("whole", [True, False])
def test_lokr_in_diffusers_names_comes_back(whole: bool, folder: Path, tmp_path: Path) -> None:
    """What `--format diffusers` writes of LoKr, against the Kronecker products of its own factors."""
    fields: dict[str, Any] = {"adapter": "lokr", "r": 2, "lora_alpha": 3, "target_modules": ["attn2.to_k"],
                              "decompose_factor": 4}  # fmt: skip
    config = trained(load(folder), "lora", tmp_path / "weights", **fields)
    exported(folder, "lora", config, tmp_path / "weights", "diffusers", tmp_path / "out")
    file = tmp_path / "out" / WEIGHTS_FILE
    state = load_file(file)
    backbone = load(folder)
    stems = {key.partition(".lokr_")[0].removeprefix("unet.") for key in state}
    base = {stem: backbone.denoiser.get_submodule(stem).weight.detach().clone() for stem in stems}
    installed(backbone, file.parent if whole else file)
    with get_method("foreign").fused(backbone) as merged:
        assert merged
        for stem in stems:
            layer = {key.rpartition(".")[2]: value for key, value in state.items() if f"unet.{stem}." in key}
            second = layer["lokr_w2"] if "lokr_w2" in layer else layer["lokr_w2_a"] @ layer["lokr_w2_b"]
            first = layer["lokr_w1"] if "lokr_w1" in layer else layer["lokr_w1_a"] @ layer["lokr_w1_b"]
            change = torch.kron(first, second)
            assert change.abs().max() > 1e-3
            weight = backbone.denoiser.get_submodule(stem).get_base_layer().weight
            torch.testing.assert_close(weight - base[stem], change, rtol=0, atol=2e-6)


PIPELINES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "predicts": ("sd1", "scheduler/scheduler_config.json", {"prediction_type": "v_prediction"},
                 "prediction_type 'v_prediction', and that of the study's base model 'epsilon'"),
    "betas": ("sd1", "scheduler/scheduler_config.json", {"beta_end": 0.03}, "beta_end 0.03, and .* model 0.01"),
    "scale": ("sd1", "vae/config.json", {"scaling_factor": 0.75}, "scaling_factor 0.75, and that .* model 0.5;"),
    "heads": ("sd1", "text_encoder/config.json", {"hidden_act": "gelu"}, "hidden_act 'gelu', and .* 'quick_gelu'"),
    "shift": ("sd3", "scheduler/scheduler_config.json", {"shift": 7.0}, "states shift 7.0, and"),
    "latents": ("sd3", "vae/config.json", {"shift_factor": 0.25}, "vae states shift_factor 0.25, and"),
}  # fmt: skip


@pytest.mark.parametrize("case", PIPELINES)
def test_a_pipeline_that_was_trained_otherwise_is_refused(case: str, tmp_path: Path) -> None:
    family, file, values, said = PIPELINES[case]
    ours, theirs = (make_tiny(family, tmp_path / name) for name in ("ours", "theirs"))
    backbone = load(ours)
    installed(backbone, theirs)  # as it is, it fits
    change_json(theirs / file, **values)
    refused(backbone, theirs, said)


def test_a_pipeline_with_another_sampler_of_the_same_noise_fits(folder: Path, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler

    theirs = make_tiny("sd1", tmp_path / "theirs", seed=1)
    sampler = DDIMScheduler.from_pretrained(theirs, subfolder="scheduler")
    EulerDiscreteScheduler.from_config(sampler.config, timestep_spacing="leading").save_pretrained(
        theirs / "scheduler"
    )
    backbone = load(folder)
    base = backbone.denoiser.conv_in.weight.detach().clone()
    installed(backbone, theirs)
    assert torch.equal(backbone.denoiser.conv_in.weight, load(theirs).denoiser.conv_in.weight)
    assert not torch.equal(backbone.denoiser.conv_in.weight, base)


def test_layers_in_kohyas_names_must_fit_in_shape(folder: Path, tmp_path: Path) -> None:
    """Each of these has a name that the base model has, and was added in another place, or not at all."""
    backbone = load(folder)
    wide = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"  # [32, 128]
    outputs, inputs = backbone.denoiser.get_submodule(wide).weight.shape
    assert outputs != inputs
    stem = f"lora_unet_{wide.replace('.', '_')}"
    bare = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    kernel = tuple(backbone.denoiser.get_submodule("down_blocks.0.resnets.0.conv1").weight.shape)
    bias = int(backbone.denoiser.get_submodule(wide).bias.numel())
    cases = {
        "turned": ({f"{stem}.diff": torch.ones(inputs, outputs)}, "weight of shape .* where the base model has"),
        "factors": ({f"{stem}.lora_down.weight": torch.ones(2, outputs),
                     f"{stem}.lora_up.weight": torch.ones(inputs, 2)}, "weight of shape .* where the base model has"),
        "kernel": ({f"{conv}.diff": torch.ones(kernel[1] + 1, *kernel[1:])}, "weight of shape .* base model has"),
        "place": ({f"{conv}.diff": torch.ones(kernel[0], kernel[1], 1, kernel[2] * kernel[3])}, "weight of shape"),
        "row": ({f"{stem}.lora_down.weight": torch.ones(2), f"{stem}.lora_up.weight": torch.ones(2)}, stem),
        "alpha": ({f"{stem}.alpha": torch.tensor(1.0)}, f"layer {stem}: it has alpha and no change"),
        "scale": ({f"{stem}.dora_scale": torch.ones(outputs, 1), f"{stem}.diff_b": torch.ones(bias)},
                  "it has dora_scale and no change"),
        "bias": ({f"{bare}.diff_b": torch.ones(4)}, f"layer {bare}: it has diff_b .* has no bias"),
        "one": ({f"{stem}.diff_b": torch.ones(1)}, "it has diff_b of shape .1,. where .* a bias of shape"),
        "half": ({f"{stem}.lora_down.weight": torch.ones(2, inputs)}, f"layer {stem}: it lacks lora_up.weight"),
    }  # fmt: skip
    for name, (state, said) in cases.items():
        save_file(state, tmp_path / f"{name}.safetensors")
        refused(backbone, tmp_path / f"{name}.safetensors", said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": torch.ones(2, 2)}, "'model'"),
        ([1, 2], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        (
            {"string_to_param": {"*": torch.ones(1, 4), "+": torch.ones(1, 4)}},
            "string_to_param with one tensor",
        ),
        ({768: torch.ones(2)}, "no pair of state dicts"),
        ({"string_to_param": {"*": torch.ones(0, 4)}}, "string_to_param with one tensor"),
    ],
)
def test_a_pt_file_of_neither_kind_is_no_hypernetwork(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=said):
        inspect(tmp_path / "x.pt")


def test_what_lies_beside_weights_and_is_not_read_is_refused(files: Path, tmp_path: Path) -> None:
    for form in ("peft", "diffusers"):
        mine = shutil.copytree(files / form, tmp_path / form)
        assert inspect(mine).layout == "folders"
        save_file({"<sks>": torch.ones(2, 16)}, mine / "learned_embeds.safetensors")
        assert (inspect(mine).word, inspect(mine).vectors) == ("sks", 2)
        if form == "diffusers":
            with pytest.raises(UserError, match=r"would be judged without the word .* name their folder"):
                inspect(mine / WEIGHTS_FILE)
        save_file({"<zwx>": torch.ones(2, 16)}, mine / "learned_embeds_2.safetensors")
        with pytest.raises(UserError, match="the words sks, zwx, and one is read"):
            inspect(mine)
        (mine / "learned_embeds_2.safetensors").unlink()
        save_file({"emb_params": torch.ones(1, 16)}, mine / "more.safetensors")
        with pytest.raises(UserError, match=r"holds more\.safetensors beside weights"):
            inspect(mine)


def test_a_word_for_another_number_of_text_encoders_is_refused(
    folder: Path, files: Path, tmp_path: Path
) -> None:
    mine = shutil.copytree(files / "diffusers", tmp_path / "mine")
    for end in ("", "_2"):
        save_file({"<sks>": torch.ones(1, 16)}, mine / f"learned_embeds{end}.safetensors")
    with pytest.raises(UserError, match=r"vectors for 2 text encoders .* the base model has 1"):
        installed(load(folder), mine, prompt="a sks cat")


def with_words(folder: Path, words: list[str], place: Path, *, resize: bool = True) -> Path:
    """Returns a pipeline with added words, as diffusers' scripts save one."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.tokenizer.add_tokens(words)
    if resize:
        pipeline.text_encoder.resize_token_embeddings(len(pipeline.tokenizer))
    pipeline.save_pretrained(place)
    return place


def test_words_of_a_pipeline_that_are_not_one_are_refused(folder: Path, tmp_path: Path) -> None:
    two = with_words(folder, ["<s0>", "<s1>"], tmp_path / "two")
    with pytest.raises(UserError, match=r"has 2 added tokens \(<s0>, <s1>\), and one word is read"):
        inspect(two, folder)
    one = with_words(folder, ["<cat>", "<cat>_1"], tmp_path / "one")
    assert (inspect(one, folder).word, inspect(one, folder).vectors) == ("cat", 2)
    short = with_words(folder, ["<cat>"], tmp_path / "short", resize=False)
    with pytest.raises(UserError, match="its tokenizer calls for number"):
        installed(load(folder), short, prompt="a cat")
    words = json.loads((one / "tokenizer" / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = sorted(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (one / "tokenizer" / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UserError, match="its tokenizer reads words otherwise"):
        inspect(one, folder)


@pytest.mark.parametrize("change", ["lacking", "narrow", "strange"])
def test_projections_must_fit_whole(change: str, folder: Path, tmp_path: Path) -> None:
    config = trained(load(folder), "custom_diffusion", tmp_path / "weights")
    exported(folder, "custom_diffusion", config, tmp_path / "weights", "diffusers", tmp_path / "out")
    file = tmp_path / "out" / "pytorch_custom_diffusion_weights.safetensors"
    state = load_file(file)
    key = next(key for key in sorted(state) if "to_k_custom" in key)
    changed, said = {
        "lacking": ({name: value for name, value in state.items() if name != key}, "lacks some of"),
        "narrow": (state | {key: state[key][:, 1:].contiguous()}, "another kind of model"),
        "strange": (state | {"unet.x": torch.ones(1)}, "no projections of Custom Diffusion, such as unet.x"),
    }[change]
    save_file(changed, file)
    refused(load(folder), tmp_path / "out", said, prompt="a new1 cat")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", ["kohya", "diffusers", "peft", "merged", "word", "hypernetwork"])
def test_what_is_not_finite_is_refused(form: str, value: float, folder: Path, tmp_path: Path) -> None:
    """Images of such weights all fail, and a quality of 0 would be on file for a damaged download."""
    method = {"word": "textual_inversion", "hypernetwork": "hypernetwork"}.get(form, "lora")
    config = trained(load(folder), method, tmp_path / "weights", **({"r": 2} if method == "lora" else {}))
    out = tmp_path / "out"
    form = form if method == "lora" else "a1111"
    exported(folder, method, config, tmp_path / "weights", form, out)
    if method == "hypernetwork":
        (file,) = out.glob("*.pt")
        content = torch.load(file, weights_only=True)
        content[16][0]["linear.0.weight"][0, 0] = value
        torch.save(content, file)
    else:
        file = next(
            path for path in sorted(out.rglob("*.safetensors")) if form != "merged" or "unet" in str(path)
        )
        state = load_file(file)
        key = next(key for key in sorted(state) if "alpha" not in key)
        state[key].view(-1)[0] = value
        save_file(state, file, {"format": "pt"})
    path = out if form in ("peft", "merged") else file
    refused(load(folder), path, r"not finite \(NaN or infinite\)", prompt="a sks cat")
