"""Words that were trained with weights: both come out of every format, and draw the image that the run drew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.helpers.exported_layouts import stem_of
from tests.helpers.exported_weights import exported, load, trained
from tests.helpers.stock_images import draw_stock
from tests.helpers.tiny_families import RESOLUTION, make_tiny
from trainables.methods.exporting import files_in
from trainables.methods.registry import get_method
from trainables.methods.word_exports import bundled_word, file_word
from trainables.models.backbone import Backbone
from trainables.models.families import family_in
from trainables.models.sampling import initial_noise

CUSTOM, PIVOTAL = "custom_diffusion", "pivotal_tuning"
WIDTHS = {"sd1": (16,), "sdxl": (16, 24)}
BUNDLED = {"sd1": ["string_to_param.*"], "sdxl": ["clip_l", "clip_g"]}
ENDS = ["", "_2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: make_tiny(name, place / name) for name in ("sd1", "sdxl")}


def images(pipeline: Any, backbone: Backbone, prompt: str) -> torch.Tensor:
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    return draw_stock(pipeline, [prompt], initial_noise(backbone, [1], RESOLUTION))


def stock(folder: Path) -> Any:
    """Returns the stock pipeline of a folder, in the memory layout of the project: kernels round by it."""
    pipeline = family_in(folder).stock_pipeline().from_pretrained(str(folder), local_files_only=True)
    for module in (pipeline.unet, pipeline.vae):
        module.to(memory_format=torch.channels_last)
    return pipeline


def by_code(code: str, folder: Path, place: Path) -> Any:
    """Runs the code that an export states, with the base model's folder and the place of the files filled in."""
    names: dict[str, Any] = {}
    code = code.replace('"BASE MODEL"', repr(str(folder))).replace('"out', f'"{place.parent}/out')
    exec(compile(code, "usage", "exec"), names)
    pipeline = names["pipeline"]
    for module in (pipeline.unet, pipeline.vae):
        module.to(memory_format=torch.channels_last)
    for end in ENDS[: 1 + hasattr(pipeline, "text_encoder_2")]:
        encoder = getattr(pipeline, f"text_encoder{end}")
        getattr(encoder, "text_model", encoder).eos_token_id = getattr(
            pipeline, f"tokenizer{end}"
        ).eos_token_id
    return pipeline


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("method", [CUSTOM, PIVOTAL])
def test_what_is_loaded_again_draws_the_same_image(
    method: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """For diffusers bit by bit; a LoRA of full rank adds the difference anew, and merging rounds."""
    folder = folders[name]
    backbone = load(folder)
    fields = {"r": 2} if method == PIVOTAL else {}
    config = trained(backbone, method, tmp_path / "weights", num_vectors=2, **fields)
    prompt = config.reword("a sks cat")
    ours = images(get_method(method).load(load(folder).pipeline(), tmp_path / "weights"), backbone, prompt)
    assert (ours - images(stock(folder), backbone, "a sks cat")).abs().max() > 0.01
    place = tmp_path / "out"
    done = exported(folder, method, config, tmp_path / "weights", "diffusers", place)
    weights = {CUSTOM: "pytorch_custom_diffusion_weights", PIVOTAL: "pytorch_lora_weights"}[method]
    words = [f"learned_embeds{end}.safetensors" for end in ENDS[: len(WIDTHS[name])]]
    assert [str(path) for path in files_in(place)] == sorted([f"{weights}.safetensors", *words])
    assert torch.equal(images(by_code(done.usage, folder, place), backbone, prompt), ours)

    for form in ("peft", "merged"):
        place = tmp_path / f"out-{form}"
        done = exported(folder, method, config, tmp_path / "weights", form, place)
        again = by_code(done.usage, folder, place)
        torch.testing.assert_close(images(again, backbone, prompt), ours, rtol=0, atol=2e-3)
        if form == "merged":
            assert "not written as one file" in done.notes[0]
            assert not list(place.glob("*.safetensors"))
    if method == CUSTOM:  # merged weights are those that were trained
        assert all(
            torch.equal(value, again.unet.get_parameter(key))
            for key, value in backbone.denoiser.named_parameters()
        )


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("freeze_model", ["crossattn_kv", "crossattn"])
def test_projections_in_kohyas_names_are_dense_differences(
    freeze_model: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Keys against a list made of the UNet's own modules by the names that the programs have."""
    folder = folders[name]
    backbone, base = load(folder), load(folder)
    config = trained(backbone, CUSTOM, tmp_path / "weights", num_vectors=2, freeze_model=freeze_model)
    rows = [value.detach() for value in backbone.added_embeddings.values()]
    exported(folder, CUSTOM, config, tmp_path / "weights", "a1111", tmp_path / "out")
    file = tmp_path / "out" / "mine.safetensors"
    state = load_file(file)
    ends = ("attn2.to_k", "attn2.to_v") + (
        ("attn2.to_q", "attn2.to_out.0") if freeze_model == "crossattn" else ()
    )
    layers = [key for key, _ in base.denoiser.named_modules() if key.endswith(ends)]
    keys = {f"{stem_of(name, 'unet', layer)}.diff": f"{layer}.weight" for layer in layers}
    keys |= {
        f"{stem_of(name, 'unet', layer)}.diff_b": f"{layer}.bias" for layer in layers if "to_out" in layer
    }
    bundled = [f"bundle_emb.new1.{end}" for end in BUNDLED[name]]
    assert set(state) == {*keys, *bundled}
    for key, parameter in keys.items():
        change = backbone.denoiser.get_parameter(parameter) - base.denoiser.get_parameter(parameter)
        assert torch.equal(state[key], change.detach())
    assert all(torch.equal(state[key], value) for key, value in zip(bundled, rows, strict=True))
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert about["ss_network_module"] == "lycoris.kohya"
    assert about["modelspec.trigger_phrase"] == "a new1 cat"


def comfyui_reads(state: dict[str, torch.Tensor], encoder: str) -> torch.Tensor | None:
    """An embedding inside a file of adapters as ComfyUI looks for it: by the end of its keys."""
    for end in (".string_to_param.*", f".{encoder}"):
        found = [state[key] for key in state if key.startswith("bundle_emb.") and key.endswith(end)]
        if found:
            return torch.cat(found, 0)
    return None


def a1111_reads(state: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Word -> tensors, as A1111 splits the keys: at the first two points."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        begin, _, rest = key.partition(".")
        if begin == "bundle_emb":
            word, vector = rest.split(".", 1)
            found.setdefault(word, {})[vector.removeprefix("string_to_param.")] = value
    return found


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_words_inside_a_file_are_found_as_programs_look_for_them(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders[name]
    backbone = load(folder)
    config = trained(
        backbone, PIVOTAL, tmp_path / "weights", r=2, placeholder_token="<my.cat>", num_vectors=3
    )
    rows = [value.detach() for value in backbone.added_embeddings.values()]
    assert [tuple(value.shape) for value in rows] == [(3, width) for width in WIDTHS[name]]
    for form in ("a1111", "comfyui"):
        done = exported(folder, PIVOTAL, config, tmp_path / "weights", form, tmp_path / form)
        assert [str(path) for path in files_in(tmp_path / form)] == ["mine.safetensors"]
        state = load_file(tmp_path / form / "mine.safetensors")
        for number, encoder in enumerate(("clip_l", "clip_g")[: len(rows)]):
            read = comfyui_reads(state, encoder)
            assert read is not None
            assert torch.equal(read, rows[number])
        ((word, vectors),) = a1111_reads(state).items()
        assert word == "my-cat"
        assert list(vectors) == (["*"] if name == "sd1" else ["clip_g", "clip_l"])
        said = {"a1111": "my-cat", "comfyui": "embedding:mine"}[form]
        assert said in done.usage
        assert "<my.cat>" in done.notes[-1]
    done = exported(folder, PIVOTAL, config, tmp_path / "weights", "kohya", tmp_path / "kohya")
    assert [str(path) for path in files_in(tmp_path / "kohya")] == ["mine.safetensors", "my.cat.safetensors"]
    alone = load_file(tmp_path / "kohya" / "my.cat.safetensors")
    assert set(alone) == ({"emb_params"} if name == "sd1" else {"clip_l", "clip_g"})
    assert not a1111_reads(load_file(tmp_path / "kohya" / "mine.safetensors"))
    assert "--textual_inversion_embeddings my.cat.safetensors" in done.usage


@pytest.mark.parametrize("method", [CUSTOM, PIVOTAL, "textual_inversion"])
def test_users_of_a_program_are_told_its_own_word(
    method: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """What readers show (the trigger, the frequency of tags) and the card say what a prompt there must hold."""
    fields = {"keep_class_noun": True} if method == "textual_inversion" else {}
    config = trained(
        load(folders["sd1"]), method, tmp_path / "weights", placeholder_token="<my.cat>", **fields
    )
    assert config.reword("a sks cat") == "a <my.cat> cat"
    alone = method == "textual_inversion"
    said = {"a1111": "my.cat" if alone else "my-cat", "kohya": "my.cat", "diffusers": "<my.cat>",
            "comfyui": "embedding:my.cat" if alone else "embedding:mine"}  # fmt: skip
    for form, word in said.items():
        done = exported(folders["sd1"], method, config, tmp_path / "weights", form, tmp_path / form)
        trigger = f"a {word} cat"
        assert done.trigger == (None if form == "diffusers" else trigger)
        files = sorted((tmp_path / form).glob("*.safetensors"))
        assert files
        for file in files:
            with safe_open(file, "pt") as opened:
                about = opened.metadata()
            (shown,) = json.loads(about["ss_tag_frequency"]).values()
            assert shown == {trigger: 1}
            is_word = file.name == "my.cat.safetensors"  # called as its word, which alone is its trigger
            assert about["modelspec.trigger_phrase"] == ("my.cat" if is_word else trigger)


def test_words_become_names_of_files_and_keys() -> None:
    assert [file_word(word) for word in ("<sks>", "<a b>", "<my.cat>", "<>>")] == [
        "sks",
        "a-b",
        "my.cat",
        "word",
    ]
    assert bundled_word("<my.cat>") == "my-cat"


@pytest.mark.parametrize(
    ("method", "form"),
    [(CUSTOM, "a1111"), (CUSTOM, "peft"), (PIVOTAL, "comfyui"), (PIVOTAL, "diffusers")],
)
def test_the_same_run_gives_the_same_bytes(
    method: str, form: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = trained(load(folders["sd1"]), method, tmp_path / "weights")
    for place in ("a", "b"):
        exported(folders["sd1"], method, config, tmp_path / "weights", form, tmp_path / place)
    names = list(files_in(tmp_path / "a"))
    assert names == list(files_in(tmp_path / "b"))
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)
    assert not any(str(tmp_path).encode() in (tmp_path / "a" / name).read_bytes() for name in names)
