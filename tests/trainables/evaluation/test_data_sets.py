"""A data set's evaluation: what images are compared with, known answers, and its numbers in plain numpy."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_folders import write_lines
from tests.helpers.made_data_sets import CAST, TRIGGER, FakeBackbone, Pictures, data_set
from trainables.config.fields import EvaluationConfig, SubjectConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject, resolve_subject
from trainables.embedded import load_subject
from trainables.evaluation import evaluator as evaluator_module
from trainables.evaluation import grids, metrics
from trainables.evaluation.anchors import (
    AnchorTable,
    PromptEnd,
    RealEnds,
    make_data_set_anchors,
    make_sets,
)
from trainables.evaluation.copies import copied
from trainables.evaluation.encoders import MetricModels, load_metric_models
from trainables.evaluation.evaluator import Evaluation, Evaluator, evaluate, prepare_evaluation
from trainables.evaluation.grids import save_samples
from trainables.evaluation.real_captions import end_of_all

CONFIRM, SEARCH = EvaluationConfig(num_class_images=64), EvaluationConfig(prompt_set="search")


def test_each_prompt_has_the_references_of_its_character() -> None:
    sets = make_sets(("b", "a", "", "nobody"), ("a", "b", "a", "c"), 7, ("b", "b"))
    assert sets.characters == ("", "a", "b")
    assert sets.rows == ((0, 1, 2, 3), (0, 2), (1,))
    assert sets.of([0, 1, 2, 3, 4, 5]) == [
        (0, 1, 2, 3),
        (1,),
        (0, 2),
        (0, 1, 2, 3),
        (0, 1, 2, 3),
        (0, 1, 2, 3),
    ]


@pytest.fixture(scope="module")
def judges() -> MetricModels:
    return load_metric_models()


@pytest.fixture(scope="module")
def drawn(judges: MetricModels, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pictures, Evaluator]:
    """An evaluator whose base model draws creatures of the class in the scene that a caption names."""
    subject = data_set()
    pictures = Pictures(subject)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator_module, "generate", pictures)
        cache = Cache(tmp_path_factory.mktemp("cache"))
        evaluator = prepare_evaluation(FakeBackbone(), subject, CONFIRM, judges, cache, 0, 64)  # type: ignore[arg-type]
    return pictures, evaluator


def judged(drawn: tuple[Pictures, Evaluator], monkeypatch: pytest.MonkeyPatch, **state: object) -> Evaluation:
    pictures, evaluator = drawn
    pictures.learnt, pictures.shift = False, {}
    for name, value in state.items():
        setattr(pictures, name, value)
    monkeypatch.setattr(evaluator_module, "generate", pictures)
    return evaluate(evaluator, FakeBackbone())  # type: ignore[arg-type]


def test_real_images_score_one_and_the_base_model_nothing(
    drawn: tuple[Pictures, Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = judged(drawn, monkeypatch, learnt=True).metrics
    # Sixteen of each image's references are other pictures, and one in 24 is itself: a little above 1.
    assert real["subject_fidelity_scaled"] == pytest.approx(1, abs=0.1)
    assert real["prompt_fidelity_scaled"] == pytest.approx(1, abs=0.1)
    assert real["class_kept"] == pytest.approx(1, abs=0.15)
    assert real["quality"] > 0.8
    assert real["worst_character"] == pytest.approx(1, abs=0.15)
    assert real["failed_images"] < 0.1
    base = judged(drawn, monkeypatch).metrics
    assert base["subject_fidelity_scaled"] == pytest.approx(0, abs=0.1)
    assert base["quality"] < 0.15
    assert base["class_kept"] == pytest.approx(1, abs=0.1)
    for name in ("dataset_kid", "dataset_cmmd"):
        assert real[name] < 0.2 * base[name]
        assert base[f"{name}_low"] <= base[name] <= base[f"{name}_high"]
    json.dumps([real, base], allow_nan=False)


def test_pictures_of_the_wrong_character_fail_for_that_character(
    drawn: tuple[Pictures, Evaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = judged(drawn, monkeypatch, learnt=True, shift={"momo": "bibi"})
    found = evaluation.metrics
    assert found["worst_character"] < 0.3
    assert found["subject_fidelity_scaled"] > found["worst_character"] + 0.3
    scores = [score for score in evaluation.image_scores if score.kind == "instance"]
    by_character = {name: [score for score in scores if score.character == name] for name in CAST}
    assert np.mean([score.subject_scaled for score in by_character["momo"]]) == pytest.approx(
        found["worst_character"]
    )
    assert all(score.failed for score in by_character["momo"])
    assert np.mean([score.subject_scaled for score in by_character["bibi"]]) == pytest.approx(1, abs=0.15)
    assert {score.character for score in evaluation.image_scores if score.kind == "class"} == {None}


def test_pictures_are_kept_of_captions_of_every_character(
    drawn: tuple[Pictures, Evaluator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    evaluation, evaluator = judged(drawn, monkeypatch, learnt=True), drawn[1]
    rows: list[grids.GridRow] = []
    monkeypatch.setattr(grids, "draw_grid", lambda found, _: rows.extend(found) or Image.new("RGB", (9, 9)))
    files = save_samples(evaluator, evaluation, tmp_path, 10)
    strips = [key[3:] for key in files if key[:2].isdigit()]
    assert len(strips) == 8
    assert {strip.split()[0] for strip in strips} == set(CAST)
    assert set(strips) <= set(evaluator.protocol.texts)
    assert [row.caption for row in rows][1:-1] == [TRIGGER + text for text in evaluator.protocol.texts]
    assert rows[-1].caption == "captions without the trigger"


def test_scores_are_those_of_plain_numpy(
    drawn: tuple[Pictures, Evaluator], monkeypatch: pytest.MonkeyPatch, judges: MetricModels
) -> None:
    subject, evaluator = drawn[0].subject, drawn[1]
    evaluation = judged(drawn, monkeypatch, learnt=True)
    references = metrics.normalised(judges.image_encoder.embed(subject.references))
    made = metrics.normalised(judges.image_encoder.embed(evaluation.images))
    who = np.array(subject.reference_characters)
    character = [prompt.split()[2] for prompt in evaluation.instance.prompts]
    own = [float((made[k] @ references[who == name].T).mean()) for k, name in enumerate(character)]
    assert evaluation.metrics["subject_fidelity"] == pytest.approx(np.mean(own))
    inside = {}
    for name in CAST:
        table = references[who == name] @ references[who == name].T
        inside[name] = table[np.triu_indices(len(table), 1)].mean()
    captions = evaluation.instance.groups
    pairs = [
        float(made[k] @ made[m])
        for k, m in itertools.combinations(range(len(made)), 2)
        if captions[k] != captions[m] and character[k] == character[m]
    ]  # as many images of each caption, so that every pair of captions weighs the same
    assert evaluation.metrics["consistency"] == pytest.approx(np.mean(pairs))
    base = metrics.normalised(evaluator.scale.features)
    asked = [prompt.split()[0] for prompt in evaluator.protocol.anchors.prompts]
    zero = np.mean([float((base[k] @ references[who == name].T).mean()) for k, name in enumerate(asked)])
    one = np.mean([inside[name] for name in character])
    expected = (np.mean(own) - zero) / (one - zero)
    assert evaluation.metrics["subject_fidelity_scaled"] == pytest.approx(expected)
    ceilings = [evaluation.metrics[f"ceiling_{name}"] for name in ("subject", "prompt", "quality")]
    assert ceilings == [None] * 3, "they would be 1 by construction"

    texts = metrics.normalised(judges.clip.embed_texts(evaluator.protocol.texts))
    real = metrics.normalised(judges.clip.embed_images(subject.references))
    rows = [subject.reference_captions.index(TRIGGER + text) for text in evaluator.protocol.texts]
    table = real[rows] @ texts.T
    off = table[~np.eye(len(table), dtype=bool)].mean()
    fidelity = np.mean(np.diag(table))  # four images of each caption are that caption's picture
    assert evaluation.metrics["prompt_fidelity"] == pytest.approx(fidelity)
    anchors = evaluator.provenance()["anchors"]
    assert anchors["prompt_end"] == "real images"
    assert (anchors["prompt_base"], anchors["prompt_floor"]) == pytest.approx((fidelity, off))
    assert evaluation.metrics["prompt_fidelity_scaled"] == pytest.approx(1)
    json.dumps(evaluator.provenance(), allow_nan=False)


def test_the_ends_of_prompt_fidelity_are_images_that_show_their_captions() -> None:
    rng = np.random.default_rng(0)
    texts, features = rng.normal(size=(4, 6)), rng.normal(size=(12, 4))
    groups = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    clip = texts[np.array(groups) - 1] + 0.1 * rng.normal(size=(12, 6))
    unread = rng.normal(size=(12, 6))  # a base model that draws anything
    sets = make_sets(("",) * 4, ("", ""), 5)
    ends = RealEnds(sets.of_group, (0.9,), (0.01,))
    references = rng.normal(size=(2, 4))

    def made(images: metrics.Array, own: PromptEnd | None, of_all: PromptEnd | None = None) -> AnchorTable:
        return make_data_set_anchors(
            features, images, groups, texts, references, sets, ends, own, of_all or own, (1, 2, 3, 4)
        )

    read = PromptEnd((0.3, 0.25, 0.35, 0.3), (0.1, 0.1, 0.12, 0.09))
    real = made(clip, read)  # though the base model's are more alike to their captions
    assert (real.prompt_end, real.prompt, real.floor) == ("real images", read.own, read.others)
    for own in (
        PromptEnd((0.109,) * 4, (0.1,) * 4),  # too small a span
        PromptEnd((0.6, 0.0, 0.5, 0.0), (0.2, 0.2, 0.2, 0.2)),  # half the captions are missed: chance
        PromptEnd((0.1,) * 4, (0.3,) * 4),
    ):
        nothing = made(clip, own)  # though the base model follows its captions
        assert nothing.prompt_end == "none"
        assert (
            made(clip, read, own).prompt_end == "none"
        )  # all captions decide, whatever the few that are asked say
        assert made(clip, own, read).floor == own.others
        anchors = nothing.of([0, 1, 2, 3], [1, 2])
        assert anchors.scaled_prompt(0.5) is None
        assert anchors.scaled_subject(0.5) is not None
        json.dumps(nothing.provenance(), allow_nan=False)
    # Captions of the study's own have no real images.
    base = made(clip, None)
    assert base.prompt_end == "base model"
    assert np.mean(base.prompt) == pytest.approx(metrics.paired_cosine(clip, texts[np.array(groups) - 1]))
    assert np.mean(base.floor) == pytest.approx(
        metrics.mismatched_prompt_fidelity(clip, texts, [group - 1 for group in groups])
    )
    assert made(unread, None).prompt_end == "none"
    assert made(unread, read).prompt_end == "real images"


def test_whether_captions_are_read_is_asked_of_all_that_are_held_out(judges: MetricModels) -> None:
    subject = data_set()
    again = TRIGGER + subject.reference_captions[0].removeprefix(TRIGGER).upper()
    subject = replace(
        subject,
        references=(*subject.references, subject.references[0]),
        reference_captions=(*subject.reference_captions, again),
    )
    features = judges.clip.embed_images(subject.references)
    found = end_of_all(subject, features, judges.clip)
    captions = [caption.removeprefix(TRIGGER) for caption in subject.reference_captions[:-1]]
    table = metrics.cosines(features, judges.clip.embed_texts(captions))
    assert len(found.own) == len(captions) == len(set(captions))  # case and spaces make no other caption
    assert found.own[1] == pytest.approx(table[1, 1])
    assert found.others[0] == pytest.approx(np.delete(table[[0, -1]], 0, axis=1).mean())
    assert found.tells_captions
    turned = replace(
        subject, references=subject.references[:-1], reference_captions=subject.reference_captions[1:]
    )
    assert not end_of_all(turned, features[:-1], judges.clip).tells_captions


def test_two_halves_of_real_images_have_no_distance(judges: MetricModels) -> None:
    subject = data_set()
    features = judges.image_encoder.embed(subject.references)
    clip = judges.clip.embed_images(subject.references)
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        order = rng.permutation(len(features))
        one, other = order[:36], order[36:]
        found.append(
            (
                metrics.mmd(features[one], features[other], metrics.polynomial_kernel),
                metrics.mmd(clip[one], clip[other], metrics.gaussian_kernel),
            )
        )
    others = [
        image for name in ("cat-7", "frog-8", "dog-9") for image in load_subject(name).reference_images()[:24]
    ]
    far = (
        metrics.mmd(features, judges.image_encoder.embed(others), metrics.polynomial_kernel),
        metrics.mmd(clip, judges.clip.embed_images(others), metrics.gaussian_kernel),
    )
    for values, distance in zip(np.array(found).T, far, strict=True):
        assert abs(values.mean()) < 0.05 * distance
        assert values.std() < 0.2 * distance


def test_images_of_one_caption_are_no_draws_of_their_own() -> None:
    """Four pictures of each of 20 captions, drawn like 60 real ones of other captions: the distance is 0 on average."""
    rng = np.random.default_rng(0)
    captions, found, naive = np.repeat(np.arange(20), 4), [], []
    inside = []
    for number in range(200):
        real = rng.normal(size=(60, 6)) + 0.3 * rng.normal(size=(60, 6))
        made = rng.normal(size=(20, 6))[captions] + 0.3 * rng.normal(size=(80, 6))
        clusters = list(captions), list(range(60))
        found.append(metrics.mmd(made, real, metrics.polynomial_kernel, clusters))
        naive.append(metrics.mmd(made, real, metrics.polynomial_kernel))
        if number < 40:
            low, high = metrics.mmd_interval(
                made, real, metrics.polynomial_kernel, resamples=200, clusters=clusters
            )
            inside.append(low <= 0 <= high)
    error = np.std(found, ddof=1) / len(found) ** 0.5
    assert abs(np.mean(found)) < 4 * error
    assert np.mean(naive) > 20 * error
    assert np.mean(inside) > 0.8
    # By hand: all pairs of pictures of different captions.
    table = metrics.polynomial_kernel(made, made)
    apart = captions[:, None] != captions
    within = metrics.polynomial_kernel(real, real)[~np.eye(60, dtype=bool)].mean()
    expected = table[apart].mean() + within - 2 * metrics.polynomial_kernel(made, real).mean()
    assert found[-1] == pytest.approx(expected)


def test_without_characters_there_is_no_worst_one(
    judges: MetricModels, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = data_set(trigger="", characters=False)
    pictures = Pictures(subject)
    monkeypatch.setattr(evaluator_module, "generate", pictures)
    few = CONFIRM.model_copy(update={"num_prompts": 6, "images_per_prompt": 1, "num_class_images": 8})
    cache = Cache(tmp_path_factory.mktemp("cache"))
    evaluator = prepare_evaluation(FakeBackbone(), subject, few, judges, cache, 0, 64)  # type: ignore[arg-type]
    pictures.learnt = True
    result = evaluate(evaluator, FakeBackbone())  # type: ignore[arg-type]
    found = result.metrics
    assert found["worst_character"] is None
    table = metrics.cosines(*[judges.image_encoder.embed(result.images)] * 2)
    assert found["consistency"] == pytest.approx(table[np.triu_indices(6, 1)].mean())  # one image a prompt
    assert found["dataset_kid"] is found["dataset_cmmd_high"] is None  # 6 images are too few
    references = judges.image_encoder.embed(subject.references)
    assert found["prior_preservation"] == pytest.approx(
        metrics.subject_fidelity(judges.image_encoder.embed(result.class_images), references)
    )
    classes = [score for score in result.image_scores if score.kind == "class"]
    assert [score.template for score in classes] == list(result.classes.prompts)
    # General prompts are compared with all references, as real images are with each other.
    assert found["class_kept"] == pytest.approx(1, abs=0.3)
    end = evaluator.anchors.of(result.instance.groups, result.classes.groups)
    assert end.class_real == pytest.approx(metrics.real_similarity(references, references))


def written(folder: Path, subject: Subject, nameless: str) -> SubjectConfig:
    """A made data set as two folders, of which one has a first image that names nobody."""
    sides = {
        "train": (subject.images, subject.captions, subject.characters),
        "held": (subject.references, subject.reference_captions, subject.reference_characters),
    }
    for side, (images, captions, who) in sides.items():
        (folder / side).mkdir()
        names = ["" if side == nameless and not number else name for number, name in enumerate(who)]
        rows = list(zip([f"{number:02}.png" for number in range(len(images))], captions, names, strict=True))
        for image, (name, _, _) in zip(images, rows, strict=True):
            image.save(folder / side / name)
        write_lines(
            folder / side, [dict(zip(("file_name", "text", "who"), row, strict=True)) for row in rows]
        )
    dataset = {"path": str(folder / "train"), "references": str(folder / "held"), "character_column": "who"}
    return SubjectConfig.model_validate(
        {"name": "cast", "dataset": dataset | {"trigger": TRIGGER.strip(", ")}}
    )


@pytest.mark.parametrize("nameless", ["train", "held"])
def test_an_image_that_names_nobody_leaves_the_others_their_results(
    nameless: str, judges: MetricModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = resolve_subject(written(tmp_path, data_set(each=8), nameless), 64)
    pictures = Pictures(subject)
    monkeypatch.setattr(evaluator_module, "generate", pictures)
    few = CONFIRM.model_copy(update={"images_per_prompt": 2, "num_class_images": 8})
    evaluator = prepare_evaluation(FakeBackbone(), subject, few, judges, Cache(tmp_path / "c"), 0, 64)  # type: ignore[arg-type]
    pictures.learnt = True
    evaluation = evaluate(evaluator, FakeBackbone())  # type: ignore[arg-type]
    scores = [score for score in evaluation.image_scores if score.kind == "instance"]
    means = {name: np.mean([one.subject_scaled for one in scores if one.character == name]) for name in CAST}
    assert evaluation.metrics["worst_character"] == pytest.approx(min(means.values()))
    sets = evaluator.scale.reality.sets
    assert sets is not None
    assert sets.characters == ("", *sorted(CAST))
    first = int(nameless == "held")
    assert sets.rows[0] == tuple(range(24)), "a caption that names nobody is compared with all"
    assert sets.rows[sorted(CAST).index("momo") + 1] == tuple(range(first, 8))


def test_of_training_images_that_name_nobody_none_counts_with_a_character(
    judges: MetricModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = replace(data_set(each=2), characters=())
    monkeypatch.setattr(evaluator_module, "generate", Pictures(subject))
    config = EvaluationConfig(images_per_prompt=1, num_class_images=3, anchor_images=3)
    evaluator = prepare_evaluation(FakeBackbone(), subject, config, judges, Cache(tmp_path), 0, 64)  # type: ignore[arg-type]
    ends = evaluator.anchors.ends
    assert ends is not None
    own = judges.image_encoder.embed(subject.references)[:2]
    expected = metrics.real_similarity(own, own[:0])
    assert ends.values[sorted(CAST).index("momo") + 1] == pytest.approx(expected)


def test_few_references_of_a_character_count_with_its_training_images(
    judges: MetricModels, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = data_set(each=2)
    monkeypatch.setattr(evaluator_module, "generate", Pictures(subject))
    config = EvaluationConfig(images_per_prompt=1, num_class_images=3, anchor_images=3)
    cache = Cache(tmp_path_factory.mktemp("cache"))
    evaluator = prepare_evaluation(FakeBackbone(), subject, config, judges, cache, 0, 64)  # type: ignore[arg-type]
    ends = evaluator.anchors.ends
    assert ends is not None
    references = judges.image_encoder.embed(subject.references)
    training = judges.image_encoder.embed(subject.images)
    of_momo = metrics.real_similarity(references[:2], training[:5])
    assert ends.values[sorted(CAST).index("momo") + 1] == pytest.approx(of_momo)
    # As an arm with buckets has the same images: the scale is the same.
    wide = tuple(image.crop((0, 12, 64, 52)) for image in subject.images)
    bucketed = replace(subject, images=wide, squares=subject.images)
    again = prepare_evaluation(FakeBackbone(), bucketed, config, judges, cache, 0, 64)  # type: ignore[arg-type]
    assert again.anchors.ends == ends


def test_a_character_on_a_single_real_image_takes_no_quality_from_the_others(
    judges: MetricModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = data_set(each=4)
    # The last picture is the only one of `tutu`: nobody knows how alike its real images are.
    rows = [*(n for n, who in enumerate(subject.reference_characters) if who != "tutu"), 8]
    few = replace(
        subject,
        **{
            name: tuple(getattr(subject, name)[row] for row in rows)
            for name in ("references", "reference_captions", "reference_characters")
        },  # type: ignore[arg-type]
        characters=tuple("momo" if who == "tutu" else who for who in subject.characters),
    )
    assert (few.reference_characters.count("tutu"), few.characters.count("tutu")) == (1, 0)
    pictures = Pictures(few)
    monkeypatch.setattr(evaluator_module, "generate", pictures)
    config = EvaluationConfig(images_per_prompt=1, num_class_images=5, anchor_images=5)
    evaluator = prepare_evaluation(FakeBackbone(), few, config, judges, Cache(tmp_path), 0, 64)  # type: ignore[arg-type]
    assert "tutu" in evaluator.protocol.characters
    pictures.learnt = True
    result = evaluate(evaluator, FakeBackbone())  # type: ignore[arg-type]
    found = result.metrics
    assert found["subject_fidelity_scaled"] is not None
    assert found["quality_subject_prompt"] is not None
    # Its own picture is compared with all held-out images, as where nobody is named.
    number = evaluator.protocol.characters.index("tutu")
    features = judges.image_encoder.embed(few.references)
    of_all = metrics.cosines(features[-1:], features).mean()
    (own,) = [score for score in result.image_scores if score.kind == "instance" and score.prompt == number]
    assert own.subject_similarity == pytest.approx(float(of_all))
    assert own.character is None
    assert {score.character for score in result.image_scores} == {None, "momo", "bibi"}


def test_a_cut_of_a_training_image_of_another_shape_is_a_copy() -> None:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 9, 3), dtype=np.uint8))
    wide = wide.resize((96, 64), Image.Resampling.BICUBIC)
    middle, whole = wide.crop((16, 0, 80, 64)), wide.resize((64, 64), Image.Resampling.BICUBIC)
    left = wide.crop((0, 0, 64, 64))
    assert copied([middle, whole, left], [wide]).tolist() == [True, True, False]
