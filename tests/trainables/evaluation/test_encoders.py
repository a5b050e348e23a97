"""Metric models: the right embedding, the model's own preprocessing, and clear refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables import embedded
from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.data.subjects import resolve_subject
from trainables.errors import UserError
from trainables.evaluation import checks, metrics
from trainables.evaluation.checks import check_evaluation, check_metric_models
from trainables.evaluation.encoders import (
    MetricModels,
    commit_of,
    load_clip,
    load_image_encoder,
    load_metric_models,
)


def noise_images(count: int, size: tuple[int, int] = (32, 32)) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        for _ in range(count)
    ]


def test_a_hub_model_is_known_by_its_commit(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5 no longer notes it in the configuration, where it was looked for: other weights were the same."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    digests = []
    for commit in ("a" * 40, "b" * 40):
        repository = tmp_path / "models--somebody--vit"
        shutil.copytree(models / "vit", repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        assert commit_of("somebody/vit") == commit
        encoder = load_image_encoder("somebody/vit")
        assert encoder.provenance()["commit"] == commit
        digests.append(encoder.digest)
    assert digests[0] != digests[1]
    assert commit_of(str(models / "vit")) is None


def test_image_embedding_is_the_cls_token(models: Path, metric_models: MetricModels) -> None:
    from transformers import ViTModel

    images = noise_images(3)
    model = ViTModel.from_pretrained(models / "vit").eval()
    pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 127.5 - 1 for i in images])
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0].numpy()
    ours = metric_models.image_encoder.embed(images)
    assert ours.dtype == np.float32
    assert ours == pytest.approx(expected, abs=1e-5)


def test_clip_embeddings_are_projected_features(models: Path, metric_models: MetricModels) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    images, texts = noise_images(2), ["a cat", "a sks teapot in the snow"]
    model = CLIPModel.from_pretrained(models / "clip").eval()
    tokens = CLIPTokenizer.from_pretrained(models / "clip")(texts, padding=True, return_tensors="pt")
    pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 127.5 - 1 for i in images])
    with torch.no_grad():
        output = model(**tokens, pixel_values=pixels)
    clip = metric_models.clip
    unit = [
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for rows in (clip.embed_images(images), clip.embed_texts(texts))
    ]
    assert unit[0] == pytest.approx(output.image_embeds.numpy(), abs=1e-5)
    assert unit[1] == pytest.approx(output.text_embeds.numpy(), abs=1e-5)


def test_batches_do_not_matter_and_any_size_is_taken(metric_models: MetricModels) -> None:
    images = noise_images(35, (50, 70))
    together = metric_models.image_encoder.embed(images)
    assert together.shape == (35, 32)
    assert metric_models.image_encoder.embed(images[34:]) == pytest.approx(together[34:], abs=1e-5)


def test_dinov2_loads_the_same_way(tmp_path: Path, models: Path) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8, mlp_ratio=2
    )
    Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    shutil.copy(models / "clip" / "preprocessor_config.json", tmp_path / "dinov2")
    encoder = load_image_encoder(str(tmp_path / "dinov2"))
    assert encoder.embed(noise_images(2)).shape == (2, 16)


def test_loading_keeps_the_random_state(models: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    load_image_encoder(str(models / "vit"))
    assert torch.equal(torch.get_rng_state(), state)


def test_digest_follows_the_weights(models: Path, tmp_path: Path) -> None:
    from benchmarks.support.tiny_models import make_tiny_vit

    first = load_image_encoder(str(models / "vit"))
    copy = shutil.copytree(models / "vit", tmp_path / "copy")
    assert load_image_encoder(str(copy)).digest == first.digest
    assert load_image_encoder(str(make_tiny_vit(tmp_path / "other", seed=9))).digest != first.digest


def test_wrong_models_are_refused(models: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    problems = check_metric_models(str(tmp_path / "empty"), "no such thing")
    assert len(problems) == 2
    assert "config.json" in problems[0]
    assert "openai/clip-vit-base-patch32" in problems[1]
    assert check_metric_models(str(models / "vit"), "openai/clip-vit-base-patch32") == []
    no_clip = shutil.copytree(models / "vit", tmp_path / "vit")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(models / "clip" / name, no_clip)
    with pytest.raises(UserError, match="no text tower"):
        load_clip(str(no_clip))
    (tmp_path / "empty" / "config.json").write_text("{}")
    (tmp_path / "empty" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_image_encoder(str(tmp_path / "empty"))


def test_settings_that_make_an_objective_impossible() -> None:
    one = EvaluationConfig(num_prompts=1, images_per_prompt=1, num_class_images=2)
    assert check_evaluation(one) == []
    assert len(check_evaluation(one, ("quality", "diversity", "class_kid_low"))) == 3
    assert "2 evaluation prompts" in check_evaluation(one, ("quality",))[0]
    assert "compares images of different ones" in check_evaluation(one, ("consistency",))[0]
    assert len(check_evaluation(EvaluationConfig(prompts=("{subject}",)), ("quality",))) == 1
    assert "2 evaluation prompts" in check_evaluation(one, ("quality_subject_prompt",))[0]
    assert check_evaluation(EvaluationConfig(), ("quality", "diversity", "class_kept")) == []


def test_distances_of_distributions_are_refused_where_they_would_be_missing() -> None:
    assert checks.MIN_DISTRIBUTION_IMAGES == 50
    for metric in ("class_kid", "class_kid_low", "class_cmmd"):
        (problem,) = check_evaluation(EvaluationConfig(num_class_images=49), (metric,), "evaluation.search")
        assert f"{metric} needs evaluation.search.num_class_images of at least 50" in problem
        assert "it is 49" in problem
        assert check_evaluation(EvaluationConfig(num_class_images=50), (metric,)) == []


def test_a_processor_config_of_transformers_5_will_do(models: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(models / "clip", tmp_path / "clip")
    plain = copy / "preprocessor_config.json"
    (copy / "processor_config.json").write_text(
        json.dumps({"image_processor": json.loads(plain.read_text())})
    )
    plain.unlink()
    assert check_metric_models("embedded", str(copy)) == []
    load_clip(str(copy))
    (copy / "processor_config.json").write_text("{}")
    assert "image_processor" in "".join(check_metric_models("embedded", str(copy)))


@pytest.mark.skipif(not embedded.CLIP.is_dir(), reason="the embedded model's weights are not here")
def test_embedded_encoders_tell_subjects_apart() -> None:
    models = load_metric_models()
    cats = [resolve_subject(SubjectConfig(name=name), 64) for name in ("cat-1", "cat-2")]
    embed = models.image_encoder.embed
    first, second = (embed(cat.references) for cat in cats)
    trained = embed(cats[0].images)
    real = metrics.real_similarity(first, trained)
    other = metrics.subject_fidelity(second, first)
    assert real is not None
    assert other is not None
    assert real > 0.8 > 0.4 > other
    assert metrics.paired_cosine(
        models.clip.embed_images(cats[0].references[:1]), models.clip.embed_texts(["a cat in the snow"])
    ) > metrics.paired_cosine(
        models.clip.embed_images(cats[0].references[:1]), models.clip.embed_texts(["a bird on a beach"])
    )
