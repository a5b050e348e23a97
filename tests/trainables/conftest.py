"""A tiny model for all tests of this folder, and runs on it that take a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchmarks.support.tiny_models import make_photos, make_tiny_clip, make_tiny_model, make_tiny_vit
from tests.helpers.training_runs import OF_KIND, RESOLUTION, WITH_PRIOR, MakeConfig, MakeTrainer
from trainables.config.fields import ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training.loop import Trainer
from trainables.training.trainer import build_trainer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a pipeline ("model"), one that predicts velocity ("v_model"), "clip" and "vit"."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "model", resolution=RESOLUTION, width=16)
    make_tiny_model(
        folder / "v_model", resolution=RESOLUTION, width=16, prediction_type="v_prediction", seed=3
    )
    make_tiny_clip(folder / "clip", resolution=RESOLUTION)
    make_tiny_vit(folder / "vit", resolution=RESOLUTION)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs with a caption each, and a mask in `masks` beside the folder; three are trained on."""
    folder = make_photos(tmp_path_factory.mktemp("photos") / "photos", count=5)
    (folder.parent / "masks").mkdir()
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        path.with_suffix(".txt").write_text(f"a sks cat with {number} red hat")
        with Image.open(path) as image:
            mask = Image.new("L", image.size)
        mask.paste(255, (0, 0, mask.width // 2, mask.height - number))
        mask.save(folder.parent / "masks" / path.name)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all runs, as in a study."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def resident() -> Resident:
    """The models that stay in memory, as in a warm actor."""
    return Resident()


@pytest.fixture
def make_config(models: Path, photos: Path, cache: Path, tmp_path: Path) -> MakeConfig:
    """Makes the configuration of a short run; keyword arguments are training fields."""

    def make(
        method: str,
        folder: str = "run",
        *,
        seed: int = 0,
        at: tuple[float, ...] = (),
        model: str = "model",
        **training: Any,
    ) -> RunConfig:
        method, prior = method.removesuffix(WITH_PRIOR), method.endswith(WITH_PRIOR)
        method, _, adapter = method.partition(OF_KIND)
        defaults: dict[str, Any] = {"with_prior_preservation": True} if prior else {}
        if adapter:
            defaults |= {"adapter": adapter, "oft_block_size": 8}
        defaults |= {
            "max_train_steps": 4,
            "train_batch_size": 2,
            "num_class_images": 3,
            "class_num_inference_steps": 2,
            "checkpointing_steps": 2,
        }
        if method.endswith("lora"):
            defaults["r"] = 2
        return RunConfig.model_validate(
            {
                "method": method,
                "model": {"path": str(models / model)},
                "subject": {
                    "name": "cat",
                    "images": str(photos),
                    "masks": str(photos.parent / "masks"),
                    "instance_prompt": "a sks cat",
                    "class_prompt": "a cat",
                },
                "training": defaults | training,
                "evaluation": {
                    "image_encoder": str(models / "vit"),
                    "clip": str(models / "clip"),
                    "num_prompts": 2,
                    "images_per_prompt": 1,
                    "num_inference_steps": 2,
                    "anchor_images": 2,
                    "num_class_images": 2,
                    "at": at,
                },
                "seed": seed,
                "device": "cpu",
                "output_dir": str(tmp_path / folder),
                "cache_dir": str(cache),
            }
        )

    return make


@pytest.fixture
def backbone(models: Path) -> Backbone:
    """A freshly loaded base model that a test may change."""
    return load_backbone(ModelConfig(path=str(models / "model")))


@pytest.fixture
def make_trainer(make_config: MakeConfig, backbone: Backbone) -> MakeTrainer:
    """Builds a trainer on `backbone`; arguments as of `make_config`. The one before it is undone."""
    attached = []

    def make(method: str, **arguments: Any) -> Trainer:
        for name in attached:
            get_method(name).detach(backbone)
        backbone.restore()
        config = make_config(method, **arguments)
        attached[:] = [config.method]
        training = config.training
        subject = resolve_subject(config.subject, RESOLUTION, training.captions, masked=training.masked_loss)
        return build_trainer(config, backbone, subject, Cache(config.cache_dir))

    return make
