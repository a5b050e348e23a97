"""Each family reads prompts and draws images as its stock pipeline does, from tiny random models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.stock_images import STEPS, TOKENS, draw_stock
from tests.helpers.tiny_families import RESOLUTION, TINY, add_contrast, change_json, make_tiny
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.conditioning import pack, unpack
from trainables.models.folders import check_model, model_notes
from trainables.models.loading import load_backbone
from trainables.models.prompt_lengths import pipeline_reader
from trainables.models.sampling import generate, initial_noise
from trainables.models.solvers import make_solver

PROMPTS = ["a sks cat", "a dog in the snow"]
LEVELS, CONTRASTING = (
    1.5,
    30,
)  # of 255: how far images may be apart, by rounding alone, and how far their pixels must be


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: add_contrast(make_tiny(name, place / name)) for name in TINY}


def load(folder: Path) -> Any:
    return load_backbone(ModelConfig(path=str(folder)))


def stock(folder: Path) -> Any:
    import diffusers

    return getattr(diffusers, TINY[folder.name]).from_pretrained(str(folder), local_files_only=True)


def faults(folder: Path, resolution: int | None = None) -> str:
    return "\n".join(check_model(ModelConfig(path=str(folder)), resolution))


def farthest(ours: list[Any], expected: torch.Tensor) -> float:
    """The largest difference between images, in levels of 255."""
    drawn = np.stack([np.asarray(image) for image in ours]).astype(float)
    return float(np.abs(drawn - 255 * expected.permute(0, 2, 3, 1).numpy()).max())


@pytest.mark.parametrize("name", TINY)
def test_prompts_are_read_as_by_the_stock_pipeline(name: str, folders: dict[str, Path]) -> None:
    ours = load(folders[name]).encode_prompts(PROMPTS)
    pipeline = stock(folders[name])
    if name in ("sd1", "sd2"):
        states, pooled = pipeline.encode_prompt(PROMPTS, "cpu", 1, False)[0], None
    elif name == "sdxl":
        states, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu")
    elif name == "sd3":
        states, _, pooled, _ = pipeline.encode_prompt(
            PROMPTS, None, None, device="cpu", max_sequence_length=TOKENS
        )
    else:
        states, pooled, _ = pipeline.encode_prompt(PROMPTS, device="cpu", max_sequence_length=TOKENS)
    assert set(ours) == {"encoder_hidden_states"} | ({"pooled"} if pooled is not None else set())
    assert states.std() > 0.01
    torch.testing.assert_close(ours["encoder_hidden_states"], states)
    if pooled is not None:
        torch.testing.assert_close(ours["pooled"], pooled)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
@pytest.mark.parametrize("name", TINY)
def test_images_are_those_of_the_stock_pipeline(name: str, guidance: float, folders: dict[str, Path]) -> None:
    backbone = load(folders[name])
    noise = initial_noise(backbone, [1, 2], RESOLUTION)
    ours = generate(
        backbone,
        PROMPTS,
        noise=noise,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        resolution=RESOLUTION,
    )
    expected = draw_stock(stock(folders[name]), PROMPTS, noise, guidance)
    assert np.stack([np.asarray(image) for image in ours]).std() > CONTRASTING
    assert farthest(ours, expected) <= LEVELS


@pytest.mark.parametrize("negative", ["a red teapot", ""])
@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_a_negative_prompt_is_taken_as_by_the_stock_pipeline(
    name: str, negative: str, folders: dict[str, Path]
) -> None:
    """An empty one that is given is read like any other, also where no prompt would be zeros (SDXL)."""
    backbone = load(folders[name])
    noise = initial_noise(backbone, [1, 2], RESOLUTION)

    def draw(negative_prompt: str | None) -> list[Any]:
        return generate(
            backbone,
            PROMPTS,
            noise=noise,
            num_inference_steps=STEPS,
            resolution=RESOLUTION,
            negative_prompt=negative_prompt,
        )

    expected = draw_stock(stock(folders[name]), PROMPTS, noise, negative_prompt=negative)
    assert farthest(draw(negative), expected) <= LEVELS
    differs = negative != "" or backbone.zero_unconditional
    assert (draw(None) != draw(negative)) == differs


@pytest.mark.parametrize(("name", "guidance"), [("flux", 3.0), ("sd1", 1.0)])
def test_a_negative_prompt_has_no_effect_without_a_pass_of_its_own(
    name: str, guidance: float, folders: dict[str, Path]
) -> None:
    backbone = load(folders[name])
    with_it, without = (
        generate(
            backbone, PROMPTS, seeds=[1, 2], num_inference_steps=STEPS, guidance_scale=guidance,
            resolution=RESOLUTION, negative_prompt=negative,
        )
        for negative in ("a red teapot", None)
    )  # fmt: skip
    assert farthest(with_it, torch.from_numpy(np.stack(without)).permute(0, 3, 1, 2) / 255) <= LEVELS


@pytest.mark.parametrize(
    ("name", "change"),
    [("sdxl", {}), ("sd3", {"shift": 1.0}), ("flux", {"base_shift": 1.0, "max_shift": 2.0})],
)
def test_other_sizes_or_another_shift_would_be_seen(
    name: str, change: dict[str, float], folders: dict[str, Path]
) -> None:
    """The test above would fail if the denoiser were told another size, or noise levels were shifted otherwise."""
    backbone = load(folders[name])
    noise = initial_noise(backbone, [1, 2], RESOLUTION)
    if change:
        backbone.others["scheduler"] = type(backbone.scheduler).from_config(
            backbone.scheduler.config, **change
        )
    else:
        vars(backbone)["latent_factor"] = (
            2 * backbone.latent_factor
        )  # images twice as large of the same latents
    ours = generate(backbone, PROMPTS, noise=noise, num_inference_steps=STEPS, guidance_scale=3.0)
    assert farthest(ours, draw_stock(stock(folders[name]), PROMPTS, noise, 3.0)) > 4 * LEVELS


def test_guidance_of_zeros_follows_the_models_own_option(folders: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(folders["sdxl"], tmp_path / "sdxl"))
    change_json(other / "model_index.json", force_zeros_for_empty_prompt=False)
    here, there = load(folders["sdxl"]), load(other)
    assert (here.zero_unconditional, there.zero_unconditional) == (True, False)
    assert here.digest() != there.digest()  # class images are others
    noise = initial_noise(there, [1], RESOLUTION)
    (ours,) = generate(there, PROMPTS[:1], noise=noise, num_inference_steps=STEPS)
    expected = draw_stock(stock(other), PROMPTS[:1], noise)
    assert np.abs(np.asarray(ours) - 255 * expected[0].permute(1, 2, 0).numpy()).max() <= 1.5


def test_the_guidance_of_a_distilled_model_is_an_input(folders: dict[str, Path]) -> None:
    backbone = load(folders["flux"])
    conditioning = backbone.encode_prompts(PROMPTS[:1])
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        low, high = (
            backbone.denoise(latents, torch.tensor(500.0), conditioning, guidance=guidance)
            for guidance in (1.0, 3.5)
        )
    assert (low - high).abs().max() > 1e-4


def test_packing_is_undone() -> None:
    latents = torch.arange(2 * 4 * 4 * 6).reshape(2, 4, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 16)
    assert tokens[0, 1].reshape(4, 2, 2)[3].tolist() == latents[0, 3, 0:2, 2:4].tolist()
    assert torch.equal(unpack(tokens, 4, 6), latents)


def test_a_schedule_without_signal_at_its_end_is_sampled_from_there(tmp_path: Path) -> None:
    folder = make_tiny("sd2", tmp_path / "sd2", rescale_betas_zero_snr=True)
    backbone = load(folder)
    assert backbone.alphas_cumprod[-1] == 0
    assert backbone.prediction_type == "v_prediction"
    assert make_solver(backbone, 5, 4).timesteps.tolist() == [999, 799, 599, 399, 199]
    (image,) = generate(backbone, PROMPTS[:1], seeds=[1], num_inference_steps=4)
    assert np.asarray(image).std() > 1


def test_no_signal_at_the_end_is_refused_where_the_noise_is_predicted(tmp_path: Path) -> None:
    folder = make_tiny("sd2", tmp_path / "sd2", rescale_betas_zero_snr=True, prediction_type="epsilon")
    text = faults(folder)
    assert "rescale_betas_zero_snr with prediction_type: epsilon" in text
    assert "a model that predicts v" in text


@pytest.mark.parametrize(
    ("name", "scheduler", "expected"),
    [
        ("sdxl", "FlowMatchEulerDiscreteScheduler", "needs a noise schedule of diffusion"),
        ("sdxl", "EDMEulerScheduler", "EDM's preconditioning"),
        ("sd3", "DDIMScheduler", "needs a sampler of flow matching"),
    ],
)
def test_noise_of_another_kind_is_refused(
    name: str, scheduler: str, expected: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    change_json(folder / "scheduler" / "scheduler_config.json", _class_name=scheduler)
    assert expected in faults(folder)


def test_a_denoiser_that_takes_guidance_as_a_condition_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """A latent consistency model would be trained as if it had none."""
    folder = Path(shutil.copytree(folders["sd1"], tmp_path / "lcm"))
    change_json(folder / "unet" / "config.json", time_cond_proj_dim=256)
    text = faults(folder)
    assert "states time_cond_proj_dim in unet/config.json" in text
    assert "take the model that it was distilled from" in text


def test_a_distilled_model_is_a_note(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["flux"], tmp_path / "schnell"))
    change_json(folder / "transformer" / "config.json", guidance_embeds=False)
    assert faults(folder) == ""
    (note,) = model_notes(ModelConfig(path=str(folder)))
    assert "guidance_embeds: false in transformer/config.json" in note
    for name in ("flux", "sd3", "sdxl"):
        assert model_notes(ModelConfig(path=str(folders[name]))) == []


def test_an_unknown_prediction_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["sd1"], tmp_path / "sd1"))
    change_json(folder / "scheduler" / "scheduler_config.json", prediction_type="flow_prediction")
    assert "'flow_prediction'" in faults(folder)


@pytest.mark.parametrize(
    ("name", "part", "value", "expected"),
    [
        ("sdxl", "text_encoder_2", {"hidden_size": 20}, "cross_attention_dim of unet/ is 40"),
        ("sd3", "text_encoder", {"projection_dim": 20}, "pooled_projection_dim of transformer/ is 40"),
        ("flux", "vae", {"latent_channels": 8}, "in_channels of transformer/ is 16"),
    ],
)
def test_parts_of_different_models_are_refused(
    name: str, part: str, value: dict[str, int], expected: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders[name], tmp_path / name))
    change_json(folder / part / "config.json", **value)
    text = faults(folder)
    assert expected in text
    assert "it should be" in text


def test_squares_of_latents_must_fit_the_resolution(folders: dict[str, Path]) -> None:
    assert faults(folders["sdxl"], 20) == ""
    assert "take 16" in faults(folders["flux"], 20)
    assert faults(folders["flux"], 24) == ""


@pytest.mark.parametrize(("name", "limit"), [("sd1", 77), ("sdxl", 77), ("sd3", TOKENS), ("flux", TOKENS)])
def test_prompts_are_as_long_as_the_longest_reader_takes(
    name: str, limit: int, folders: dict[str, Path]
) -> None:
    reader = pipeline_reader(folders[name])
    assert reader is not None
    assert reader.limit == limit
    (reading,) = reader.read(["a cat " * 60]) or ()
    assert reading.cut_at is not None
    backbone = load(folders[name])
    assert backbone.prompt_tokenizer.model_max_length == limit


def test_pooled_states_are_taken_at_the_end_beside_added_words(folders: dict[str, Path]) -> None:
    """transformers takes them at the largest token, which is an added word's, for configurations of that age."""
    backbone = load(folders["sdxl"])
    before = backbone.encode_prompts(["a cat"])
    backbone.add_tokens({"<new>": "cat"})
    with torch.no_grad():
        after = backbone.encode_prompts(["a <new>"])
    torch.testing.assert_close(after["pooled"], before["pooled"])
    backbone.restore()


@pytest.mark.parametrize("name", ["sdxl", "flux"])
def test_weights_of_half_precision_under_a_variant(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / name
    stock(folders[name]).to(torch.float16).save_pretrained(str(folder), variant="fp16")
    assert "variant: fp16" in faults(folder)
    model = ModelConfig(path=str(folder), variant="fp16")
    assert check_model(model) == []
    backbone = load_backbone(model)
    whole = load(folders[name])
    for part, module in backbone.modules.items():
        expected = whole.modules[part].state_dict()
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                assert value.dtype == torch.float32
                torch.testing.assert_close(value, expected[key].half().float(), rtol=0, atol=0)


def test_a_model_that_has_just_been_fetched_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hub id that is not here nothing is known but its class, before it is loaded."""
    folder = make_tiny("sd2", tmp_path / "sd2", rescale_betas_zero_snr=True, prediction_type="epsilon")
    monkeypatch.setattr("trainables.models.loading.check_model", lambda model: [])
    monkeypatch.setattr("trainables.models.loading.resolve_model", lambda model: folder)
    with pytest.raises(UserError, match="model 'some/model' states rescale_betas_zero_snr"):
        load_backbone(ModelConfig(path="some/model"))
