"""Whole models as one file: an independent list of names, diffusers' own reader, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.helpers.exported_weights import ABOUT, exported, load, trained
from tests.helpers.single_file_models import write_single_file
from tests.helpers.stock_images import draw_stock
from tests.helpers.tiny_families import RESOLUTION, change_json, make_tiny
from trainables.errors import UserError
from trainables.methods.exporting import Request, files_in
from trainables.methods.model_exports import export_merged, export_model_file
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES, family_in
from trainables.models.publisher_names import file_kind, single_file_tensors
from trainables.models.sampling import initial_noise

NAMES = ["sd1", "sd2", "sdxl"]
SPEC = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-768-v",
    "sdxl": "stable-diffusion-xl-v1-base",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose autoencoders have the attention that the published ones have."""
    from diffusers import AutoencoderKL

    place = tmp_path_factory.mktemp("families")
    found = {name: make_tiny(name, place / name) for name in NAMES}
    for folder in found.values():
        config = AutoencoderKL.load_config(str(folder / "vae")) | {"mid_block_add_attention": True}
        torch.manual_seed(0)
        AutoencoderKL.from_config(config).save_pretrained(str(folder / "vae"))
    return found


def images(pipeline: Any, backbone: Backbone) -> torch.Tensor:
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    return draw_stock(pipeline, ["a sks cat"], initial_noise(backbone, [1], RESOLUTION))


def from_file(path: Path, configs: Path) -> Any:
    """Returns what diffusers reads of a file, in the memory layout of the project: kernels round by it."""
    family = family_in(configs)
    pipeline = family.stock_pipeline().from_single_file(
        str(path), config=str(configs), local_files_only=True, **family.load_options
    )
    for module in (pipeline.unet, pipeline.vae):
        module.to(memory_format=torch.channels_last)
    return pipeline


@pytest.mark.parametrize("name", NAMES)
def test_the_file_is_the_trained_model_under_its_publishers_names(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[name]
    backbone = load(folder)
    config = trained(backbone, "dreambooth", tmp_path / "weights", train_text_encoder=True)
    pipeline = backbone.pipeline()
    ours, base = images(pipeline, backbone), images(load(folder).pipeline(), backbone)
    assert (ours - base).abs().max() > 0.01

    exported(folder, "dreambooth", config, tmp_path / "weights", "a1111", tmp_path / "out")
    assert [str(path) for path in files_in(tmp_path / "out")] == ["mine.safetensors"]
    file = tmp_path / "out" / "mine.safetensors"
    found, expected = load_file(file), load_file(write_single_file(pipeline, tmp_path / "list.safetensors"))
    assert found.keys() == expected.keys()
    assert sum(key.startswith("first_stage_model.encoder.mid.attn_1.") for key in found) == 10
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert torch.equal(images(from_file(file, folder), backbone), ours)
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert about["modelspec.architecture"] == SPEC[name]
    assert about["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
    assert not any(key.startswith("ss_") for key in about)


@pytest.mark.parametrize("method", ["dreambooth", "lora"])
def test_merged_is_a_pipeline_and_the_same_model_as_one_file(
    method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["sdxl"]
    backbone = load(folder)
    config = trained(backbone, method, tmp_path / "weights", train_text_encoder=True)
    done = exported(folder, method, config, tmp_path / "weights", "merged", tmp_path / "out")
    assert "mine.safetensors is the same model as one file" in done.notes[0]
    pipeline = (
        family_in(folder).stock_pipeline().from_pretrained(str(tmp_path / "out"), local_files_only=True)
    )
    for module in (pipeline.unet, pipeline.vae):
        module.to(memory_format=torch.channels_last)
    ours = images(pipeline, backbone)
    assert torch.equal(images(from_file(tmp_path / "out" / "mine.safetensors", folder), backbone), ours)
    # Merging adapters rounds the weights; whole weights stay as they are.
    torch.testing.assert_close(
        ours, images(backbone.pipeline(), backbone), rtol=0, atol=0.0 if method == "dreambooth" else 2e-3
    )


def published(name: str) -> Any:
    """A UNet and an autoencoder of the published sizes, without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    sdxl: dict[str, Any] = {
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "use_linear_projection": True,
    }
    fields = {"sd1": {"cross_attention_dim": 768}, "sdxl": sdxl}[name]
    autoencoder: dict[str, Any] = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    with torch.device("meta"):
        return UNet2DConditionModel(**fields), AutoencoderKL(**autoencoder)


#: Tensors of UNet and autoencoder in the published files (v1-5-pruned-emaonly, sd_xl_base_1.0), and some of them.
PUBLISHED: dict[str, tuple[int, int, dict[str, tuple[int, ...]]]] = {
    "sd1": (
        686,
        248,
        {
            "model.diffusion_model.input_blocks.1.0.in_layers.0.weight": (320,),
            "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
            "model.diffusion_model.output_blocks.11.1.proj_out.weight": (320, 320, 1, 1),
            "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
            "model.diffusion_model.out.0.bias": (320,),
            "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
            "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
            "first_stage_model.encoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
            "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        },
    ),
    "sdxl": (
        1680,
        248,
        {
            "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
            "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_v.weight": (1280, 2048),
            "model.diffusion_model.output_blocks.5.2.conv.weight": (640, 640, 3, 3),
            "first_stage_model.encoder.down.2.downsample.conv.weight": (512, 512, 3, 3),
        },
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_of_the_published_sizes_have_the_published_names(name: str) -> None:
    """By number and examples, and by diffusers' converter, which gives back every tensor's own name and shape."""
    from types import SimpleNamespace

    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    unet, vae = published(name)
    family = FAMILIES[{"sd1": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[name]]
    kind = file_kind(family, unet.config)
    assert kind is not None
    empty = SimpleNamespace(state_dict=dict, config=None)
    parts = {part.name: empty for part in family.modules} | {"unet": unet, "vae": vae}
    found = single_file_tensors(family, kind, SimpleNamespace(**parts))
    tensors, autoencoder, known = PUBLISHED[name]
    assert sum(key.startswith("model.diffusion_model.") for key in found) == tensors
    assert sum(key.startswith("first_stage_model.") for key in found) == autoencoder
    assert {key: tuple(found[key].shape) for key in known} == known
    for convert, module in ((convert_ldm_unet_checkpoint, unet), (convert_ldm_vae_checkpoint, vae)):
        read = convert(dict(found), dict(module.config))
        shapes = {key: value.shape for key, value in module.state_dict().items()}
        assert {key: value.shape for key, value in read.items()} == shapes


@pytest.mark.parametrize(
    ("changes", "marks"),
    [
        ({}, set()),
        ({"prediction_type": "v_prediction"}, {"v_pred"}),
        ({"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}, {"v_pred", "ztsnr"}),
    ],
)
def test_marks_say_how_a_model_was_trained(changes: dict[str, Any], marks: set[str], tmp_path: Path) -> None:
    folder = make_tiny("sdxl", tmp_path / "sdxl", **changes)
    backbone = load(folder)
    (tmp_path / "out").mkdir()
    done = export_model_file(
        backbone, backbone.pipeline(), Request("comfyui", "mine", ABOUT), tmp_path / "out"
    )
    file = tmp_path / "out" / "mine.safetensors"
    assert {key for key in load_file(file) if "." not in key} == marks
    assert done.notes == ()
    assert torch.equal(
        images(from_file(file, folder), backbone), images(load(folder).pipeline(), backbone)
    )  # diffusers passes marks over


def test_of_stable_diffusion_2_nothing_is_marked(folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load(folders["sd2"])
    assert backbone.prediction_type == "v_prediction"
    (tmp_path / "out").mkdir()
    request = Request("a1111", "mine", ABOUT)
    done = export_model_file(backbone, backbone.pipeline(), request, tmp_path / "out")
    assert "predicts velocity" in done.notes[0]
    assert all("." in key for key in load_file(tmp_path / "out" / "mine.safetensors"))


def test_a_model_that_the_publisher_has_no_names_for_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """A second attention in the middle of a UNet: found before a file is written; merged is its folder then."""
    backbone, request = load(folders["sd1"]), Request("merged", "mine", ABOUT)
    backbone.denoiser.mid_block.attentions.append(torch.nn.Linear(1, 1))
    (tmp_path / "merged").mkdir()
    done = export_merged(backbone, backbone.pipeline(), request, tmp_path / "merged")
    assert "cannot be written as one file" in done.notes[0]
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {
        path.name for path in folders["sd1"].iterdir()
    }
    with pytest.raises(UserError, match=r"cannot be written as one file .*mid_block\.attentions\.1"):
        export_model_file(backbone, backbone.pipeline(), Request("a1111", "mine", ABOUT), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]


def test_what_was_written_is_checked_against_the_models_configurations(tmp_path: Path) -> None:
    folder = make_tiny("sd1", tmp_path / "sd1")
    backbone = load(folder)
    change_json(folder / "unet" / "config.json", layers_per_block=2)
    with pytest.raises(UserError, match=r"cannot be written as one file: it has tensors for which the UNet"):
        export_model_file(backbone, backbone.pipeline(), Request("a1111", "mine", ABOUT), tmp_path)
    assert not (tmp_path / "mine.safetensors").exists()


def test_a_pipelines_sampler_draws_as_the_run_did(tmp_path: Path) -> None:
    """Of models that predict v: from the last step on, and with no signal there where the model states that."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

    noise = {"rescale_betas_zero_snr": True, "timestep_spacing": "leading"}
    folder = make_tiny("sd2", tmp_path / "sd2", **noise)
    backbone = load(folder)
    config = trained(backbone, "dreambooth", tmp_path / "weights")
    lora = trained(load(folder), "lora", tmp_path / "lora")
    runs: list[tuple[str, Any, str, Any]] = [
        ("dreambooth", config, "weights", "diffusers"),
        ("dreambooth", config, "weights", "merged"),
        ("lora", lora, "lora", "merged"),
    ]
    made = [tmp_path / "weights"]  # the run's own are a pipeline too
    for method, settings, weights, form in runs:
        made.append(tmp_path / f"{method}-{form}")
        done = exported(folder, method, settings, tmp_path / weights, form, made[-1])
        assert any("timestep_spacing: trailing" in note and "leading" in note for note in done.notes)
    for place in made:
        sampler = DDIMScheduler.from_pretrained(str(place), subfolder="scheduler")
        sampler.set_timesteps(4)
        assert sampler.timesteps[0] == 999
        assert sampler.alphas_cumprod[-1] == 0
        family_in(folder).stock_pipeline().from_pretrained(str(place), local_files_only=True)
    done = exported(folder, "lora", lora, tmp_path / "lora", "diffusers", tmp_path / "adapters")
    assert any("from_config(pipeline.scheduler.config" in note for note in done.notes)

    # A sampler that passes over the model's noise cannot be kept.
    change_json(folder / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler")
    change_json(folder / "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    exported(folder, "dreambooth", config, tmp_path / "weights", "merged", tmp_path / "other")
    pipeline = (
        family_in(folder).stock_pipeline().from_pretrained(str(tmp_path / "other"), local_files_only=True)
    )
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert pipeline.scheduler.alphas_cumprod[-1] < 1e-6
