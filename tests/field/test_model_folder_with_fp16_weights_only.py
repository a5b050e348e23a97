"""A model folder as it is downloaded to save disk: weights of one variant only, or without some of its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch

from benchmarks.support.tiny_models import make_tiny_clip, make_tiny_model, make_tiny_vit
from trainables.config.fields import ModelConfig
from trainables.embedded import GENERATOR
from trainables.errors import UserError
from trainables.evaluation.checks import check_metric_models
from trainables.evaluation.encoders import load_metric_models
from trainables.models.folders import check_model
from trainables.models.loading import load_backbone

STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 335\n"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline ("model"), a CLIP ("clip") and a vision transformer ("vit")."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "model", resolution=16, width=16)
    make_tiny_clip(folder / "clip", resolution=16)
    make_tiny_vit(folder / "vit", resolution=16)
    return folder


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A model folder that a test may damage."""
    return Path(shutil.copytree(made / "model", tmp_path / "model"))


def weights(folder: Path, part: str, variant: str = "") -> Path:
    return folder / part / f"{STEMS[part]}{variant}.safetensors"


def rename(folder: Path, variant: str, *parts: str) -> None:
    for part in parts or STEMS:
        weights(folder, part).rename(weights(folder, part, f".{variant}"))


def split(folder: Path, part: str, variant: str = "") -> list[Path]:
    """Writes a part's weights in two shards and returns these."""
    whole = weights(folder, part)
    tensors = safetensors.torch.load_file(whole)
    names = sorted(tensors)
    shards = [
        whole.with_name(f"{STEMS[part]}{variant}-0000{number}-of-00002.safetensors") for number in (1, 2)
    ]
    half = len(names) // 2
    for shard, part_of in zip(shards, (names[:half], names[half:]), strict=True):
        safetensors.torch.save_file({name: tensors[name] for name in part_of}, shard, {"format": "pt"})
    places = {name: shards[number >= half].name for number, name in enumerate(names)}
    index = whole.with_name(f"{STEMS[part]}.safetensors.index{variant}.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    whole.unlink()
    return shards


def problems(folder: Path, variant: str | None = None) -> list[str]:
    return check_model(ModelConfig(path=str(folder), variant=variant))


def loads(folder: Path, variant: str | None = None) -> bool:
    return load_backbone(ModelConfig(path=str(folder), variant=variant)).resolution == 16


def test_fp16_weights_only(model: Path) -> None:
    rename(model, "fp16")
    (problem,) = problems(model)
    assert "variant: fp16}" in problem
    with pytest.raises(UserError, match="variant: fp16"):
        load_backbone(ModelConfig(path=str(model)))
    assert problems(model, "fp16") == []
    assert loads(model, "fp16")
    (problem,) = problems(model, "bf16")
    assert "'bf16'" in problem
    assert "variant: fp16}" in problem
    assert (
        "variant: fp16}" in problems(model, "fp1")[0]
    )  # diffusers takes it for a prefix of fp16, and finds nothing


def test_a_variant_that_is_not_there(model: Path) -> None:
    (problem,) = problems(model, "fp16")
    assert "leave variant out" in problem


def test_parts_with_and_without_a_variant(model: Path) -> None:
    """Diffusers takes the variant where it is, and what has none where it is not."""
    rename(model, "fp16", "unet")
    assert problems(model, "fp16") == []
    assert loads(model, "fp16")
    (problem,) = problems(model)
    assert "unet/ has fp16" in problem
    assert "variant: fp16}" in problem
    rename(model, "bf16", "vae")
    (problem,) = problems(model, "fp16")
    assert "no variant covers all parts" in problem


def test_a_file_without_an_ending_beside_a_variant(model: Path) -> None:
    rename(model, "fp16")
    for part in (*STEMS, "tokenizer", "scheduler"):
        (model / part / "LICENSE").touch()
    assert "unet/LICENSE" in "".join(problems(model, "fp16"))
    rename_back = [weights(model, part, ".fp16").rename(weights(model, part)) for part in STEMS]
    assert rename_back
    assert problems(model) == []


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_in_shards(model: Path, part: str, variant: str) -> None:
    shards = split(model, part, variant)
    named = variant[1:] or None
    assert problems(model, named) == []
    assert loads(model, named)
    if named:
        assert "variant: fp16}" in problems(model)[0]
    shards[1].unlink()
    (problem,) = problems(model, named)
    assert f"{part}/{shards[1].name}" in problem
    shards[1].write_bytes(b"")
    assert "empty" in problems(model, named)[0]


def cut(part: str, size: int | None) -> Change:
    def change(folder: Path) -> None:
        path = weights(folder, part)
        path.write_bytes(path.read_bytes()[:size])

    return change


def drop(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def without_class(part: str) -> Change:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, part: [None, None]}))

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (cut("unet", 0), "unet/diffusion_pytorch_model.safetensors (it is empty)"),
        (cut("vae", 100), "vae/diffusion_pytorch_model.safetensors (its header is cut off)"),
        (cut("text_encoder", -1), "text_encoder/model.safetensors (it has"),
        (write("unet/diffusion_pytorch_model.safetensors", POINTER), "git lfs pull"),
        (write("text_encoder/config.json", POINTER), "git lfs pull"),
        (write("tokenizer/tokenizer.json", POINTER), "git lfs pull"),
        (write("tokenizer/tokenizer.json", '{"model": {}}'), "no vocabulary in tokenizer/tokenizer.json"),
        (write("tokenizer/special_tokens_map.json", "{"), "tokenizer/special_tokens_map.json"),
        (write("vae/config.json", "[]"), "vae/config.json"),
        (drop("unet/config.json"), "lacks unet/config.json"),
        (drop("text_encoder/config.json"), "lacks text_encoder/config.json"),
        (drop("scheduler/scheduler_config.json"), "lacks scheduler/scheduler_config.json"),
        (drop("tokenizer/tokenizer.json"), "lacks tokenizer/tokenizer.json"),
        (without_class("vae"), "its part vae"),
    ],
)
def test_what_is_missing_or_not_whole(model: Path, change: Change, named: str) -> None:
    change(model)
    (problem,) = problems(model)
    assert named in problem
    assert str(model) in problem
    with pytest.raises(UserError):
        load_backbone(ModelConfig(path=str(model)))


def test_all_problems_are_named_at_once(model: Path) -> None:
    for change in (cut("unet", 0), drop("vae/config.json"), drop("tokenizer/tokenizer.json")):
        change(model)
    assert len(problems(model)) == 3


def test_a_vocabulary_in_two_files(model: Path) -> None:
    whole = json.loads((model / "tokenizer/tokenizer.json").read_text())["model"]
    (model / "tokenizer/vocab.json").write_text(json.dumps(whole["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in whole["merges"]]
    (model / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (model / "tokenizer/tokenizer.json").unlink()
    (model / "tokenizer/tokenizer_config.json").unlink()
    assert problems(model) == []
    assert loads(model)
    (model / "tokenizer/merges.txt").unlink()
    assert "lacks tokenizer/merges.txt" in problems(model)[0]


def test_a_tokenizer_of_another_model(model: Path) -> None:
    """It knows tokens for which the text encoder has no embedding."""
    shutil.rmtree(model / "tokenizer")
    shutil.copytree(GENERATOR / "tokenizer", model / "tokenizer")
    with pytest.raises(
        UserError,
        match=r"tokenizer/ uses token 651 in every prompt, text_encoder/ has \d+ embeddings; take parts",
    ):
        loads(model)


def test_a_folder_with_a_safety_checker(model: Path) -> None:
    """Stable Diffusion 1.5 as the hub has it; neither of the two parts is ever loaded."""
    index = json.loads((model / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPFeatureExtractor"]
    (model / "model_index.json").write_text(json.dumps(index))
    assert problems(model) == []
    assert loads(model)


def test_a_hub_id_whose_copy_here_is_not_whole(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a connection the hub's cache is all that there is."""
    monkeypatch.setattr("trainables.models.folders.hub_is_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    snapshot = Path(shutil.copytree(made / "model", repository / "snapshots" / ("0" * 40)))
    model = ModelConfig(path="someone/tiny")
    assert check_model(model) == []
    assert load_backbone(model).resolution == 16
    weights(snapshot, "unet").unlink()
    (problem,) = check_model(model)
    assert "'someone/tiny'" in problem
    assert "unet/" in problem


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda vit: (vit / "model.safetensors").rename(vit / "model.fp16.safetensors"), "variant fp16"),
        (lambda vit: (vit / "model.safetensors").write_bytes(b""), "empty"),
        (write("model.safetensors", POINTER), "git lfs pull"),
        (write("config.json", "{}"), "model_type"),
        (write("preprocessor_config.json", "{"), "preprocessor_config.json"),
    ],
)
def test_metric_models(made: Path, tmp_path: Path, change: Change, named: str) -> None:
    vit = Path(shutil.copytree(made / "vit", tmp_path / "vit"))
    change(vit)
    (problem,) = check_metric_models(str(vit))
    assert "evaluation.image_encoder" in problem
    assert named in problem


def test_metric_models_of_the_wrong_kind(made: Path, tmp_path: Path) -> None:
    assert "text tower" in "".join(check_metric_models(str(made / "clip"), "embedded"))
    assert "text tower" in "".join(check_metric_models("embedded", str(made / "vit")))
    clip = Path(shutil.copytree(made / "clip", tmp_path / "clip"))
    assert check_metric_models(str(made / "vit"), str(clip)) == []
    load_metric_models(str(made / "vit"), str(clip))
    (clip / "tokenizer.json").unlink()
    (problem,) = check_metric_models("embedded", str(clip))
    assert "all words would be the same" in problem
