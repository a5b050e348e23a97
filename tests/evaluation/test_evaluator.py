"""The whole evaluation on a tiny model: what is drawn, scored, cached, and left alone."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.cache import Cache
from trainables.config import EvaluationConfig, ModelConfig
from trainables.evaluation import evaluator as evaluator_module
from trainables.evaluation import metrics
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.evaluator import Evaluator, evaluate, prepare_evaluation
from trainables.evaluation.protocol import make_protocol
from trainables.families import Backbone, load_backbone
from trainables.metrics_table import METRICS, metric_names, unknown_metric
from trainables.subjects import Subject


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluator(
    backbone: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels, cache: Cache
) -> Evaluator:
    return prepare_evaluation(backbone, subject, config, metric_models, cache)


@pytest.fixture
def tuned(models: Path) -> Backbone:
    """The tiny model with other weights in its UNet, as after training."""
    backbone = load_backbone(ModelConfig(path=str(models / "model")))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.unet.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return backbone


def test_protocol_is_fixed_by_study_and_subject(subject: Subject, config: EvaluationConfig) -> None:
    protocol = make_protocol(subject, config, 32)
    assert protocol == make_protocol(subject, config, 32)
    assert protocol.instance.prompts[0] == protocol.instance.prompts[1] == "a sks teapot in the snow"
    assert protocol.texts == ("a teapot in the snow", "a teapot with a red hat", "a photo of a teapot")
    assert protocol.classes.prompts == ("a teapot", *protocol.texts)
    assert "sks" not in " ".join(protocol.classes.prompts + protocol.classes_again.prompts + protocol.texts)
    draws = (protocol.instance, protocol.classes, protocol.classes_again)
    assert len({seed for draw in draws for seed in draw.seeds}) == 6 + 4 + 8
    other = make_protocol(subject, config.model_copy(update={"seed": 5}), 32)
    assert other.instance.prompts == protocol.instance.prompts
    assert not set(other.instance.seeds) & set(protocol.instance.seeds)


def test_fewer_prompts_keep_their_noise(subject: Subject, config: EvaluationConfig) -> None:
    whole = make_protocol(subject, config, 32).instance
    part = make_protocol(subject, config.model_copy(update={"num_prompts": 2}), 32).instance
    assert part.seeds == whole.seeds[:4]
    assert part.prompts == whole.prompts[:4]


def test_built_in_prompts(subject: Subject) -> None:
    protocol = make_protocol(subject, EvaluationConfig(), 32)
    assert len(protocol.templates) == len(set(protocol.templates)) == 16
    assert all(template.count("{subject}") == 1 for template in protocol.templates)
    assert protocol.instance.prompts[0].startswith("a sks teapot")


def test_base_model_is_the_zero_of_every_scale(evaluator: Evaluator, backbone: Backbone) -> None:
    result = evaluate(evaluator, backbone)
    values = result.metrics
    assert list(values) == [name for name in metric_names("eval") if name in values]
    assert set(values) == set(metric_names("eval"))
    assert values["drift"] == pytest.approx(0, abs=1e-5)
    assert values["subject_fidelity"] == pytest.approx(evaluator.anchors.subject_base, abs=1e-5)
    assert values["prompt_fidelity"] == pytest.approx(evaluator.anchors.prompt_base, abs=1e-5)
    if values["subject_fidelity_scaled"] is not None:
        assert values["subject_fidelity_scaled"] == pytest.approx(0, abs=1e-3)
    for ours, base in zip(result.images, evaluator.base.images, strict=True):
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(base)).max() <= 1
    json.dumps(values, allow_nan=False)


def test_scores_are_those_of_the_pure_metrics(
    evaluator: Evaluator, tuned: Backbone, metric_models: MetricModels, subject: Subject
) -> None:
    result = evaluate(evaluator, tuned)
    embed = metric_models.image_encoder.embed
    features, references = embed(result.images), embed(subject.references)
    values = result.metrics
    assert values["subject_fidelity"] == pytest.approx(metrics.subject_fidelity(features, references))
    assert values["diversity"] == pytest.approx(metrics.diversity(features, [0, 0, 1, 1, 2, 2]))
    assert values["memorisation"] == pytest.approx(
        metrics.memorisation(features, embed(subject.images), references), abs=1e-6
    )
    class_features = embed(result.class_images)
    assert values["drift"] == pytest.approx(metrics.drift(class_features, evaluator.base.class_features))
    assert values["drift"] > 1e-4
    assert values["class_kid"] == pytest.approx(metrics.kid(class_features, evaluator.base.kid_features))
    assert values["class_kid_low"] <= values["class_kid"] <= values["class_kid_high"]
    clip = metric_models.clip
    texts = clip.embed_texts(["a teapot in the snow", "a teapot with a red hat", "a photo of a teapot"])
    assert values["prompt_fidelity"] == pytest.approx(
        metrics.paired_cosine(clip.embed_images(result.images), texts[[0, 0, 1, 1, 2, 2]])
    )
    assert result.image_latency_seconds > 0
    assert result.seconds >= result.image_latency_seconds * 10


def test_evaluating_twice_gives_the_same(evaluator: Evaluator, tuned: Backbone) -> None:
    before = tuned.parameter_digest()
    torch.manual_seed(3)
    first = evaluate(evaluator, tuned).metrics
    torch.manual_seed(4)
    state = torch.get_rng_state()
    assert evaluate(evaluator, tuned).metrics == first
    assert torch.equal(torch.get_rng_state(), state)
    assert tuned.parameter_digest() == before


def test_base_values_are_computed_once(
    evaluator: Evaluator,
    models: Path,
    subject: Subject,
    config: EvaluationConfig,
    metric_models: MetricModels,
    cache: Cache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("the base model was sampled again")

    monkeypatch.setattr(evaluator_module, "generate", refuse)
    fresh = load_backbone(ModelConfig(path=str(models / "model")))
    again = prepare_evaluation(fresh, subject, config, metric_models, cache)
    assert again.anchors == evaluator.anchors
    assert [image.tobytes() for image in again.base.images] == [i.tobytes() for i in evaluator.base.images]
    other = config.model_copy(update={"seed": 77})
    with pytest.raises(pytest.fail.Exception):
        prepare_evaluation(fresh, subject, other, metric_models, cache)


def test_preparing_refuses_a_model_that_trains(
    tuned: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels, cache: Cache
) -> None:
    tuned.unet.requires_grad_(True)
    with pytest.raises(RuntimeError, match="base model"):
        prepare_evaluation(tuned, subject, config, metric_models, cache)


def test_what_the_data_cannot_give_is_none(
    backbone: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels, cache: Cache
) -> None:
    few = config.model_copy(update={"images_per_prompt": 1, "num_prompts": 1, "num_class_images": 2})
    values = evaluate(prepare_evaluation(backbone, subject, few, metric_models, cache), backbone).metrics
    assert values["diversity"] is None
    assert values["prompt_fidelity_scaled"] is None
    assert values["quality"] is None
    assert values["class_kid"] is not None
    assert values["class_kid_low"] is None
    assert values["subject_fidelity"] is not None


def test_a_diverged_model_is_scored_without_nan(evaluator: Evaluator, models: Path) -> None:
    broken = load_backbone(ModelConfig(path=str(models / "model")))
    with torch.no_grad():
        broken.unet.conv_out.bias.fill_(float("nan"))
    values = evaluate(evaluator, broken).metrics
    assert all(value is None or math.isfinite(value) for value in values.values())
    assert values["diversity"] == pytest.approx(0, abs=1e-6)  # black images all


def test_provenance_names_models_and_preprocessing(evaluator: Evaluator, models: Path) -> None:
    record = json.loads(json.dumps(evaluator.provenance()))
    assert record["metric_models"]["image_encoder"]["model"] == str(models / "vit")
    assert record["metric_models"]["clip"]["preprocessing"]["size"] == {"shortest_edge": 32}
    assert len(record["metric_models"]["clip"]["digest"]) == 64
    assert record["protocol"]["seed"] == 1234
    assert set(record["anchors"]) == {"subject_base", "subject_real", "prompt_base", "prompt_floor"}


def test_metrics_table() -> None:
    assert all(metric.name == name for name, metric in METRICS.items())
    assert METRICS["drift"].direction == "lower"
    assert METRICS["quality"].key == "eval/quality"
    assert unknown_metric("quality") is None
    assert "'subject_fidelity'" in str(unknown_metric("subject_fidelty"))
    assert "'train_seconds'" in str(unknown_metric("cost/train_second"))


def test_two_at_once_sample_the_base_model_once(
    models: Path,
    subject: Subject,
    config: EvaluationConfig,
    metric_models: MetricModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(backbone: Backbone, prompts: list[str], **settings: object) -> list[Image.Image]:
        calls.append(tuple(prompts))
        time.sleep(0.05)  # long enough for the other to come to the same entry
        return [Image.new("RGB", (32, 32), (len(prompts), number, 0)) for number in range(len(prompts))]

    monkeypatch.setattr(evaluator_module, "generate", counted)
    backbone = load_backbone(ModelConfig(path=str(models / "model")))
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(prepare_evaluation, backbone, subject, config, metric_models, Cache(tmp_path))
            for _ in range(2)
        ]
        first, second = (job.result() for job in jobs)
    assert len(calls) == 3
    assert first.anchors == second.anchors
