"""The classifiers: published sizes, small images, weights from folders, and names that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from trainables.classifiers import networks
from trainables.classifiers.inception import InceptionV3
from trainables.classifiers.networks import SMALLEST, SMALLEST_OTHERS, BuiltClassifier, build_classifier
from trainables.classifiers.vgg import Vgg19
from trainables.config.classifiers import NETWORKS
from trainables.errors import UserError

PUBLISHED = {  # at 1,000 classes; torchvision's documentation, for ViT-B/16 and ConvNeXt-T too
    "resnet18": (224, 11_689_512),
    "resnet50": (224, 25_557_032),
    "vit": (224, 86_567_656),
    "convnext": (224, 28_589_128),
    "vgg19": (224, 143_667_240),
    "inception_v3": (299, 23_834_568),
}
# Of ten classes at 64 pixels. ViT: DeiT-Ti's 5,717,416 less 990 classes, and patches of 8 for 16 pixels.
SMALL = {
    "vit": 5_717_416 - 990 * 193 - 3 * (16**2 - 8**2) * 192 - (197 - 65) * 192,
    "convnext": 3_695_520 - 990 * 321 - 3 * (4**2 - 2**2) * 40,
    "vgg19": 143_667_240 - 123_642_856 + (2048 + 1) * 512 + (512 + 1) * 512 + (512 + 1) * 10,
    "inception_v3": 23_834_568 - 990 * 2049,
    "resnet18": 11_689_512 - 990 * 513,
    "small_cnn": 388_896 + 10 * 257,
}
CONFIGS: dict[str, tuple[Any, Any]] = {
    "resnet18": (
        ResNetForImageClassification,
        ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[4, 4, 8, 8], embedding_size=4, layer_type="basic"),
    ),
    "convnext": (
        ConvNextForImageClassification,
        ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[4, 4, 8, 8]),
    ),
    "vit": (
        ViTForImageClassification,
        ViTConfig(
            hidden_size=12,
            num_attention_heads=2,
            num_hidden_layers=1,
            intermediate_size=8,
            image_size=32,
            patch_size=8,
        ),
    ),
}


@pytest.fixture
def no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks without weights in memory, for those of 100 million."""
    transformers, plain = networks._transformers, networks._plain

    def on_meta(build: Any) -> Any:
        def built(*arguments: Any) -> BuiltClassifier:
            with torch.device("meta"):
                return build(*arguments)

        return built

    monkeypatch.setattr(networks, "_transformers", on_meta(transformers))
    monkeypatch.setattr(networks, "_plain", on_meta(plain))


def build(
    name: str, classes: int = 10, size: int | None = None, seed: int = 0, **options: Any
) -> BuiltClassifier:
    size = SMALLEST.get(name, SMALLEST_OTHERS) if size is None else size
    return build_classifier(name, classes, size, generator=torch.Generator().manual_seed(seed), **options)


def first_line(error: pytest.ExceptionInfo[UserError]) -> str:
    return error.value.problems[0]


@pytest.mark.usefixtures("no_numbers")
@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_number_of_weights(name: str) -> None:
    size, parameters = PUBLISHED[name]
    built = build(name, 1000, size)
    assert built.parameters == parameters
    assert built.notes == ()
    assert built.classifier(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 1000)


@pytest.mark.usefixtures("no_numbers")
@pytest.mark.parametrize("name", SMALL)
def test_networks_for_small_images(name: str) -> None:
    built = build(name, 10, 64)
    assert built.parameters == SMALL[name]
    assert len(built.notes) == (name not in ("resnet18", "small_cnn"))
    assert all(note.startswith(f"{name} has, for images of 64 pixels, ") for note in built.notes)
    assert built.classifier(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 10)


@pytest.mark.usefixtures("no_numbers")
@pytest.mark.parametrize("name", NETWORKS)
def test_images_of_the_smallest_size_and_not_below(name: str) -> None:
    smallest = SMALLEST.get(name, SMALLEST_OTHERS)
    assert build(name).classifier(torch.zeros(2, 3, smallest, smallest, device="meta")).shape == (2, 10)
    with pytest.raises(UserError, match=f"{name} needs images of {smallest} pixels a side and more, got"):
        build(name, size=smallest - 1)


@pytest.mark.parametrize("name", ["small_cnn", "vit", "convnext"])
def test_a_seed_gives_the_weights(name: str) -> None:
    torch.manual_seed(5)
    one = build(name).classifier.state_dict()
    torch.manual_seed(6)
    before = torch.get_rng_state()
    same, other = build(name).classifier.state_dict(), build(name, seed=1).classifier.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(tensor, same[key]) for key, tensor in one.items())
    assert not all(torch.equal(tensor, other[key]) for key, tensor in one.items())


def test_random_weights_of_vgg_keep_the_size_of_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without normalisation the outputs of 19 layers would vanish, or not be numbers."""
    monkeypatch.setattr(
        "trainables.classifiers.vgg.STAGES", ((32, 32), (32, 32), (32,) * 4, (32,) * 4, (32,) * 4)
    )
    torch.manual_seed(0)
    network = Vgg19(10, 2, 64).eval()
    images = torch.randn(4, 3, 64, 64)
    assert 0.05 < float(network(images).detach().std()) < 20


def test_images_are_normalised() -> None:
    seen = []

    class Network(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images.mean((2, 3))

    networks.Classifier(Network(), (0.1, 0.2, 0.3), (0.5, 1.0, 2.0))(torch.full((1, 3, 2, 2), 0.6))
    assert seen[0][0, :, 0, 0].tolist() == pytest.approx([1.0, 0.4, 0.15])


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("resnet", 64, "'resnet' is no classifier; did you mean 'resnet50'? Known are resnet18, resnet50"),
        (
            "vit",
            60,
            "vit cuts images into patches of 8 pixels, and 60 is no multiple of it: make them 56 or 64",
        ),
        ("vit", 150, "patches of 16 pixels, and 150 is no multiple of it: make them 144 or 160"),
    ],
)
def test_what_cannot_be_built_is_said(name: str, size: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        build(name, size=size)
    assert message in first_line(error)


def test_all_problems_are_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        build("vgg19", classes=1, size=8, weights="/nowhere")
    assert len(error.value.problems) == 3


# Weights


def save_transformers(name: str, folder: Path, classes: int, **normalised: Any) -> Any:
    model_class, config = CONFIGS[name]
    config = type(config)(**{**config.to_dict(), "num_labels": classes})
    torch.manual_seed(9)
    model = model_class(config)
    model.save_pretrained(folder)
    if normalised:
        (folder / "preprocessor_config.json").write_text(json.dumps(normalised))
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_of_a_folder_are_taken_and_the_head_is_new(name: str, tmp_path: Path) -> None:
    model = save_transformers(name, tmp_path, 7)
    one, same, other = (build(name, 4, 32, seed, weights=str(tmp_path)) for seed in (0, 0, 1))
    assert (
        f"the last layer is new, with random weights: that of {tmp_path} is for 7 classes, not 4" in one.notes
    )
    for key, tensor in one.classifier.network.state_dict().items():
        if key.startswith("classifier."):
            assert tensor.shape[0] == 4
            assert torch.equal(tensor, same.classifier.network.state_dict()[key])
        else:
            assert torch.equal(tensor, model.state_dict()[key])
    heads = [built.classifier.network.state_dict() for built in (one, other)]
    weight = next(key for key in heads[0] if key.startswith("classifier.") and key.endswith("weight"))
    assert not torch.equal(heads[0][weight], heads[1][weight])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_head_of_as_many_classes_is_kept(name: str, tmp_path: Path) -> None:
    model = save_transformers(name, tmp_path, 4).eval()
    built = build(name, 4, 32, weights=str(tmp_path))
    assert f"the last layer is that of {tmp_path}, which is for 4 classes too" in built.notes
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in networks.IMAGENET)
    assert torch.equal(built.classifier.eval()(images), model((images - mean) / std).logits)


def test_images_are_normalised_as_the_weights_say(tmp_path: Path) -> None:
    save_transformers("vit", tmp_path / "a", 4, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    built = build("vit", 4, 32, weights=str(tmp_path / "a"))
    assert built.classifier.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert built.classifier.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert not any("usual" in note for note in built.notes)
    save_transformers("vit", tmp_path / "b", 4, do_normalize=False, image_mean=[0.1, 0.2, 0.3])
    built = build("vit", 4, 32, weights=str(tmp_path / "b"))
    assert built.classifier.mean.flatten().tolist() == [0, 0, 0]
    save_transformers("vit", tmp_path / "c", 4)
    built = build("vit", 4, 32, weights=str(tmp_path / "c"))
    assert built.classifier.mean.flatten().tolist() == pytest.approx(list(networks.IMAGENET[0]))
    assert any("has no preprocessor_config.json with image_mean" in note for note in built.notes)


def test_positions_of_another_grid_are_interpolated(tmp_path: Path) -> None:
    """Of 48 pixels 6 x 6 patches, where the weights are for 4 x 4."""
    save_transformers("vit", tmp_path, 4)
    built = build("vit", 4, 48, weights=str(tmp_path))
    assert built.classifier(torch.rand(2, 3, 48, 48)).shape == (2, 4)
    with pytest.raises(
        UserError, match="into patches of 8 pixels, and 36 is no multiple of it: make the images 32"
    ):
        build("vit", 4, 36, weights=str(tmp_path))


def test_an_encoder_without_a_head_gets_one(tmp_path: Path) -> None:
    ViTModel(CONFIGS["vit"][1]).save_pretrained(tmp_path)
    built = build("vit", 4, 32, weights=str(tmp_path))
    assert f"the last layer is new, with random weights: {tmp_path} has none" in built.notes


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_transformers("vit", tmp_path / "vit", 4)
    with pytest.raises(UserError, match="are of a network of type vit, and resnet18 is of type resnet"):
        build("resnet18", 4, 32, weights=str(tmp_path / "vit"))
    save_transformers("resnet18", tmp_path / "resnet", 4)
    with pytest.raises(
        UserError, match=r"are of a ResNet of depths \[2, 2, 2, 2\], and resnet50 has \[3, 4, 6, 3\]"
    ):
        build("resnet50", 4, 32, weights=str(tmp_path / "resnet"))


def test_incomplete_weights_are_refused(tmp_path: Path) -> None:
    model = save_transformers("vit", tmp_path, 4)
    tensors = {key: tensor for key, tensor in model.state_dict().items() if "cls_token" not in key}
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack, or have in other shapes, vit.embeddings.cls_token of vit"):
        build("vit", 4, 32, weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(UserError, match="cannot be loaded"):
        build("vit", 4, 32, weights=str(tmp_path))


def test_places_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="neither an existing folder nor a hub id such as microsoft/resnet-18"
    ):
        build("vit", weights="/no/where/at/all")
    with pytest.raises(
        UserError, match=r"no existing folder; this network reads a folder with model.safetensors"
    ):
        build("vgg19", weights="timm/vgg19")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(
        UserError, match=r"lacks config.json and weights as \*.safetensors \(other formats are not"
    ):
        build("vit", weights=str(tmp_path))
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(UserError, match=r"lacks model.safetensors"):
        build("vgg19", weights=str(tmp_path))


@pytest.fixture
def narrow_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.classifiers.vgg.STAGES", ((4,),) * 5)


def save_plain(network: nn.Module, folder: Path, **others: torch.Tensor) -> dict[str, torch.Tensor]:
    tensors = network.state_dict() | others
    save_file(tensors, folder / "model.safetensors")
    return tensors


@pytest.mark.usefixtures("narrow_vgg")
def test_a_plain_network_reads_a_file_and_its_head_is_new(tmp_path: Path) -> None:
    tensors = save_plain(Vgg19(7, 2, 512), tmp_path)
    built = build("vgg19", 4, 32, weights=str(tmp_path))
    assert (
        f"new, with random weights: classifier.6.weight, classifier.6.bias of vgg19; all else is from {tmp_path}"
        in built.notes
    )
    own = built.classifier.network.state_dict()
    assert all(torch.equal(own[key], tensors[key]) for key in own if not key.startswith("classifier.6"))
    save_plain(Vgg19(4, 3, 16), tmp_path)  # as weights for large images are
    notes = build("vgg19", 4, 32, weights=str(tmp_path)).notes
    assert any("classifier.0.weight, classifier.0.bias" in note for note in notes)


@pytest.mark.usefixtures("narrow_vgg")
def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_plain(Vgg19(4, 2, 512), tmp_path, **{"features.99.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"are not those of vgg19: features.99.weight are missing"):
        build("vgg19", 4, 32, weights=str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"are not those of vgg19: features.0.weight, "):
        build("vgg19", 4, 32, weights=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(UserError, match="cannot be read"):
        build("vgg19", 4, 32, weights=str(tmp_path))


def test_the_auxiliary_head_of_a_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(nn.Module):
        """In place of Inception-v3, which takes a second to save."""

        def __init__(self, classes: int, first_stride: int) -> None:
            super().__init__()
            self.bn = nn.BatchNorm2d(3)
            self.fc = nn.Linear(3, classes)

    monkeypatch.setattr(networks, "InceptionV3", Small)
    tensors = save_plain(Small(4, 2), tmp_path, **{"AuxLogits.fc.weight": torch.zeros(1)})
    del tensors["bn.num_batches_tracked"]
    save_file(tensors, tmp_path / "model.safetensors")
    built = build("inception_v3", 4, 75, weights=str(tmp_path))
    assert built.notes[1:] == (f"{tmp_path} has no preprocessor_config.json with image_mean and image_std: the "
                               "network's usual ones are taken",)  # fmt: skip
    assert built.classifier.mean.flatten().tolist() == [0.5, 0.5, 0.5]


def test_layers_of_inception_are_called_as_torchvisions() -> None:
    with torch.device("meta"):
        names = [name for name, _ in InceptionV3(10).named_children()]
    assert names[:2] == ["Conv2d_1a_3x3", "Conv2d_2a_3x3"]
    assert names[-3:] == ["avgpool", "dropout", "fc"]


# timm


class FakeTimm(ModuleType):
    """What is used of timm 1.0: a network of a fixed size and one of any."""

    __version__ = "1.0"

    def is_model(self, name: str) -> bool:
        return name in ("fixed", "free")

    def list_models(self, pattern: str) -> list[str]:
        return ["free"] if pattern == "*fre*" else []

    def get_pretrained_cfg(self, name: str) -> Any:
        return SimpleNamespace(fixed_input_size=name == "fixed")

    def create_model(self, name: str, pretrained: bool, num_classes: int, img_size: int = 8) -> nn.Module:
        assert not pretrained
        name = name.split(".")[0]
        network: Any = nn.Sequential(
            nn.AdaptiveAvgPool2d(1) if name == "free" else nn.Identity(), nn.Flatten()
        )
        network.append(nn.Linear(3 if name == "free" else 3 * img_size**2, num_classes))
        network.pretrained_cfg = {"mean": (0.1,) * 3, "std": (0.2,) * 3, "classifier": "2"}
        return network


@pytest.mark.parametrize("name", ["timm:free", "timm:fixed", "timm:free.some_tag"])
def test_a_network_of_timm(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    timm = FakeTimm("timm")
    monkeypatch.setitem(sys.modules, "timm", timm)
    built = build(name, 5, 16)
    assert built.classifier(torch.zeros(2, 3, 16, 16)).shape == (2, 5)
    assert built.classifier.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    save_plain(timm.create_model("free", False, 9), tmp_path)
    if name == "timm:free":
        built = build(name, 5, 16, weights=str(tmp_path))
        assert built.notes == (
            f"new, with random weights: 2.weight, 2.bias of timm:free; all else is from {tmp_path}",
        )


def test_a_network_that_timm_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm("timm"))
    with pytest.raises(UserError, match=r"timm 1.0 has no network 'fre'; it has free"):
        build("timm:fre", size=16)


def test_without_timm_its_networks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="timm:vgg19 needs the package timm, which cannot be imported here"):
        build("timm:vgg19", size=64)
