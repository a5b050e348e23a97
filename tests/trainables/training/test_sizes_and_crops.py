"""SDXL is told the size of an image's own file and where it was cropped, in float32, class images their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.helpers.tiny_families import RESOLUTION, make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig, SubjectConfig
from trainables.data.cache import Cache
from trainables.data.images import geometry_of
from trainables.data.subjects import resolve_subject
from trainables.models.loading import load_backbone
from trainables.training.loop import Trainer, batch_loss
from trainables.training.trainer import build_trainer

# Width and height of the file, and what SDXL is told at 16 pixels: height, width, top, left, height, width.
SIZES = {
    (853, 400): (400.0, 853.0, 0.0, 9.0, 16.0, 16.0),  # resized to 34 x 16, of which 18 columns are cut off
    (64, 64): (64.0, 64.0, 0.0, 0.0, 16.0, 16.0),
    (300, 1200): (1200.0, 300.0, 24.0, 0.0, 16.0, 16.0),
}


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.effect_noise(size, 60 + number).convert("RGB").save(folder / f"{number}.png")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "reference.png")
    references = tmp_path / "references"
    references.mkdir()
    (tmp_path / "reference.png").rename(references / "0.png")
    return folder


def trainer_of(make_config: MakeConfig, tmp_path: Path, photographs: Path, **fields: Any) -> Trainer:
    folder = make_tiny("sdxl", tmp_path / "sdxl")
    config = make_config("lora", model=str(folder), resolution=RESOLUTION, **fields)
    subject = config.subject.model_copy(
        update={
            "images": str(photographs),
            "references": str(photographs.parent / "references"),
            "masks": None,
        }
    )
    backbone = load_backbone(ModelConfig(path=str(folder)))
    loaded = resolve_subject(subject, RESOLUTION)
    return build_trainer(config, backbone, loaded, Cache(config.cache_dir))


def spy(trainer: Trainer) -> list[torch.Tensor]:
    """Collects the time ids with which the UNet is called."""
    seen: list[torch.Tensor] = []

    def note(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        seen.append(keywords["added_cond_kwargs"]["time_ids"])

    trainer.backbone.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize("size", SIZES)
def test_size_and_crop_of_a_file(size: tuple[int, int]) -> None:
    assert geometry_of(size, RESOLUTION) == SIZES[size]


def test_a_turned_photograph_has_the_size_that_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "turned"
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    for number in range(2):
        Image.effect_noise((80, 40 + number), 90).convert("RGB").save(folder / f"{number}.jpg", exif=turned)
    subject = resolve_subject(
        SubjectConfig(
            name="cat", images=str(folder), holdout=1, instance_prompt="a sks cat", class_prompt="a cat"
        ),
        RESOLUTION,
    )
    assert subject.geometry[0][0] == 80
    assert subject.geometry[0][1] in (40, 41)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_unet_is_told_the_files_own_sizes(
    precision: str, make_config: MakeConfig, tmp_path: Path, photographs: Path
) -> None:
    """In bfloat16, which diffusers' script casts them to, 853 is 852."""
    trainer = trainer_of(
        make_config, tmp_path, photographs, mixed_precision=precision, train_batch_size=3, random_flip=True
    )
    seen = spy(trainer)
    examples = trainer.batches._sources[0][1]
    examples.std.zero_()  # so that latents tell the image
    batch = trainer.batches.draw()  # three of three images: each once, in some order
    with trainer.accelerator.autocast():
        batch_loss(trainer, batch)
    (told,) = seen
    assert told.dtype == torch.float32
    assert sorted(map(tuple, told.tolist())) == sorted(SIZES.values())
    assert examples.geometry is not None
    numbers = {tuple(row): number for number, row in enumerate(examples.geometry.tolist())}
    for row, latents in zip(told.tolist(), batch.latents, strict=True):
        own = examples.mean[numbers[tuple(row)]] * 0.5  # of either orientation: each is told of its own image
        assert any(torch.equal(latents, each) for each in own)


def test_class_images_have_their_own_sizes(
    make_config: MakeConfig, tmp_path: Path, photographs: Path
) -> None:
    """train_dreambooth_lora_sdxl.py tells of them the sizes of the instance images."""
    trainer = trainer_of(make_config, tmp_path, photographs, with_prior_preservation=True)
    seen = spy(trainer)
    batch_loss(trainer, trainer.batches.draw())
    drawn = [float(RESOLUTION)] * 2
    assert seen[0][2:].tolist() == [[*drawn, 0.0, 0.0, *drawn]] * 2
    assert {tuple(row) for row in seen[0][:2].tolist()} <= set(SIZES.values())
