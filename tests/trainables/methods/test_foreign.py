"""Files that were trained elsewhere are put on the base model as their programs would, and taken off bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.exported_weights import exported, installed, load, trained
from tests.helpers.tiny_families import make_tiny
from trainables.data.path_map import set_path_map
from trainables.errors import UserError
from trainables.methods.adapter_files import adapted_layers
from trainables.methods.foreign_files import inspect
from trainables.methods.registry import get_method, method_config_class, method_names
from trainables.models.backbone import Backbone

CONV = ["to_q", "to_v", "conv1", "proj_in"]
TEXT = {"train_text_encoder": True}
#: Case -> family, method, its fields, format, layout as it is found.
CASES: dict[str, tuple[str, str, dict[str, Any], str, str]] = {
    "lora-kohya": ("sd1", "lora", {"r": 2, "lora_alpha": 3, "target_modules": CONV, **TEXT}, "kohya", "kohya"),
    "lora-kohya-sdxl": ("sdxl", "lora", {"r": 2, "lora_alpha": 3, "target_modules": CONV, **TEXT}, "kohya", "kohya"),
    "lora-diffusers": ("sd1", "lora", {"r": 2, "lora_alpha": 3, **TEXT}, "diffusers", "diffusers"),
    "lora-peft": ("sd1", "lora", {"r": 2}, "peft", "folders"),
    "dora-diff": ("sd1", "lora", {"adapter": "dora", "r": 2, "target_modules": CONV}, "comfyui", "kohya"),
    "loha": ("sd1", "lora", {"adapter": "loha", "r": 2, "use_effective_conv2d": True, "target_modules": CONV},
             "a1111", "kohya"),
    "lokr": ("sd1", "lora", {"adapter": "lokr", "r": 2, "decompose_factor": 4, "target_modules": CONV, **TEXT},
             "a1111", "kohya"),
    "ia3-diff": ("sd1", "lora", {"adapter": "ia3", "target_modules": CONV}, "kohya", "kohya"),
    "boft-peft": ("sd1", "lora", {"adapter": "boft", "target_modules": CONV}, "peft", "folders"),
    "merged": ("sd1", "lora", {"r": 2, **TEXT}, "merged", "pipeline"),
    "model-file-sd1": ("sd1", "dreambooth", TEXT, "kohya", "checkpoint"),
    "model-file-sdxl": ("sdxl", "dreambooth", TEXT, "comfyui", "checkpoint"),
    "pivotal-sd1": ("sd1", "pivotal_tuning", {"r": 2, "num_vectors": 2}, "a1111", "kohya"),
    "pivotal-sdxl": ("sdxl", "pivotal_tuning", {"adapter": "dora", "r": 2}, "comfyui", "kohya"),
    "custom-sd1": ("sd1", "custom_diffusion", {"freeze_model": "crossattn", "num_vectors": 2}, "a1111", "kohya"),
    "custom-sdxl": ("sdxl", "custom_diffusion", {}, "comfyui", "kohya"),
    "pivotal-diffusers": ("sd1", "pivotal_tuning", {"r": 2, "num_vectors": 2}, "diffusers", "folders"),
    "pivotal-peft": ("sdxl", "pivotal_tuning", {"r": 2, "num_vectors": 2}, "peft", "folders"),
    "pivotal-merged": ("sdxl", "pivotal_tuning", {"r": 2, "num_vectors": 2}, "merged", "pipeline"),
    "custom-diffusers": ("sd1", "custom_diffusion", {"freeze_model": "crossattn"}, "diffusers", "projections"),
    "custom-diffusers-sdxl": ("sdxl", "custom_diffusion", {"num_vectors": 2}, "diffusers", "projections"),
    "custom-peft": ("sd1", "custom_diffusion", {"num_vectors": 2}, "peft", "folders"),
    "custom-merged": ("sd1", "custom_diffusion", {"num_vectors": 2}, "merged", "pipeline"),
    "word-merged": ("sd1", "textual_inversion", {"placeholder_token": "<my-cat>"}, "merged", "pipeline"),
    "word-diffusers": ("sd1", "textual_inversion", {"placeholder_token": "<my-cat>"}, "diffusers", "embedding"),
    "word-diffusers-sdxl": ("sdxl", "textual_inversion", {"num_vectors": 2}, "diffusers", "embedding"),
    "word": ("sdxl", "textual_inversion", {"num_vectors": 2}, "kohya", "embedding"),
    "hypernetwork": ("sd1", "hypernetwork", {"activation_func": "relu"}, "a1111", "hypernetwork"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: make_tiny(name, place / name) for name in ("sd1", "sdxl")}


def outputs(backbone: Backbone, prompt: str) -> dict[str, torch.Tensor]:
    for module in backbone.modules.values():
        module.eval()
    inputs = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        texts = backbone.encode_prompts([prompt])
        return {"denoiser": backbone.denoise(inputs, torch.tensor([500]), texts), **texts}


@pytest.mark.parametrize("case", CASES)
def test_what_was_exported_comes_back(case: str, folders: dict[str, Path], tmp_path: Path) -> None:
    family, name, fields, form, layout = CASES[case]
    backbone = load(folders[family])
    config = trained(backbone, name, tmp_path / "weights", **fields)
    prompt = config.reword("a sks cat")
    ours = outputs(backbone, prompt)
    exported(folders[family], name, config, tmp_path / "weights", form, tmp_path / "out")
    files = list((tmp_path / "out").iterdir())
    whole = layout in ("folders", "pipeline") or len(files) > 1
    path = tmp_path / "out" if whole else files[0]
    is_found = inspect(path, folders[family])
    assert is_found.layout == layout
    assert is_found.word == getattr(config, "placeholder_token", "").strip("<>")
    assert is_found.vectors == getattr(config, "num_vectors", 0)

    again = load(folders[family])
    untouched, base = again.parameter_digest(), outputs(again, "a sks cat")
    bare = prompt.replace("<", "").replace(">", "")  # as other programs say it
    taken = installed(again, path, **({"prompt": bare} if bare != prompt else {}))
    said = taken.reword("a sks cat")
    found = outputs(again, said)
    assert any((found[key] - value).abs().max() > 1e-3 for key, value in base.items())
    for key, value in ours.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=5e-5, msg=key)
    get_method("foreign").detach(again)
    again.restore()
    assert again.parameter_digest() == untouched
    assert again.is_base_model()
    assert all(torch.equal(value, base[key]) for key, value in outputs(again, "a sks cat").items())


@pytest.mark.parametrize(
    ("adapter", "form"),
    [
        *((adapter, "peft") for adapter in ("lora", "rslora", "dora", "loha", "lokr", "boft", "hra", "ia3")),
        *((adapter, "diffusers") for adapter in ("lora", "rslora", "dora", "lokr")),
    ],
)
def test_adapters_draw_bit_by_bit_what_they_drew_in_training(
    adapter: str, form: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Kernels of convolutions round by how weights lie in memory, which a loader must not change."""
    backbone = load(folders["sdxl"])
    fields = {"adapter": adapter, "target_modules": CONV, "train_text_encoder": form == "peft"}
    fields |= {"use_effective_conv2d": True} if adapter in ("loha", "lokr") else {}
    config = trained(backbone, "lora", tmp_path / "weights", **fields)
    ours = outputs(backbone, "a sks cat")
    exported(folders["sdxl"], "lora", config, tmp_path / "weights", form, tmp_path / "out")
    path = tmp_path / "out"
    again = load(folders["sdxl"])
    installed(again, path if form == "peft" else path / "pytorch_lora_weights.safetensors")
    assert layouts(again) == layouts(backbone)
    for key, value in outputs(again, "a sks cat").items():
        assert torch.equal(value, ours[key]), key


def layouts(backbone: Backbone) -> dict[str, tuple[int, ...]]:
    return {
        name: layer.get_base_layer().weight.stride()
        for name, layer in adapted_layers(backbone.denoiser).items()
    }


def test_layouts_of_other_programs(folders: dict[str, Path], tmp_path: Path) -> None:
    """One folder of PEFT, diffusers' names of 2023, and A1111's embedding, against the same values written by hand."""
    config = trained(load(folders["sd1"]), "lora", tmp_path / "weights", r=2, target_modules=["attn2.to_k"])
    exported(folders["sd1"], "lora", config, tmp_path / "weights", "peft", tmp_path / "peft")
    folder = tmp_path / "peft" / "unet"
    assert inspect(folder).layout == "peft"
    state = load_file(folder / "adapter_model.safetensors")
    old = {
        "unet." + key.removeprefix("base_model.model.").replace("attn2.to_k.lora_A", "attn2.processor.to_k_lora.down")
        .replace("attn2.to_k.lora_B", "attn2.processor.to_k_lora.up"): value
        for key, value in state.items()
    }  # fmt: skip
    save_file(old, tmp_path / "old.safetensors")
    found = []
    for path in (folder, tmp_path / "old.safetensors"):
        backbone = load(folders["sd1"])
        base = outputs(backbone, "a sks cat")["denoiser"]
        installed(backbone, path)
        found.append(outputs(backbone, "a sks cat")["denoiser"])
        assert (found[-1] - base).abs().max() > 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=5e-5)

    rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    torch.save(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": rows}, "name": "w"}, tmp_path / "w.pt"
    )
    backbone = load(folders["sd1"])
    config = installed(backbone, tmp_path / "w.pt", prompt="a w cat")
    assert torch.equal(backbone.added_embeddings["text_encoder"], rows)
    assert config.reword("a sks cat") == "a <w> cat"


@pytest.mark.parametrize("outputs_", [True, False])
def test_dora_in_kohyas_names_is_read_along_the_axis_of_its_shape(
    outputs_: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    """DoRA's equation 5 in plain torch, for magnitudes of outputs and of inputs (LyCORIS at first)."""
    backbone = load(folders["sd1"])
    name = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2"
    base = backbone.denoiser.get_submodule(name).weight.detach().clone()
    draws = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, base.shape[1], generator=draws), torch.randn(base.shape[0], 2, generator=draws)
    shape = (base.shape[0], 1) if outputs_ else (1, base.shape[1])
    scale = torch.rand(shape, generator=draws) + 0.5
    stem = f"lora_unet_{name.replace('.', '_')}"
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.dora_scale": scale,
               f"{stem}.alpha": torch.tensor(1.0)}, tmp_path / "d.safetensors")  # fmt: skip
    installed(backbone, tmp_path / "d.safetensors")
    merged = base + 0.5 * up @ down
    expected = scale * merged / merged.norm(dim=1 if outputs_ else 0, keepdim=True)
    torch.testing.assert_close(backbone.denoiser.get_submodule(name).weight, expected)


def test_tucker_factors_of_a_file_that_lycoris_wrote(folders: dict[str, Path], tmp_path: Path) -> None:
    """LoCon with a core is three convolutions one after another, LoKr with one blocks of w1[a, b] times a kernel."""
    backbone, draws = load(folders["sd1"]), torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draws)

    names = ("down_blocks.0.resnets.0.conv1", "mid_block.resnets.0.conv2")
    base = [backbone.denoiser.get_submodule(name).weight.detach().clone() for name in names]
    stems = [f"lora_unet_{name.replace('.', '_')}" for name in names]
    outputs_, inputs, *_ = base[0].shape
    down, core, up = drawn(2, inputs, 1, 1), drawn(2, 2, 3, 3), drawn(outputs_, 2, 1, 1)
    rows, columns = (side // 4 for side in base[1].shape[:2])
    first, factor, left, right = drawn(4, 4), drawn(3, 3, 3, 3), drawn(3, rows), drawn(3, columns)
    save_file({f"{stems[0]}.lora_down.weight": down, f"{stems[0]}.lora_mid.weight": core,
               f"{stems[0]}.lora_up.weight": up, f"{stems[0]}.alpha": torch.tensor(1.0),
               f"{stems[1]}.lokr_w1": first, f"{stems[1]}.lokr_t2": factor, f"{stems[1]}.lokr_w2_a": left,
               f"{stems[1]}.lokr_w2_b": right, f"{stems[1]}.alpha": torch.tensor(6.0)},
              tmp_path / "tucker.safetensors")  # fmt: skip
    installed(backbone, tmp_path / "tucker.safetensors")
    after = [backbone.denoiser.get_submodule(name).weight.detach() for name in names]

    conv2d, image = torch.nn.functional.conv2d, drawn(1, inputs, 5, 5)
    chained = conv2d(conv2d(conv2d(image, down), core, padding=1), up) / 2
    torch.testing.assert_close(conv2d(image, after[0] - base[0], padding=1), chained, rtol=1e-4, atol=1e-4)

    second = sum(
        left[i, :, None, None, None] * right[j, None, :, None, None] * factor[i, j]
        for i in range(3)
        for j in range(3)
    )
    for a in range(4):
        for b in range(4):
            block = (after[1] - base[1])[a * rows : (a + 1) * rows, b * columns : (b + 1) * columns]
            torch.testing.assert_close(block, 2 * first[a, b] * second, rtol=1e-4, atol=1e-4)


def test_text_encoders_of_sd1_are_read_by_both_of_their_names(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """`lora_te_` is kohya's, `lora_te1_` that of tools which number it as for SDXL."""
    found = []
    for prefix in ("lora_te", "lora_te1"):
        backbone = load(folders["sd1"])
        (layer,) = (
            module
            for name, module in backbone.text_encoders[0].named_modules()
            if name.endswith("encoder.layers.0.self_attn.q_proj")
        )
        base, draws = layer.weight.detach().clone(), torch.Generator().manual_seed(0)
        change = torch.randn(base.shape, generator=draws)
        stem = f"{prefix}_text_model_encoder_layers_0_self_attn_q_proj"
        save_file({f"{stem}.diff": change}, tmp_path / f"{prefix}.safetensors")
        installed(backbone, tmp_path / f"{prefix}.safetensors")
        torch.testing.assert_close(layer.weight, base + change)
        found.append(layer.weight.detach())
    assert torch.equal(*found)


def test_files_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    config = trained(load(folders["sdxl"]), "lora", tmp_path / "weights", r=2)
    exported(folders["sdxl"], "lora", config, tmp_path / "weights", "kohya", tmp_path / "out")
    file = tmp_path / "out" / "mine.safetensors"
    backbone = load(folders["sd1"])
    untouched = backbone.parameter_digest()
    with pytest.raises(UserError, match="another kind of model"):
        installed(backbone, file)  # its cross-attention is wider
    state = load_file(file)
    save_file(
        {**state, "lora_unet_conv_nowhere.lora_down.weight": torch.ones(1, 1)}, tmp_path / "more.safetensors"
    )
    with pytest.raises(UserError, match="lora_unet_conv_nowhere"):
        installed(load(folders["sdxl"]), tmp_path / "more.safetensors")
    first = next(key for key in state if key.endswith(".alpha")).removesuffix(".alpha")
    save_file({f"{first}.oft_blocks": torch.ones(2, 2)}, tmp_path / "oft.safetensors")
    with pytest.raises(UserError, match="oft_blocks is of a kind that is not read"):
        installed(load(folders["sdxl"]), tmp_path / "oft.safetensors")
    save_file({"emb_params": torch.ones(1, 7)}, tmp_path / "narrow.safetensors")
    with pytest.raises(UserError, match="vectors of 7 numbers"):
        installed(backbone, tmp_path / "narrow.safetensors")
    save_file({"clip_l": torch.ones(1, 16), "clip_g": torch.ones(1, 16)}, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match="clip_g, clip_l"):
        installed(backbone, tmp_path / "two.safetensors")
    assert backbone.parameter_digest() == untouched
    set_path_map({"m": str(file)})
    wrong = {"file": "m", "sha256": "0" * 64, "layout": "kohya"}
    with pytest.raises(UserError, match="not the file that this run was begun with"):
        get_method("foreign").install(backbone, method_config_class("foreign").model_validate(wrong))  # type: ignore[attr-defined]


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{broken")
    (tmp_path / "x.ckpt").write_bytes(b"PK")
    (tmp_path / "x.pt").write_bytes(b"PK")
    (tmp_path / "empty").mkdir()
    save_file({"blocks.0.weight": torch.ones(2, 2, 2)}, tmp_path / "other.safetensors")
    said = {"x.safetensors": "damaged", "x.ckpt": "may hold code", "x.pt": "damaged, or holds code",
            "empty": "no weights of a known layout", "other.safetensors": "blocks.0.weight",
            "none": "there is no"}  # fmt: skip
    for name, message in said.items():
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            inspect(tmp_path / name)


def test_an_embedding_is_said_by_its_word() -> None:
    fields = {"file": "f", "sha256": "0" * 64, "layout": "embedding", "word": "sks", "vectors": 2}
    config = method_config_class("foreign").model_validate(fields | {"prompt": "a photo of sks, masks"})
    assert config.reword("a cat") == "a photo of <sks>, masks"
    assert config.added_words == ("<sks>", "<sks>_1")
    strange = fields | {"word": r"s\1\g<0>x", "prompt": r"a s\1\g<0>x cat"}  # a file may be called anything
    assert method_config_class("foreign").model_validate(strange).reword("") == r"a <s\1\g<0>x> cat"
    with pytest.raises(ValueError, match="does not hold the embedding's word, 'sks'"):
        method_config_class("foreign").model_validate(fields | {"prompt": "a photo of a cat"})


def test_of_a_data_set_the_trigger_alone_is_called_otherwise() -> None:
    """Captions keep their words, a comma stands between, and an embedding's word is looked for in the prompt alone."""
    fields = {"file": "f", "sha256": "0" * 64, "layout": "kohya"}

    def said(text: str, trigger: str, **more: object) -> str:
        config = method_config_class("foreign").model_validate({**fields, **more})
        return config.for_subject(trigger, "").reword(text)

    own = "ink style, momo in the snow"
    assert said(own, "ink style, ") == own
    for prompt in ("red chalk", "red chalk,", "red chalk, "):
        assert said(own, "ink style, ", prompt=prompt) == "red chalk, momo in the snow"
        assert said("ink style, ", "ink style, ", prompt=prompt) == "red chalk, "
        assert said("momo in the snow", "", prompt=prompt) == "red chalk, momo in the snow"
    word = {"layout": "embedding", "word": "momo", "vectors": 1, "prompt": "by momo"}
    assert said(own, "ink style, ", **word) == "by <momo>, momo in the snow"
    config = method_config_class("foreign").model_validate({**fields, "prompt": "a zwx cat"})
    assert config.for_subject("a sks cat", "a cat").reword("a sks cat") == "a zwx cat"


def test_suffixes_are_read_in_any_case(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))
    torch.save({"string_to_param": {"*": rows}, "name": "w"}, tmp_path / "w.PT")
    save_file({"emb_params": rows}, tmp_path / "x.SAFETENSORS")
    config = trained(load(folders["sd1"]), "hypernetwork", tmp_path / "weights")
    exported(folders["sd1"], "hypernetwork", config, tmp_path / "weights", "a1111", tmp_path / "out")
    (tmp_path / "out" / "mine.pt").rename(tmp_path / "h.PT")
    layouts = {"w.PT": "embedding", "x.SAFETENSORS": "embedding", "h.PT": "hypernetwork"}
    for name, layout in layouts.items():
        assert inspect(tmp_path / name).layout == layout
        backbone = load(folders["sd1"])
        base = outputs(backbone, "a sks cat")["denoiser"]
        word = name.partition(".")[0]
        taken = installed(backbone, tmp_path / name, **({} if word == "h" else {"prompt": f"a {word} cat"}))
        assert not torch.equal(outputs(backbone, taken.reword("a sks cat"))["denoiser"], base)


def test_several_words_inside_a_file_of_adapters_are_refused(tmp_path: Path) -> None:
    rows = {f"bundle_emb.{word}.string_to_param.*": torch.ones(1, 16) for word in ("sks", "zwx")}
    save_file({**rows, "lora_unet_x.diff": torch.ones(2, 2)}, tmp_path / "two.safetensors")
    with pytest.raises(UserError, match=r"embeddings of 2 words \(sks, zwx\), and one is read"):
        inspect(tmp_path / "two.safetensors")


def test_a_whole_model_of_another_kind_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of another family, of other sizes, and marked as trained on other noise."""
    config = trained(load(folders["sd1"]), "dreambooth", tmp_path / "weights")
    exported(folders["sd1"], "dreambooth", config, tmp_path / "weights", "a1111", tmp_path / "out")
    file = tmp_path / "out" / "mine.safetensors"
    backbone = load(folders["sdxl"])
    untouched = backbone.parameter_digest()
    with pytest.raises(
        UserError, match=r"is a Stable Diffusion 1\.x, and the study's base model a Stable Diffusion XL"
    ):
        installed(backbone, file)
    assert backbone.parameter_digest() == untouched
    backbone, state = load(folders["sd1"]), load_file(file)
    save_file({**state, "v_pred": torch.zeros(0)}, tmp_path / "marked.safetensors")
    with pytest.raises(UserError, match="predicts v"):
        installed(backbone, tmp_path / "marked.safetensors")
    key = "model.diffusion_model.out.2.bias"
    save_file({name: value for name, value in state.items() if name != key}, tmp_path / "less.safetensors")
    with pytest.raises(UserError, match="lacks weights of the UNet"):
        installed(backbone, tmp_path / "less.safetensors")
    assert backbone.is_base_model()


def test_no_study_file_can_name_it() -> None:
    assert "foreign" not in method_names()
