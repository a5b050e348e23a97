"""How a classifier's training is configured."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from trainables.config.classifiers import NETWORKS, AugmentationConfig, ClassifierConfig, network_problem


@pytest.mark.parametrize("name", [*NETWORKS, "timm:vgg19", "timm:vit_base_patch16_224.augreg_in21k"])
def test_networks_have_names(name: str) -> None:
    assert network_problem(name) is None
    assert ClassifierConfig(network=name).network == name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet-18", "resnet18"),
        ("inception", "inception_v3"),
        ("VGG19", "vgg19"),
        ("timm:", ""),
        ("timm:../x", ""),
    ],
)
def test_unknown_networks_are_refused_with_near_names(name: str, near: str) -> None:
    problem = network_problem(name)
    assert problem is not None
    assert f"{name!r} is no classifier; " in problem
    assert f"did you mean {near!r}? " in problem if near else "Known are resnet18" in problem
    with pytest.raises(ValidationError, match="is no classifier"):
        ClassifierConfig(network=name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"focal_gamma": 1.0}, "focal_gamma has no effect without loss: focal"),
        ({"focal_alpha": (1.0, 2.0)}, "focal_alpha has no effect without loss: focal"),
        ({"momentum": 0.5}, "momentum has no effect without optimizer: sgd"),
        ({"loss": "weighted_cross_entropy", "sampling": "balanced"}, "has no effect with sampling: balanced"),
        (
            {"loss": "focal", "focal_alpha": "inverse_frequency", "sampling": "balanced"},
            "focal_alpha: inverse_frequency has no effect with sampling: balanced",
        ),
        ({"loss": "focal", "focal_alpha": (1.0, 0.0)}, "one number above 0 for each class"),
        ({"weights": " "}, "is blank"),
        ({"generated_probability": 1.1}, "less than or equal to 1"),
        ({"train_batch_size": 1}, "greater than or equal to 2"),
        ({"epochs": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassifierConfig(network="small_cnn", **fields)


def test_all_fields_without_effect_are_named() -> None:
    with pytest.raises(ValidationError, match=r"focal_gamma has no effect.*; momentum has no effect"):
        ClassifierConfig(network="small_cnn", focal_gamma=1.0, momentum=0.5)


def test_an_augmentation_that_does_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="neither flips, crops nor changes colours"):
        AugmentationConfig(random_flip=False, crop_padding=0, colour_jitter=0)


def test_a_configuration_is_read_back() -> None:
    config = ClassifierConfig(network="vit", augmentation=AugmentationConfig(random_flip=False), loss="focal")
    assert ClassifierConfig.model_validate(config.model_dump(mode="json")) == config
