"""The whole evaluation on a tiny model: what is drawn, scored, cached, and left alone."""

from __future__ import annotations

import csv
import json
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.config.fields import EvaluationConfig, ModelConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject
from trainables.embedded import evaluation_prompts
from trainables.evaluation import evaluator as evaluator_module
from trainables.evaluation import metrics, perceptual
from trainables.evaluation.copies import copied
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.evaluator import Evaluator, evaluate, prepare_evaluation
from trainables.evaluation.image_scores import write_image_scores
from trainables.evaluation.metrics_table import METRICS, unknown_metric
from trainables.evaluation.protocol import Protocol, make_protocol
from trainables.evaluation.scoring import IMAGE_METRICS
from trainables.events import IMAGE_SCORES
from trainables.models.backbone import Backbone
from trainables.models.loading import load_backbone


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def evaluator(
    backbone: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels, cache: Cache
) -> Evaluator:
    return prepare_evaluation(backbone, subject, config, metric_models, cache, 0)


@pytest.fixture
def tuned(models: Path) -> Backbone:
    """The tiny model with other weights in its UNet, as after training."""
    backbone = load_backbone(ModelConfig(path=str(models / "model")))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.denoiser.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return backbone


def seeds_of(protocol: Protocol) -> set[int]:
    return {*protocol.instance.seeds, *protocol.classes.seeds}


def test_protocol_is_fixed_by_study_subject_and_seed(subject: Subject, config: EvaluationConfig) -> None:
    protocol = make_protocol(subject, config, 32, 0)
    assert protocol == make_protocol(subject, config, 32, 0)
    assert protocol.instance.prompts[0] == protocol.instance.prompts[1] == "a sks teapot in the snow"
    assert protocol.texts == ("a teapot in the snow", "a teapot with a red hat", "a photo of a teapot")
    assert protocol.classes.prompts == ("a teapot", *protocol.texts)
    assert "sks" not in " ".join(protocol.classes.prompts + protocol.anchors.prompts + protocol.texts)
    assert len(seeds_of(protocol)) == 6 + 4


def test_noise_is_shared_by_arms_and_by_nothing_else(subject: Subject, config: EvaluationConfig) -> None:
    """The old protocol had one noise for all subjects and seeds, so that a search tuned on the verdict's images."""
    first = make_protocol(subject, config, 32, 0)
    other_subject = replace(subject, name="jug")
    others = [
        make_protocol(subject, config, 32, 1),
        make_protocol(other_subject, config, 32, 0),
        make_protocol(subject, config.model_copy(update={"seed": 5}), 32, 0),
    ]
    for other in others:
        assert other.instance.groups == first.instance.groups
        assert not seeds_of(other) & seeds_of(first)
    # Anchors are those of the class and the study: for every subject, seed and arm.
    assert [other.anchors == first.anchors for other in others] == [True, True, False]
    assert not set(first.anchors.seeds) & seeds_of(first)


@pytest.mark.parametrize("own", [None, ("{subject} in the snow", "a photo of {subject}")])
def test_search_and_confirm_share_no_noise(subject: Subject, own: tuple[str, ...] | None) -> None:
    """Not that of their anchors either, nor for prompts that both of them draw, such as the class prompt alone."""
    found = []
    for prompt_set, seed in (("confirm", 0), ("search", 1)):
        settings = EvaluationConfig.model_validate({"prompts": own, "prompt_set": prompt_set})
        found.append(make_protocol(subject, settings, 32, seed))
    confirm, search = ({*one.anchors.seeds} | seeds_of(one) for one in found)
    assert not confirm & search
    alone = [
        {seed for seed, group in zip(one.anchors.seeds, one.anchors.groups, strict=True) if not group}
        for one in found
    ]
    assert all(alone)
    assert not alone[0] & alone[1]


def test_anchors_rest_on_at_least_64_images(subject: Subject, config: EvaluationConfig) -> None:
    for prompts, each in ((None, 4), (config.prompts, 22), (("{subject}",), 64)):
        anchors = make_protocol(subject, EvaluationConfig(prompts=prompts), 32, 0).anchors
        counts = [anchors.groups.count(group) for group in set(anchors.groups)]
        assert set(counts) == {each}
        assert anchors.groups.count(0) == each  # the class prompt alone
        assert sum(counts) - each >= 64


def test_on_the_way_the_first_image_of_each_prompt_comes_before_second_ones(
    subject: Subject, config: EvaluationConfig
) -> None:
    def drawn(images: int | None) -> tuple[list[tuple[int, int]], int]:
        settings = config.model_copy(update={"images_between": images})
        protocol = make_protocol(subject, settings, 32, 0)
        part = protocol.part(final=False)
        instance = protocol.instance.chosen(part.instance)
        assert set(instance.seeds) <= set(protocol.instance.seeds)
        assert len(protocol.part(final=True).instance) == 6
        return list(zip(instance.groups, instance.numbers, strict=True)), len(part.classes)

    assert drawn(None) == ([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)], 4)
    assert drawn(4) == ([(0, 0), (0, 1), (1, 0), (2, 0)], 4)
    assert drawn(2) == ([(0, 0), (1, 0)], 4)  # fewer images than prompts: of the first prompts
    assert drawn(60) == drawn(None)


def test_on_the_way_there_are_enough_class_images_of_as_many_prompts(
    subject: Subject, config: EvaluationConfig
) -> None:
    def classes(images: int, of: int) -> list[tuple[int, int]]:
        settings = config.model_copy(update={"images_between": images, "num_class_images": of})
        protocol = make_protocol(subject, settings, 32, 0)
        part = protocol.classes.chosen(protocol.part(final=False).classes)
        return list(zip(part.groups, part.numbers, strict=True))

    eight = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]
    assert classes(1, 20) == eight  # a sixth would be three
    assert classes(1, 6) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0)]  # the end has no more
    share = classes(4, 24)
    assert len(share) == 16
    assert {group for group, _ in share} == {0, 1, 2, 3}
    many = EvaluationConfig(images_between=8, num_class_images=64)  # 16 prompts x 4
    protocol = make_protocol(subject, many, 32, 0)
    part = protocol.part(final=False)
    # Every other prompt: neighbours in the list are alike.
    assert [protocol.instance.groups[index] for index in part.instance] == list(range(0, 16, 2))
    assert [protocol.classes.groups[index] for index in part.classes] == list(range(0, 16, 2))


def test_fewer_prompts_keep_their_noise(subject: Subject, config: EvaluationConfig) -> None:
    whole = make_protocol(subject, config, 32, 0).instance
    part = make_protocol(subject, config.model_copy(update={"num_prompts": 2}), 32, 0).instance
    assert part.seeds == whole.seeds[:4]
    assert part.prompts == whole.prompts[:4]


def test_built_in_prompts_are_two_lists_that_share_none(subject: Subject) -> None:
    confirm = make_protocol(subject, EvaluationConfig(), 32, 0)
    search = make_protocol(subject, EvaluationConfig(prompt_set="search"), 32, 0)
    assert (len(set(confirm.templates)), len(set(search.templates))) == (16, 8)
    assert not set(confirm.templates) & set(search.templates)
    for template in (*confirm.templates, *search.templates):
        assert template.count("{subject}") == 1
    assert confirm.instance.prompts[0].startswith("a sks teapot")
    in_world = replace(subject, embedded=True)
    for chosen in ("confirm", "search"):
        settings = EvaluationConfig(prompt_set=chosen)
        assert make_protocol(in_world, settings, 32, 0).templates == evaluation_prompts(settings.prompt_set)


def test_the_base_model_is_measured_like_any_other(evaluator: Evaluator, backbone: Backbone) -> None:
    """Its images are not those of its anchors, so that it is at no end of a scale by construction."""
    result = evaluate(evaluator, backbone, is_base=True)
    values = result.metrics
    assert list(values) == list(IMAGE_METRICS)
    assert 0 < values["consistency"] < 1
    assert values["drift"] == 0
    anchors = evaluator.anchors.of(result.instance.groups, result.classes.groups)
    assert values["subject_fidelity_scaled"] == anchors.scaled_subject(values["subject_fidelity"])
    assert values["subject_fidelity"] != pytest.approx(anchors.subject_base, abs=1e-9)
    assert values["prompt_fidelity"] != pytest.approx(anchors.prompt_base, abs=1e-9)
    assert [i.tobytes() for i in result.class_images] == [i.tobytes() for i in evaluator.base.class_images]
    again = evaluate(evaluator, backbone)  # as if it were a trained model
    assert again.metrics["drift"] == pytest.approx(0, abs=1e-5)
    for group, base in enumerate(evaluator.base.beside):
        ours = result.images[result.instance.groups.index(group)]
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
    assert values["diversity"] == pytest.approx(perceptual.diversity(result.images, [0, 0, 1, 1, 2, 2]))
    assert values["memorisation"] == np.mean(copied(result.images, subject.images)) == 0
    table = metrics.cosines(features, features)
    between = [table[:2, 2:4].mean(), table[:2, 4:].mean(), table[2:4, 4:].mean()]
    assert values["consistency"] == pytest.approx(np.mean(between))
    class_features = embed(result.class_images)
    assert values["drift"] == pytest.approx(metrics.drift(class_features, evaluator.base.class_features))
    assert values["drift"] > 1e-4
    assert values["prior_preservation"] == pytest.approx(metrics.subject_fidelity(class_features, references))
    clip = metric_models.clip
    texts = clip.embed_texts(["a teapot in the snow", "a teapot with a red hat", "a photo of a teapot"])
    assert values["prompt_fidelity"] == pytest.approx(
        metrics.paired_cosine(clip.embed_images(result.images), texts[[0, 0, 1, 1, 2, 2]])
    )
    anchors = evaluator.anchors.of(result.instance.groups, result.classes.groups)
    errors = evaluator.anchors.errors(result.instance.groups, result.classes.groups)
    for name, error in (
        ("subject", errors.of_subject(values["subject_fidelity_scaled"], anchors)),
        ("prompt", errors.of_prompt(values["prompt_fidelity_scaled"], anchors)),
        ("class", errors.of_class(values["class_kept"], anchors)),
    ):
        assert values[f"{name}_anchor_error"] == error
    assert result.seconds > 0


def test_distances_of_distributions_need_50_images(
    backbone: Backbone, tuned: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels,
    cache: Cache,
) -> None:  # fmt: skip
    few = config.model_copy(update={"num_prompts": 2, "num_inference_steps": 1, "num_class_images": 49})
    enough = few.model_copy(update={"num_class_images": 50})
    names = [f"class_{name}{end}" for name in ("kid", "cmmd") for end in ("_low", "", "_high")]
    for settings in (few, enough):
        evaluator = prepare_evaluation(backbone, subject, settings, metric_models, cache, 0)
        values = evaluate(evaluator, tuned).metrics
        if settings is few:
            assert [values[name] for name in names] == [None] * 6
        else:
            kid, cmmd = names[:3], names[3:]
            for low, value, high in (kid, cmmd):
                assert values[low] <= values[value] <= values[high]


def test_each_image_has_its_scores(evaluator: Evaluator, tuned: Backbone, tmp_path: Path) -> None:
    result = evaluate(evaluator, tuned)
    instance = [score for score in result.image_scores if score.kind == "instance"]
    classes = [score for score in result.image_scores if score.kind == "class"]
    assert [(score.prompt, score.image) for score in instance] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)
    ]  # fmt: skip
    assert [score.noise_seed for score in instance] == list(evaluator.protocol.instance.seeds)
    assert [(score.prompt, score.template) for score in classes] == [
        (None, "{subject}"), *enumerate(evaluator.protocol.templates)
    ]  # fmt: skip
    values = result.metrics
    assert np.mean([score.subject_similarity for score in instance]) == pytest.approx(
        values["subject_fidelity"]
    )
    assert np.mean([score.prompt_similarity for score in instance]) == pytest.approx(
        values["prompt_fidelity"]
    )
    assert np.mean([s.subject_similarity for s in classes]) == pytest.approx(values["prior_preservation"])

    path = tmp_path / IMAGE_SCORES
    size = write_image_scores(result.image_scores, path)
    assert (path.stat().st_size, [p.name for p in tmp_path.iterdir()]) == (size, [IMAGE_SCORES])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = "kind prompt template image noise_seed subject_similarity prompt_similarity subject_scaled prompt_scaled"
    assert list(rows[0]) == [*columns.split(), "failed", "copy", "character"]
    assert len(rows) == 6 + 4
    assert rows[0]["copy"] == "0"
    assert float(rows[1]["prompt_similarity"]) == instance[1].prompt_similarity
    assert (rows[6]["kind"], rows[6]["prompt"], rows[6]["prompt_similarity"], rows[6]["failed"]) == (
        "class", "", "", ""
    )  # fmt: skip


def test_on_the_way_the_numbers_are_those_of_the_images_drawn(
    backbone: Backbone, tuned: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels,
    cache: Cache,
) -> None:  # fmt: skip
    settings = config.model_copy(update={"images_between": 2})
    evaluator = prepare_evaluation(backbone, subject, settings, metric_models, cache, 0)
    whole, between = evaluate(evaluator, tuned), evaluate(evaluator, tuned, final=False)
    assert (len(between.images), len(between.class_images), len(whole.images)) == (2, 4, 6)
    known = {score.noise_seed: score for score in whole.image_scores}
    same = [known[score.noise_seed] for score in between.image_scores]
    for ours, theirs in zip(between.image_scores, same, strict=True):
        assert ours.subject_similarity == pytest.approx(theirs.subject_similarity, abs=1e-5)
    # Measured against the base model's images of the prompts that were drawn, not of all.
    anchors = evaluator.anchors.of([0, 1], [0, 1, 2, 3])
    assert between.metrics["prompt_fidelity_scaled"] == anchors.scaled_prompt(
        between.metrics["prompt_fidelity"]
    )
    assert between.metrics["class_kept"] == anchors.class_kept(between.metrics["prior_preservation"])
    assert anchors != evaluator.anchors.of(whole.instance.groups, whole.classes.groups)


def test_evaluating_twice_gives_the_same(evaluator: Evaluator, tuned: Backbone) -> None:
    before = tuned.parameter_digest()
    torch.manual_seed(3)
    first = evaluate(evaluator, tuned).metrics
    torch.manual_seed(4)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    assert evaluate(evaluator, tuned).metrics == first
    assert torch.equal(torch.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == repr(states[1])
    assert random.getstate() == states[2]
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
    again = prepare_evaluation(fresh, subject, config, metric_models, cache, 0)
    assert again.anchors == evaluator.anchors
    for name in ("beside", "class_images"):
        images = [[image.tobytes() for image in getattr(one.base, name)] for one in (again, evaluator)]
        assert images[0] == images[1]
    other = config.model_copy(update={"seed": 77})
    with pytest.raises(pytest.fail.Exception):
        prepare_evaluation(fresh, subject, other, metric_models, cache, 0)


def test_preparing_refuses_a_model_that_trains(
    tuned: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels, cache: Cache
) -> None:
    tuned.denoiser.requires_grad_(True)
    with pytest.raises(RuntimeError, match="base model"):
        prepare_evaluation(tuned, subject, config, metric_models, cache, 0)


def test_what_the_data_cannot_give_is_none(
    backbone: Backbone, subject: Subject, config: EvaluationConfig, metric_models: MetricModels, cache: Cache
) -> None:
    few = config.model_copy(update={"images_per_prompt": 1, "num_prompts": 1, "num_class_images": 2})
    values = evaluate(prepare_evaluation(backbone, subject, few, metric_models, cache, 0), backbone).metrics
    assert values["diversity"] is values["consistency"] is None
    assert values["prompt_fidelity_scaled"] is None
    assert values["quality"] is None
    assert values["prompt_anchor_error"] is values["subject_anchor_error"] is None
    assert values["class_kid"] is values["class_kid_low"] is None
    assert values["subject_fidelity"] is not None


def test_a_diverged_model_is_scored_without_nan(evaluator: Evaluator, models: Path) -> None:
    broken = load_backbone(ModelConfig(path=str(models / "model")))
    with torch.no_grad():
        broken.denoiser.conv_out.bias.fill_(float("nan"))
    values = evaluate(evaluator, broken).metrics
    assert all(value is None or math.isfinite(value) for value in values.values())
    assert values["diversity"] == pytest.approx(0, abs=1e-6)  # black images all


def test_provenance_names_models_and_preprocessing(evaluator: Evaluator, models: Path) -> None:
    record = json.loads(json.dumps(evaluator.provenance()))
    assert record["metric_models"]["image_encoder"]["model"] == str(models / "vit")
    assert record["metric_models"]["clip"]["preprocessing"]["size"] == {"shortest_edge": 32}
    assert len(record["metric_models"]["clip"]["digest"]) == 64
    assert record["protocol"]["seed"] == 1234
    assert set(record["anchors"]) == {
        "subject_base", "subject_real", "prompt_base", "prompt_floor", "class_base", "images",
        "subject_base_error", "subject_real_error", "prompt_base_error", "prompt_floor_error", "class_base_error",
    }  # fmt: skip
    assert record["anchors"]["images"] == 66
    assert all(record["anchors"][name] > 0 for name in record["anchors"] if name.endswith("_error"))


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
            pool.submit(prepare_evaluation, backbone, subject, config, metric_models, Cache(tmp_path), 0)
            for _ in range(2)
        ]
        first, second = (job.result() for job in jobs)
    assert len(calls) == 2
    assert first.anchors == second.anchors
