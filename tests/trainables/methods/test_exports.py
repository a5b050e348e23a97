"""Exported weights: what other programs read of them is what was trained, by an independent reading of each layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.helpers.exported_layouts import kohya_keys, read_changes
from tests.helpers.exported_weights import exported, load, trained
from tests.helpers.stock_images import draw_stock
from tests.helpers.tiny_families import RESOLUTION, make_tiny
from trainables.methods.exporting import FORMATS, files_in, obstacle
from trainables.methods.registry import get_method, method_config_class, method_names
from trainables.models.backbone import Backbone
from trainables.models.families import FAMILIES, family_in
from trainables.models.sampling import initial_noise

CONV = ["to_q", "to_v", "conv1", "proj_in"]
#: Fields of adapters; the largest difference of what other programs compute, in float32, to what was trained.
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 2, "lora_alpha": 3, "rank_pattern": {"to_q": 4}, "target_modules": CONV},
    "rslora": {"r": 4},
    "dora": {"r": 2, "target_modules": CONV},
    "loha": {"r": 2, "lora_alpha": 3, "target_modules": CONV, "use_effective_conv2d": True},
    "lokr": {"r": 2, "lora_alpha": 3, "target_modules": CONV, "decompose_factor": 4, "rank_pattern": {"to_q": 1}},
    "oft": {"oft_block_size": 4},
    "ia3": {"target_modules": [*CONV, "ff.net.2"]},
}  # fmt: skip
LYCORIS = {"loha": "loha", "lokr": "lokr", "dora": "full", "oft": "full", "ia3": "full"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: make_tiny(name, place / name) for name in ("sd1", "sd2", "sdxl", "sd3", "flux")}


def images(pipeline: Any, backbone: Backbone, prompt: str = "a sks cat") -> torch.Tensor:
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    return draw_stock(pipeline, [prompt], initial_noise(backbone, [1], RESOLUTION))


def stock(folder: Path) -> Any:
    """Returns the stock pipeline of a folder, in the memory layout of the project: kernels round by it."""
    pipeline = family_in(folder).stock_pipeline().from_pretrained(str(folder), local_files_only=True)
    for module in (getattr(pipeline, "unet", None) or pipeline.transformer, pipeline.vae):
        module.to(memory_format=torch.channels_last)
    return pipeline


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as opened:
        return dict(opened.metadata())


def merged_changes(backbone: Backbone) -> dict[str, dict[str, torch.Tensor]]:
    """Part -> parameter of the base model -> what merging adds to it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: dict[str, dict[str, torch.Tensor]] = {}
    for part in backbone.family.trainable(text_encoders=True):
        changes = found.setdefault(part.name, {})
        for name, layer in backbone.modules[part.name].named_modules():
            if isinstance(layer, BaseTunerLayer):
                base = layer.get_base_layer()
                before = {key: value.detach().clone() for key, value in base.named_parameters()}
                layer.merge()  # type: ignore[operator]
                changes |= {
                    f"{name}.{key}": value.detach() - before[key] for key, value in base.named_parameters()
                }
    return found


@pytest.mark.parametrize(
    ("name", "kind"), [*(("sd1", kind) for kind in KINDS), ("sdxl", "lora"), ("sdxl", "dora")]
)
def test_files_in_kohyas_names_hold_what_was_trained(
    kind: str, name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load(folders[name])
    config = trained(
        backbone, "lora", tmp_path / "weights", adapter=kind, train_text_encoder=True, **KINDS[kind]
    )
    exported(folders[name], "lora", config, tmp_path / "weights", "a1111", tmp_path / "out")
    if name == "sd1":
        done = exported(folders[name], "lora", config, tmp_path / "weights", "kohya", tmp_path / "scripts")
        module = "lycoris.kohya" if kind in LYCORIS else "networks.lora"
        assert f"--network_module {module} --network_weights mine.safetensors" in done.usage
    assert [str(path) for path in files_in(tmp_path / "out")] == ["mine.safetensors"]
    file = tmp_path / "out" / "mine.safetensors"
    expected = merged_changes(backbone)
    state, layers = (
        load_file(file),
        {part: {key.rpartition(".")[0] for key in changes} for part, changes in expected.items()},
    )
    assert set(state) == kohya_keys(name, kind, layers, load(folders[name]).modules, KINDS[kind])
    found = read_changes(name, state, load(folders[name]).modules)
    for part, changes in expected.items():
        for key, value in changes.items():
            if value.any():
                difference = float((found[part].pop(key) - value).abs().max())
                assert difference <= 2e-6 * max(1.0, float(value.abs().max())), (part, key)
    assert not any(found.values())
    about = metadata(file)
    assert about["ss_network_module"] == ("lycoris.kohya" if kind in LYCORIS else "networks.lora")
    assert json.loads(about["ss_network_args"]) == ({"algo": LYCORIS[kind]} if kind in LYCORIS else {})
    assert about["ss_base_model_version"] == {"sd1": "sd_v1", "sdxl": "sdxl_base_v1-0"}[name]


MIXED = {"rank_pattern": {"attn2.to_q": 1}, "alpha_pattern": {"proj_in": 6}}


@pytest.mark.parametrize(
    ("name", "patterns"), [("sd1", {}), ("sd2", {}), ("sdxl", {}), ("sd1", MIXED), ("sdxl", MIXED)]
)
def test_diffusers_reads_the_kohya_file_by_its_own_converter(
    name: str, patterns: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """With alphas of their own in some layers too, of which the converter would lose those of attention."""
    backbone = load(folders[name])
    fields = {
        "train_text_encoder": True,
        "r": 2,
        "lora_alpha": None if patterns else 3,  # None: the rank, of which some layers have another
        "target_modules": ["attn2.to_q", "attn2.to_k", "proj_in"],
        **patterns,
    }
    config = trained(backbone, "lora", tmp_path / "weights", **fields)
    for form in ("kohya", "diffusers"):
        exported(folders[name], "lora", config, tmp_path / "weights", form, tmp_path / form)
    pictures = []
    for place, file in (("kohya", "mine.safetensors"), ("diffusers", "pytorch_lora_weights.safetensors")):
        pipeline = stock(folders[name])
        pipeline.load_lora_weights(str(tmp_path / place), weight_name=file)
        pictures.append(images(pipeline, backbone))
    ours, base = images(backbone.pipeline(), backbone), images(stock(folders[name]), backbone)
    assert (ours - base).abs().max() > 0.01
    # alpha / rank is multiplied in another place, so that rounding differs.
    for picture in pictures:
        torch.testing.assert_close(picture, ours, rtol=0, atol=2e-3)
    about = metadata(tmp_path / "kohya" / "mine.safetensors")
    version, second = {
        "sd1": ("sd_v1", "False"),
        "sd2": ("sd_v2_v", "True"),
        "sdxl": ("sdxl_base_v1-0", "False"),
    }[name]
    assert (about["ss_base_model_version"], about["ss_v2"]) == (version, second)
    assert (about["ss_network_dim"], about["ss_network_alpha"]) == ("2", "2" if patterns else "3")


def by_peft(pipeline: Any, folder: Path) -> Any:
    from peft import PeftModel

    for part in sorted(path.name for path in folder.iterdir()):
        PeftModel.from_pretrained(getattr(pipeline, part), str(folder / part))
    return pipeline


READERS: dict[str, Callable[[Any, Path], Any]] = {
    "diffusers": lambda pipeline, folder: (
        pipeline.load_lora_weights(str(folder), weight_name="pytorch_lora_weights.safetensors") or pipeline
    ),
    "peft": by_peft,
    "merged": lambda pipeline, folder: stock(folder),
}


@pytest.mark.parametrize(
    ("name", "kind", "form", "exact"),
    [
        ("sd1", "lora", "diffusers", True),
        ("sdxl", "lora", "peft", True),
        ("sdxl", "lora", "merged", False),
        ("sd1", "dora", "peft", True),
        ("sd1", "dora", "merged", False),
        ("sd1", "loha", "peft", True),
        ("sd1", "lokr", "peft", True),
        ("sd1", "oft", "merged", False),
        ("sd1", "boft", "merged", False),
        ("sd1", "hra", "merged", False),
        ("sd2", "lora", "merged", False),
        ("sd3", "lora", "diffusers", True),
        ("sd3", "lora", "peft", False),
        ("sd3", "dora", "merged", False),
        ("flux", "lora", "diffusers", True),
        ("flux", "lora", "merged", False),
        ("flux", "lora", "peft", False),
    ],
)
def test_what_is_loaded_again_draws_the_same_image(
    name: str, kind: str, form: str, exact: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Bit by bit where the same products are added; merging rounds the weights, a scale in other factors too."""
    folder = folders[name]
    backbone = load(folder)
    fields: dict[str, Any] = {"oft_block_size": 4} if kind == "oft" else {} if kind == "boft" else {"r": 2}
    if kind != "oft" and name not in ("sd3", "flux"):
        fields["target_modules"] = CONV
    config = trained(backbone, "lora", tmp_path / "weights", adapter=kind, train_text_encoder=True, **fields)
    ours = images(backbone.pipeline(), backbone)
    exported(folder, "lora", config, tmp_path / "weights", form, tmp_path / "out")
    again = images(READERS[form](stock(folder), tmp_path / "out"), backbone)
    assert (ours - images(stock(folder), backbone)).abs().max() > 0.01
    torch.testing.assert_close(again, ours, rtol=0, atol=0.0 if exact else 2e-3)


@pytest.mark.parametrize(
    ("name", "version", "architecture"),
    [("sd3", "sd3m", "stable-diffusion-3-m"), ("flux", "flux1", "flux-1-dev")],
)
def test_files_of_transformers_say_their_base_model(
    name: str, version: str, architecture: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Without it A1111 takes a file with any metadata for one of Stable Diffusion 1."""
    backbone = load(folders[name])
    config = trained(backbone, "lora", tmp_path / "weights", r=2)
    exported(folders[name], "lora", config, tmp_path / "weights", "diffusers", tmp_path / "out")
    about = metadata(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert (about["ss_base_model_version"], about["ss_v2"]) == (version, "False")
    assert about["modelspec.architecture"] == f"{architecture}/lora"


def test_keys_of_diffusers_peft_and_whole_pipelines(folders: dict[str, Path], tmp_path: Path) -> None:
    """Against lists made from the base model's own modules."""
    folder = folders["sdxl"]
    config = trained(
        load(folder),
        "lora",
        tmp_path / "weights",
        r=2,
        target_modules=["attn2.to_k"],
        train_text_encoder=True,
    )
    for form in ("diffusers", "peft", "merged"):
        exported(folder, "lora", config, tmp_path / "weights", form, tmp_path / form)
    modules = load(folder).modules
    wanted = {
        "unet": ("attn2.to_k",),
        **dict.fromkeys(("text_encoder", "text_encoder_2"), ("q_proj", "k_proj", "v_proj", "out_proj")),
    }
    layers = {
        part: [name for name, _ in modules[part].named_modules() if name.endswith(ends)]
        for part, ends in wanted.items()
    }
    assert all(len(names) >= 3 for names in layers.values())
    nested = {part: "" if part == "unet" else "text_model." for part in layers}
    assert set(load_file(tmp_path / "diffusers" / "pytorch_lora_weights.safetensors")) == {
        f"{part}.{nested[part]}{name.removeprefix('text_model.')}.lora_{side}.weight"
        for part, names in layers.items()
        for name in names
        for side in "AB"
    }
    for part, names in layers.items():
        assert set(load_file(tmp_path / "peft" / part / "adapter_model.safetensors")) == {
            f"base_model.model.{name}.lora_{side}.weight" for name in names for side in "AB"
        }
        file = next((tmp_path / "merged" / part).glob("*.safetensors"))
        assert set(load_file(file)) == set(load_file(next((folder / part).glob("*.safetensors"))))
    names = {path.parts[0] for path in files_in(tmp_path / "merged")}
    assert names == {path.name for path in folder.iterdir()} | {"mine.safetensors"}


def test_dora_of_the_denoiser_is_loaded_by_diffusers(folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load(folders["sd1"])
    config = trained(backbone, "lora", tmp_path / "weights", adapter="dora", r=2)
    exported(folders["sd1"], "lora", config, tmp_path / "weights", "diffusers", tmp_path / "out")
    again = images(READERS["diffusers"](stock(folders["sd1"]), tmp_path / "out"), backbone)
    assert torch.equal(again, images(backbone.pipeline(), backbone))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_embeddings_in_every_format(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders[name]
    backbone = load(folder)
    config = trained(backbone, "textual_inversion", tmp_path / "weights", num_vectors=2)
    prompt = config.reword("a sks cat")
    ours = images(
        get_method("textual_inversion").load(load(folder).pipeline(), tmp_path / "weights"), backbone, prompt
    )
    assert (ours - images(stock(folder), backbone, "a cat")).abs().max() > 0.01
    rows = {part: value.detach() for part, value in backbone.added_embeddings.items()}
    keys = {
        "sd1": {"text_encoder": "emb_params"},
        "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    }[name]
    for form in ("kohya", "a1111", "comfyui"):
        done = exported(folder, "textual_inversion", config, tmp_path / "weights", form, tmp_path / form)
        state = load_file(tmp_path / form / "sks.safetensors")
        assert set(state) == set(keys.values())
        assert all(torch.equal(state[key], rows[part]) for part, key in keys.items())
        assert metadata(tmp_path / form / "sks.safetensors")["modelspec.trigger_phrase"] == "sks"
        about = metadata(tmp_path / form / "sks.safetensors")
        assert about["modelspec.architecture"].endswith("/textual-inversion")
        # sd-scripts' determine_implementation: an embedding's is this of any model but FLUX
        assert about["modelspec.implementation"] == "https://github.com/Stability-AI/generative-models"
        assert "<sks>" in done.notes[0]
    exported(folder, "textual_inversion", config, tmp_path / "weights", "diffusers", tmp_path / "diffusers")
    pipeline = stock(folder)
    files = ["learned_embeds.safetensors", "learned_embeds_2.safetensors"][: len(keys)]
    assert [str(path) for path in files_in(tmp_path / "diffusers")] == files
    for number, file in enumerate(files):
        end = f"_{number + 1}" if number else ""
        pipeline.load_textual_inversion(
            str(tmp_path / "diffusers"),
            weight_name=file,
            text_encoder=getattr(pipeline, f"text_encoder{end}"),
            tokenizer=getattr(pipeline, f"tokenizer{end}"),
        )
        assert set(load_file(tmp_path / "diffusers" / file)) == {"<sks>"}
        if number:  # of the first encoder the pooled state is not used
            pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    assert torch.equal(images(pipeline, backbone, prompt), ours)
    exported(folder, "textual_inversion", config, tmp_path / "weights", "merged", tmp_path / "merged")
    merged = READERS["merged"](pipeline, tmp_path / "merged")  # it pools at the end token by itself
    assert torch.equal(images(merged, backbone, prompt), ours)


def test_hypernetworks_are_written_as_a1111_does(folders: dict[str, Path], tmp_path: Path) -> None:
    """Layers are numbered as if there had been no dropout."""
    folder, method = folders["sd1"], get_method("hypernetwork")
    backbone = load(folder)
    fields = {"layer_structure": "1,2,2,1", "activation_func": "relu", "dropout": 0.3}
    config = trained(backbone, "hypernetwork", tmp_path / "weights", **fields)
    ours = images(method.load(load(folder).pipeline(), tmp_path / "weights"), backbone)
    from trainables.methods.hypernetwork_files import load_hypernetwork

    stated = {"author": "A. Person", "license": "mit", "own": {"run": "r", "train_steps": "200"}}
    for form in ("a1111", "comfyui"):
        exported(folder, "hypernetwork", config, tmp_path / "weights", form, tmp_path / form, **stated)
        file = tmp_path / form / "mine.pt"
        content = torch.load(file, weights_only=True)
        widths = sorted(key for key in content if isinstance(key, int))
        assert widths == [16, 32]
        inner = [f"linear.{position}.{kind}" for position in (0, 2, 4) for kind in ("weight", "bias")]
        assert all(list(state) == inner for width in widths for state in content[width])
        assert content["use_dropout"] is False
        assert content["activation_func"] == "relu"
        assert content["step"] == 200
        info = json.loads(content["optional_info"])
        assert info["modelspec.author"] == "A. Person"
        assert info["modelspec.license"] == "mit"
        assert info["modelspec.trigger_phrase"] == "a sks cat"
        assert info["modelspec.architecture"] == "stable-diffusion-v1/hypernetwork"
        assert info["study.run"] == "r"
        assert torch.equal(images(load_hypernetwork(load(folder).pipeline(), file), backbone), ours)


def test_a_whole_model_stays_as_it_was_and_forgets_this_machine(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = load(folders["sd1"])
    config = trained(backbone, "dreambooth", tmp_path / "weights", train_text_encoder=True)
    exported(folders["sd1"], "dreambooth", config, tmp_path / "weights", "merged", tmp_path / "out")
    again = images(READERS["merged"](stock(folders["sd1"]), tmp_path / "out"), backbone)
    assert torch.equal(again, images(backbone.pipeline(), backbone))
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    assert texts
    assert not any(str(folders["sd1"].parent) in text for text in texts)


@pytest.mark.parametrize(("method", "form"), [("lora", "kohya"), ("lora", "merged"), ("lora", "peft"),
                                              ("hypernetwork", "a1111"), ("textual_inversion", "kohya")])  # fmt: skip
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


def test_metadata_are_those_of_model_spec(folders: dict[str, Path], tmp_path: Path) -> None:
    import hashlib

    config = trained(load(folders["sd2"]), "lora", tmp_path / "weights", r=2)
    exported(folders["sd2"], "lora", config, tmp_path / "weights", "comfyui", tmp_path / "out")
    file = tmp_path / "out" / "mine.safetensors"
    about, content = metadata(file), file.read_bytes()
    digest = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    assert about["modelspec.hash_sha256"] == f"0x{digest}"
    assert about["sshs_model_hash"] == digest
    needed = {
        "sai_model_spec",
        "architecture",
        "implementation",
        "title",
        "resolution",
        "date",
        "prediction_type",
    }
    assert {f"modelspec.{name}" for name in needed} <= set(about)
    assert about["modelspec.sai_model_spec"] == "1.0.1"
    assert about["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert about["modelspec.resolution"] == f"{RESOLUTION}x{RESOLUTION}"
    assert about["study.run"] == "r"
    assert "modelspec.license" not in about


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("StableDiffusionPipeline", "diffusers"),
        ("StableDiffusionXLPipeline", "https://github.com/Stability-AI/generative-models"),
        ("StableDiffusion3Pipeline", "diffusers"),
        ("FluxPipeline", "https://github.com/black-forest-labs/flux"),
    ],
)
def test_the_implementation_of_a_lora_is_what_kohyas_scripts_state(family: str, expected: str) -> None:
    denoiser = {"cross_attention_dim": 768, "guidance_embeds": True}
    assert FAMILIES[family].model_spec(denoiser, "epsilon")[1] == expected


#: Method (and kind) -> what it cannot be had as, on Stable Diffusion; everything else it can.
REFUSED: dict[tuple[str, str], set[str]] = {
    ("base", ""): set(FORMATS),
    ("lora", "lora"): set(),
    ("lora", "rslora"): set(),
    ("lora", "dora"): set(),
    ("lora", "lokr"): set(),
    **{("lora", kind): {"diffusers"} for kind in ("loha", "oft", "boft", "hra", "ia3")},
    ("dreambooth_lora", "lora"): set(),
    ("dreambooth", ""): {"peft"},
    ("hypernetwork", ""): {"diffusers", "kohya", "peft", "merged"},
    ("textual_inversion", ""): {"peft"},
    ("custom_diffusion", ""): set(),
    ("pivotal_tuning", ""): set(),
    ("text_to_image", "lora"): set(),
    ("text_to_image", "ia3"): {"diffusers"},
}


def test_what_cannot_be_had_is_refused_with_the_reason() -> None:
    assert {name for name, _ in REFUSED} == set(method_names())
    family = FAMILIES["StableDiffusionPipeline"]
    for (name, kind), refused in REFUSED.items():
        config = method_config_class(name).model_validate({"adapter": kind} if kind else {})
        found = {form: obstacle(get_method(name), family, config, form) for form in FORMATS}
        assert {form for form, problem in found.items() if problem} == refused, (name, kind)
        assert all("take" in problem or name == "base" for problem in found.values() if problem)


def test_what_depends_on_the_configuration_is_refused_too() -> None:
    sd, flux = FAMILIES["StableDiffusionPipeline"], FAMILIES["FluxPipeline"]

    def problem(method: str, form: Any, family: Any = sd, **fields: Any) -> str | None:
        return obstacle(get_method(method), family, method_config_class(method).model_validate(fields), form)

    for kind in ("dora", "lokr"):
        assert "text encoders" in (problem("lora", "diffusers", adapter=kind, train_text_encoder=True) or "")
        assert problem("lora", "merged", adapter=kind, train_text_encoder=True) is None
    assert "other images" in (
        problem("hypernetwork", "comfyui", add_layer_norm=True, activation_func="relu") or ""
    )
    assert problem("hypernetwork", "a1111", add_layer_norm=True, activation_func="relu") is None
    assert problem("hypernetwork", "comfyui", add_layer_norm=True) is None
    assert "Captioned fine-tuning trains" in (problem("text_to_image", "peft", trains="full") or "")
    for form in ("diffusers", "kohya", "a1111", "comfyui", "merged"):
        assert problem("text_to_image", form, trains="full") is None
    for form in ("kohya", "a1111", "comfyui"):
        assert "FLUX.1" in (problem("lora", form, flux) or "")
        assert "FLUX.1" in (problem("pivotal_tuning", form, flux) or "")
        assert "take --format merged" in (problem("dreambooth", form, flux) or "")
    assert problem("lora", "diffusers", flux) is None
    assert problem("pivotal_tuning", "peft", flux) is None
    assert "biases" in (problem("custom_diffusion", "peft", freeze_model="crossattn") or "")
    assert problem("custom_diffusion", "comfyui", freeze_model="crossattn") is None
    assert "FLUX.1" in (problem("textual_inversion", "a1111", flux) or "")
    assert problem("textual_inversion", "comfyui", flux) is None
