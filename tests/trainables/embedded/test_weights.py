"""The shipped weights load with stock classes and do what they are for."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
)

from benchmarks.pretraining.common import to_tensor
from benchmarks.pretraining.judge import read
from benchmarks.pretraining.pool import PARTS, draw_pool
from trainables import embedded
from trainables.embedded import world


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(embedded.GENERATOR)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_size_and_formats() -> None:
    files = [file for file in embedded.WEIGHTS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 32e6
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".txt"}
    index = json.loads((embedded.GENERATOR / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["requires_safety_checker"] is False


def test_the_stock_pipeline_draws_what_the_judge_reads(pipeline: StableDiffusionPipeline) -> None:
    assert pipeline.unet.dtype == pipeline.text_encoder.dtype == torch.float32
    wanted = [("bird", "white", "at night"), ("frog", "green", "in the snow"), ("cat", "red", "on a beach")]
    output = pipeline(
        [f"a {colour} {class_name} {scene}" for class_name, colour, scene in wanted],
        num_inference_steps=12, guidance_scale=3.0, output_type="np",
        generator=[torch.Generator().manual_seed(i) for i in range(3)],
    ).images  # fmt: skip
    judge = AutoModelForImageClassification.from_pretrained(embedded.JUDGE).eval()
    labels = read(judge, (output * 255).round().astype(np.uint8))
    right = [
        [part[int(i)] for part, i in zip(PARTS, row, strict=False)][:3] == list(names)
        for row, names in zip(labels, wanted, strict=True)
    ]
    assert sum(right) >= 2


def test_autoencoder_reconstructs_held_out_renders(pipeline: StableDiffusionPipeline) -> None:
    x = to_tensor(draw_pool(8, 1, "held_out").images)
    with torch.no_grad():
        latents = pipeline.vae.encode(x).latent_dist.mode()
        output = pipeline.vae.decode(latents).sample.clamp(-1, 1)
    psnr = 10 * torch.log10(4 / (output - x).square().mean((1, 2, 3)))
    assert float(psnr.mean()) > 28
    assert 0.8 < float((latents * pipeline.vae.config.scaling_factor).std()) < 1.2


def test_judge_reads_held_out_renders() -> None:
    pool = draw_pool(32, 1, "held_out")
    judge = AutoModelForImageClassification.from_pretrained(embedded.JUDGE).eval()
    names = [judge.config.id2label[i] for i in range(30)]
    assert names[0] == "class:cat"
    assert names[-1] == "accessory:balloon"
    assert (read(judge, pool.images) == pool.labels).mean() > 0.95


def test_image_encoder_knows_identities() -> None:
    model = AutoModel.from_pretrained(embedded.IMAGE_ENCODER).eval()
    processor = AutoImageProcessor.from_pretrained(embedded.IMAGE_ENCODER, backend="pil")
    subjects = [embedded.load_subject(name) for name in embedded.subject_names()]
    images = [s.training_images()[0] for s in subjects] + [s.reference_images()[0] for s in subjects]
    pixels = processor(images=images, return_tensors="pt")["pixel_values"]
    exact = to_tensor(np.stack([np.asarray(image) for image in images]))
    assert torch.allclose(pixels, exact, atol=1e-5)
    with torch.no_grad():
        features = model(pixel_values=pixels).last_hidden_state[:, 0]
    features = torch.nn.functional.normalize(features, dim=1)
    cosine = features[: len(subjects)] @ features[len(subjects) :].T
    assert (cosine.argmax(1) == torch.arange(len(subjects))).float().mean() > 0.9
    assert cosine.diagonal().mean() > 0.8


def test_clip_matches_captions() -> None:
    model = AutoModel.from_pretrained(embedded.CLIP).eval()
    processor = AutoProcessor.from_pretrained(embedded.CLIP, backend="pil")
    identity = world.draw_identity(world.generator(1, "held_out", 3), "bear", "blue")
    from trainables.embedded.render import render

    image = render(identity, world.Setting("in the desert", "crown", 1))
    texts = [
        "a blue bear in the desert wearing a crown", "a blue bear in the desert wearing a hat",
        "a blue bear at night wearing a crown", "a red bear in the desert wearing a crown",
        "a blue cat in the desert wearing a crown",
    ]  # fmt: skip
    batch = processor(images=[image], text=texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert int(model(**batch).logits_per_image.argmax()) == 0


@pytest.mark.parametrize("folder", [embedded.CLIP, embedded.IMAGE_ENCODER, embedded.JUDGE])
def test_auto_image_processor_needs_no_torchvision(folder: str) -> None:
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    image = embedded.load_subject("cat-1").training_images()[0]
    pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, 64, 64)
    assert float(pixels.min()) >= -1
    assert float(pixels.max()) <= 1
