"""Tiny random models, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.support.tiny_models import make_photos, make_tiny_clip, make_tiny_model, make_tiny_vit
from trainables.config.fields import EvaluationConfig, ModelConfig, SubjectConfig
from trainables.data.subjects import Subject, resolve_subject
from trainables.evaluation.encoders import MetricModels, load_metric_models
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny_model(folder / "model")
    make_tiny_model(folder / "v_model", prediction_type="v_prediction", seed=3)
    make_tiny_clip(folder / "clip")
    make_tiny_vit(folder / "vit")
    return folder


@pytest.fixture(scope="session")
def backbone(models: Path) -> Backbone:
    """Shared and never changed; a test that changes a model loads its own."""
    return load_backbone(ModelConfig(path=str(models / "model")))


@pytest.fixture(scope="session")
def metric_models(models: Path) -> MetricModels:
    return load_metric_models(str(models / "vit"), str(models / "clip"))


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = make_photos(tmp_path_factory.mktemp("photos") / "teapot", count=6)
    config = SubjectConfig(
        name="teapot", images=str(folder), instance_prompt="a sks teapot", class_prompt="a teapot", holdout=3
    )
    return resolve_subject(config, 32)


@pytest.fixture(scope="session")
def config(models: Path) -> EvaluationConfig:
    return EvaluationConfig(
        prompts=("{subject} in the snow", "{subject} with a red hat", "a photo of {subject}"),
        images_per_prompt=2,
        num_inference_steps=3,
        num_class_images=4,
        batch_size=8,
        image_encoder=str(models / "vit"),
        clip=str(models / "clip"),
    )
