"""Training on images of several sizes: batches of one size, sizes that are told, FLOPs, seconds, worker groups."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from tests.helpers.captioned_images import data_set
from tests.helpers.tiny_families import TINY, make_tiny
from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import ModelConfig
from trainables.data.buckets import geometry_in
from trainables.data.cache import Cache
from trainables.data.subjects import Subject
from trainables.distributed.worker_group import WorkerGroup
from trainables.methods.registry import get_method
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone
from trainables.training import length
from trainables.training.batches import Batches, Examples
from trainables.training.encoded import Encoded, encode_data, share_encoded
from trainables.training.length import settle_length
from trainables.training.loop import Trainer, batch_loss, train_step
from trainables.training.meter import Meter
from trainables.training.trainer import build_trainer, note_flops
from trainables.util.flops import count_flops

BUCKETS = {(16, 16): 4, (24, 8): 3, (8, 24): 1}
CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {"aspect_ratio_buckets": True, "captions": "files"}


def build(
    make_config: MakeConfig,
    backbone: Backbone,
    method: str = "text_to_image",
    subject: Subject | None = None,
    **more: Any,
) -> Trainer:
    known = {"r": 2} if method == "text_to_image" else {"with_prior_preservation": False}
    config = make_config(method, model=str(backbone.folder), **FIELDS, **known, **more)
    return build_trainer(config, backbone, subject or data_set(BUCKETS), Cache(config.cache_dir))


def signature(trainer: Trainer, count: int) -> list[tuple[Any, ...]]:
    drawn = []
    for _ in range(count):
        batch = trainer.batches.draw()
        drawn.append((tuple(batch.latents.shape), batch.noise.sum().item(), batch.timesteps.tolist()))
    return drawn


def test_a_batch_has_images_of_one_bucket_with_their_captions_and_sizes(
    make_config: MakeConfig, backbone: Backbone
) -> None:
    trainer = build(make_config, backbone, train_batch_size=3)
    subject = data_set(BUCKETS)
    for _, source in trainer.batches._sources:
        source.std.zero_()  # so that a latent tells which image it is of
    means = {
        number: trainer.batches._sources[bucket][1].mean[place, 0]
        for bucket, size in enumerate(sorted(BUCKETS))
        for place, number in enumerate(n for n, image in enumerate(subject.images) if image.size == size)
    }
    seen: Counter[int] = Counter()
    for _ in range(60):
        batch = trainer.batches.draw()
        assert batch.geometry is not None
        for latents, row, geometry in zip(batch.latents, batch.captions, batch.geometry, strict=True):
            (number,) = (
                number
                for number, mean in means.items()
                if mean.shape == latents.shape and torch.equal(mean * trainer.backbone.latent_scale, latents)
            )
            image = subject.images[number]
            assert latents.shape[1:] == (image.height // 4, image.width // 4)
            assert trainer.texts.captions[row] == subject.captions[number]
            assert tuple(geometry.tolist()) == geometry_in(subject.sizes[number], image.size)
            assert geometry[-2:].tolist() == [image.height, image.width]
            seen[number] += 1
    assert len(seen) == 8
    assert max(seen.values()) - min(seen.values()) <= 3  # what waits is fewer than a batch of each bucket


def test_every_method_sees_the_same_sequence(make_config: MakeConfig, models: Path) -> None:
    """Also beside captions that are dropped and a text encoder that trains."""

    def drawn(method: str, seed: int = 0, **more: Any) -> list[tuple[Any, ...]]:
        backbone = load_backbone(ModelConfig(path=str(models / "model")))
        return signature(build(make_config, backbone, method, seed=seed, **more), 12)

    first = drawn("text_to_image")
    assert first == drawn("dreambooth", train_text_encoder=True, caption_dropout=0.5)
    assert first == drawn("hypernetwork", shuffle_captions=True)
    assert [shape for shape, _, _ in first] != [shape for shape, _, _ in drawn("text_to_image", seed=1)]


@pytest.mark.parametrize("name", [name for name in TINY if name != "sd1"])
def test_every_family_trains_on_images_that_are_no_squares(
    name: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    """The loss of a batch is the mean of those of its samples alone, at the size of their bucket."""
    backbone = load_backbone(ModelConfig(path=str(make_tiny(name, tmp_path / name))))
    trainer = build(make_config, backbone)
    shapes = []
    for _ in trainer.batches.each_bucket():
        batch = trainer.batches.draw()
        shapes.append(tuple(batch.latents.shape[2:]))
        with torch.no_grad():
            whole = batch_loss(trainer, batch)
            alone = [batch_loss(trainer, batch.part(rank, 2)) for rank in range(2)]
        torch.testing.assert_close(whole, alone[0] + alone[1], rtol=1e-4, atol=1e-5)
        loss, norm = train_step(trainer)
        assert torch.isfinite(loss)
        assert float(norm) > 0
    assert shapes == [(6, 2), (4, 4), (2, 6)]


def test_sdxl_is_told_the_bucket_for_its_target(make_config: MakeConfig, tmp_path: Path) -> None:
    backbone = load_backbone(ModelConfig(path=str(make_tiny("sdxl", tmp_path / "sdxl"))))
    trainer = build(make_config, backbone, max_train_steps=20)
    told: set[tuple[float, ...]] = set()

    def note(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        height, width = arguments[0].shape[2:]
        for row in keywords["added_cond_kwargs"]["time_ids"].tolist():
            assert row[-2:] == [4 * height, 4 * width]
            told.add(tuple(row))

    backbone.denoiser.register_forward_pre_hook(note, with_kwargs=True)
    for _ in range(12):
        train_step(trainer)
    # Files are twice as large as their buckets and have their ratio, so that nothing is cut off.
    assert told == {(2.0 * h, 2.0 * w, 0.0, 0.0, float(h), float(w)) for w, h in BUCKETS}


def test_flops_are_counted_for_each_bucket_and_added_up(make_config: MakeConfig, backbone: Backbone) -> None:
    fields_of_run: dict[str, Any] = {
        "train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_train_steps": 4,
    }
    trainer, meter = build(make_config, backbone, **fields_of_run), Meter(CPU, 1)
    note_flops(trainer, meter)
    counted = meter.flops_by_bucket
    assert len(set(counted)) > 1, "a square of 16 takes another number than 8 x 24"
    images = [BUCKETS[size] for size in sorted(BUCKETS)]
    mean = 2 * sum(n * flops for n, flops in zip(images, counted, strict=True)) // sum(images)
    assert meter.flops_per_step == mean
    real = 0
    for _ in range(3):
        real += count_flops(lambda: train_step(trainer))
    meter.batches_by_bucket = trainer.batches.bucket_counts
    assert sum(meter.batches_by_bucket) == 6
    assert min(meter.batches_by_bucket[1:]) > 0
    assert meter.cost(3)["train_flops"] == real
    again = Meter(CPU, 1)
    again.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    assert again.cost(3)["train_flops"] == real


def test_a_budget_of_flops_is_kept_by_the_expectation(make_config: MakeConfig, backbone: Backbone) -> None:
    trainer, meter = build(make_config, backbone, max_train_steps=10_000, max_train_flops=1e10), Meter(CPU, 1)
    note_flops(trainer, meter)
    settle_length(trainer, meter.flops_per_step)
    assert 1 < trainer.steps == int(1e10 // meter.flops_per_step) < 10_000
    for _ in range(trainer.steps):
        trainer.batches.draw()
    meter.batches_by_bucket = trainer.batches.bucket_counts
    assert meter.cost(trainer.steps)["train_flops"] == pytest.approx(1e10, rel=0.01)


def test_seconds_are_the_mean_over_buckets_and_timing_leaves_no_trace(
    make_config: MakeConfig, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(make_config, backbone, max_train_steps=10_000, max_train_seconds=100.0)
    seconds = {(4, 4): 1.0, (2, 6): 2.0, (6, 2): 4.0}
    draw, sizes = trainer.batches.draw, []

    def spy() -> Any:
        batch = draw()
        sizes.append(tuple(batch.latents.shape[2:]))
        return batch

    def timed(trainer: Trainer, number: int) -> float:
        train_step(trainer)
        return seconds[sizes[-1]]

    state = {name: value.clone() for name, value in trainer.batches.state_dict().items()}
    monkeypatch.setattr(trainer.batches, "draw", spy)
    monkeypatch.setattr(length, "_timed_step", timed)
    settle_length(trainer)
    assert trainer.steps == int(100 // ((4 * 1.0 + 3 * 2.0 + 1 * 4.0) / 8))
    after = trainer.batches.state_dict()
    assert all(torch.equal(after[name], value) for name, value in state.items())
    assert set(after) == set(state)


def test_a_worker_group_is_given_the_buckets_that_the_leader_has_encoded(
    make_config: MakeConfig, backbone: Backbone, tmp_path: Path
) -> None:
    training = make_config("text_to_image", r=2, random_flip=True, **FIELDS).training
    method, meter = get_method("text_to_image"), Meter(CPU, 1)
    encoded = encode_data(backbone, Cache(tmp_path), data_set(BUCKETS), method, training, meter)
    sent: list[Any] = []

    class TwoWorkers(WorkerGroup):
        size = 2

        def broadcast_tensors(self, tensors: Any = None, message: Any = None, take: Any = None) -> Any:
            if tensors:
                sent[:] = [tensors, message]
            return tuple(sent)

    worker_group = TwoWorkers()
    assert share_encoded(worker_group, encoded, CPU) is encoded
    other = share_encoded(worker_group, None, CPU)
    assert other.texts.captions == encoded.texts.captions
    assert len(other.examples) == len(encoded.examples) == 3
    assert other.priors is other.base_text is None
    for ours, theirs in zip(encoded.examples, other.examples, strict=True):
        assert isinstance(theirs, Examples)
        for column in fields(Examples):
            one, two = getattr(ours, column.name), getattr(theirs, column.name)
            assert (one is None and two is None) or torch.equal(one, two)
    assert isinstance(other, Encoded)


def test_priors_beside_several_sizes_are_refused(make_config: MakeConfig, backbone: Backbone) -> None:
    batches = build(make_config, backbone).batches
    examples = [source for _, source in batches._sources]
    with pytest.raises(ValueError, match="no examples of the class"):
        Batches(
            examples, examples[0], batches._streams, process=batches._process, size=1, scale=1.0,
            prior_loss_weight=1.0, noise_offset=0.0,
        )  # fmt: skip


def test_masks_weigh_the_images_of_their_own_bucket(make_config: MakeConfig, backbone: Backbone) -> None:
    """Each bucket has factors of its own size, of its own images, in their order."""
    bare = data_set({(16, 16): 3, (32, 16): 3})
    masks = []
    for number, image in enumerate(bare.images):
        pixels = numpy.zeros((image.height, image.width), numpy.uint8)
        pixels[:, : image.width // 2 if number % 2 else image.width] = 255
        masks.append(Image.fromarray(pixels))
    subject = replace(bare, masks=tuple(masks))
    masked = {"masked_loss": True, "background_weight": 0.0, "random_flip": True}
    trainer = build(make_config, backbone, subject=subject, **masked)
    sources = [source for _, source in trainer.batches._sources]
    assert [len(source.areas) for source in sources if source.areas is not None] == [3, 3]
    seen = set()
    for _ in range(40):
        batch = trainer.batches.draw()
        assert batch.areas is not None
        assert batch.areas.shape == (len(batch.latents), 1, *batch.latents.shape[2:])
        assert torch.allclose(batch.areas.mean(dim=(1, 2, 3)), torch.ones(len(batch.areas)))
        for area in batch.areas:
            half = area.shape[-1] // 2
            kinds = {
                "whole": torch.ones_like(area),
                "left": torch.zeros_like(area),
                "right": torch.zeros_like(area),
            }
            kinds["left"][..., :half], kinds["right"][..., half:] = 2, 2  # mirrored
            seen.add(
                (area.shape[-2:], next(kind for kind, value in kinds.items() if torch.equal(area, value)))
            )
    assert {kind for _, kind in seen} == {"whole", "left", "right"}
    assert len({size for size, _ in seen}) == 2
