"""Training one classifier: the same bit by bit when repeated or gone on with, in equal steps, and it learns."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.labelled_images import CLASSES, coloured, some_data, spread
from trainables.classifiers import training, vgg
from trainables.classifiers.images import TrainingData
from trainables.classifiers.networks import SMALLEST, SMALLEST_OTHERS, build_classifier
from trainables.classifiers.prediction import predict
from trainables.classifiers.records import Evaluation, TrainingRecord, unequal_lengths
from trainables.classifiers.scores import score
from trainables.classifiers.training import (
    ClassifierTraining,
    TrainedClassifier,
    count_step_flops,
    learning_rate,
    train_classifier,
)
from trainables.config.classifiers import NETWORKS, ClassifierConfig
from trainables.errors import TrainingFailure, UserError
from trainables.util.flops import count_flops

ALL: dict[str, Any] = {"augmentation": {}, "generated_probability": 0.5, "lr_scheduler": "cosine"}


def config(**fields: Any) -> ClassifierConfig:
    usual = {
        "network": "small_cnn",
        "max_train_steps": 6,
        "train_batch_size": 4,
        "validation_steps": 2,
        "checkpointing_steps": 2,
    }
    return ClassifierConfig.model_validate(usual | fields)


def timeless(record: TrainingRecord) -> TrainingRecord:
    return replace(record, train_seconds=0, validation_seconds=0)


def assert_same(one: TrainedClassifier, other: TrainedClassifier) -> None:
    ours, theirs = one.classifier.state_dict(), other.classifier.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert timeless(one.record) == timeless(other.record)


def assert_resumes(settings: ClassifierConfig, data: TrainingData, folder: Path) -> None:
    """Broken off after the second validation, steps after the newest checkpoint, it goes on as if it had not been."""
    whole = train_classifier(settings, data, 3)
    broken = ClassifierTraining(settings, data, 3, folder)
    assert len(list(islice(broken.run(), 2))) == 2
    gone_on = ClassifierTraining(settings, data, 3, folder)
    assert 0 < len(gone_on.evaluations) < len(whole.record.evaluations)
    assert_same(train_classifier(settings, data, 3, folder), whole)


@pytest.fixture
def narrow_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one network with dropout in small."""
    monkeypatch.setattr(vgg, "STAGES", ((8,),) * 5)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_a_repeated_training_is_the_same(optimizer: str) -> None:
    data, settings = some_data(generated=(2, 2, 2)), config(optimizer=optimizer, **ALL)
    one = train_classifier(settings, data, 3)
    assert_same(train_classifier(settings, data, 3), one)
    other = train_classifier(settings, data, 4)
    assert not torch.equal(
        one.classifier.state_dict()["network.classifier.weight"],
        other.classifier.state_dict()["network.classifier.weight"],
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("checkpointing_steps", [2, 3])
def test_a_resumed_training_is_the_same(optimizer: str, checkpointing_steps: int, fast_path: Path) -> None:
    settings = config(optimizer=optimizer, checkpointing_steps=checkpointing_steps, **ALL)
    assert_resumes(settings, some_data(generated=(2, 2, 2)), fast_path)


@pytest.mark.usefixtures("narrow_vgg")
def test_a_network_with_dropout_is_resumed(fast_path: Path) -> None:
    assert_resumes(config(network="vgg19", learning_rate=1e-4), some_data(side=32), fast_path)


@pytest.mark.nightly
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_repeated_and_resumed(network: str, fast_path: Path) -> None:
    side = SMALLEST.get(network, SMALLEST_OTHERS)
    settings = config(
        network=network, optimizer="sgd", momentum=0.5, max_train_steps=4, **ALL, validation_steps=1
    )
    data = some_data(generated=(2, 2, 2), side=side)
    assert_same(train_classifier(settings, data, 3), train_classifier(settings, data, 3))
    assert_resumes(settings, data, fast_path)


def test_nothing_outside_is_touched() -> None:
    """The global random state of the process neither decides anything nor is moved."""
    torch.manual_seed(1)
    one = train_classifier(config(**ALL), some_data(generated=(2, 2, 2)), 3)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert_same(train_classifier(config(**ALL), some_data(generated=(2, 2, 2)), 3), one)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_that_is_over_is_read_from_its_checkpoint(
    fast_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = train_classifier(config(), some_data(), 3, fast_path)
    monkeypatch.setattr(ClassifierTraining, "_step", None)
    again = train_classifier(config(), some_data(), 3, fast_path)
    assert_same(again, done)
    assert again.record.train_seconds == done.record.train_seconds


@pytest.mark.parametrize(
    ("fields", "seed", "data"),
    [({"learning_rate": 0.1}, 3, some_data()), ({}, 4, some_data()), ({}, 3, some_data((5, 4, 4)))],
)
def test_checkpoints_of_another_training_are_refused(
    fields: dict[str, Any], seed: int, data: TrainingData, fast_path: Path
) -> None:
    train_classifier(config(), some_data(), 3, fast_path)
    with pytest.raises(
        UserError, match="holds checkpoints of a training with another configuration, seed or other"
    ):
        ClassifierTraining(config(**fields), data, seed, fast_path)
    ClassifierTraining(config(checkpointing_steps=5), some_data(), 3, fast_path)  # which changes no result


def test_separable_classes_are_learned() -> None:
    data = TrainingData(CLASSES, coloured(spread((8, 8, 8))), coloured(spread((8, 8, 8)), 1))
    found = train_classifier(config(max_train_steps=40, train_batch_size=8, validation_steps=10), data, 0)
    test = coloured(spread((20, 20, 20)), 5)
    result = score(predict(found.classifier, test), test.labels, CLASSES)
    assert result.balanced_accuracy == 1
    assert found.record.best_balanced_accuracy == 1
    assert not found.classifier.training


@pytest.mark.parametrize(
    ("shown", "low", "high"), [((0, 1, 2), 0.95, 1.0), ((3, 3, 3), 0.0, 0.75), ((1, 2, 0), 0.0, 0.1)]
)
def test_generated_images_alone_teach_what_they_show(shown: tuple[int, ...], low: float, high: float) -> None:
    """The right colours, none, and each one of another class."""
    labels = spread((8, 8, 8))
    made = coloured(labels, 2, shown=[shown[label] for label in labels])
    data = TrainingData(CLASSES, coloured([0]), coloured(spread((8, 8, 8)), 1), made)
    settings = config(max_train_steps=30, train_batch_size=8, validation_steps=30, generated_probability=1)
    test = coloured(spread((20, 20, 20)), 5)
    found = score(predict(train_classifier(settings, data, 0).classifier, test), test.labels, CLASSES)
    assert low <= found.balanced_accuracy <= high


def test_the_record_counts_what_was_done() -> None:
    found = train_classifier(
        config(max_train_steps=50, generated_probability=0.5, train_batch_size=8),
        some_data((4, 2, 2), (0, 1, 3)),
        0,
    ).record
    assert found.steps == 50
    assert found.images == 400
    assert abs(found.generated_share - 0.5) < 5 * 0.5 / 400**0.5
    assert found.generated["red"] == 0
    assert found.generated["green"] < found.generated["blue"]
    assert found.real["red"] > max(found.real["green"], found.real["blue"])
    assert [each.step for each in found.evaluations] == list(range(2, 51, 2))
    assert found.train_seconds > 0 < found.validation_seconds
    assert json.loads(json.dumps(found.as_dict()))["config"]["max_train_steps"] == 50


def test_equal_lengths_are_seen_in_records() -> None:
    """Real only, and beside as many generated images as one likes, the steps are as many."""
    real = train_classifier(config(), some_data(), 0).record
    beside = train_classifier(config(generated_probability=0.5), some_data(generated=(30, 30, 30)), 0).record
    assert unequal_lengths({"real": real, "beside": beside}) == []
    longer = train_classifier(config(max_train_steps=7), some_data(), 0).record
    assert unequal_lengths({"real": real, "longer": longer}) == [
        "optimizer steps differ: real 6, longer 7",
        "images drawn differ: real 24, longer 28",
    ]
    wider = train_classifier(config(train_batch_size=5), some_data(), 0).record
    assert unequal_lengths({"real": real, "wider": wider}) == ["images drawn differ: real 24, wider 30"]


def test_real_images_are_the_same_for_arms_with_one_seed() -> None:
    alone = ClassifierTraining(config(), some_data(), 0)
    beside = ClassifierTraining(config(generated_probability=0.5), some_data(generated=(2, 2, 2)), 0)
    assert_weights_are_equal(alone, beside)
    one, other = alone._draws.take(50), beside._draws.take(50)
    assert torch.equal(one.indices[~other.generated], other.indices[~other.generated])


def assert_weights_are_equal(one: ClassifierTraining, other: ClassifierTraining) -> None:
    pairs = zip(one.classifier.parameters(), other.classifier.parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_the_best_step_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the highest balanced accuracy; where it is equal, of the least loss."""
    data = some_data()
    found = train_classifier(config(max_train_steps=12, learning_rate=0.01), data, 0)
    best = max(found.record.evaluations, key=lambda each: each.rank)
    assert (found.record.best_step, found.record.best_balanced_accuracy) == (
        best.step,
        best.balanced_accuracy,
    )
    labels = data.validation.labels
    probabilities = predict(found.classifier, data.validation)
    assert score(probabilities, labels, CLASSES).balanced_accuracy == best.balanced_accuracy
    loss = -sum(math.log(probabilities[image, label]) for image, label in enumerate(labels.tolist())) / len(
        labels
    )
    assert loss == pytest.approx(best.loss)
    assert Evaluation(4, 0.5, 1.0, 0).rank < Evaluation(6, 0.5, 0.9, 0).rank < Evaluation(2, 0.6, 3.0, 0).rank


def test_validation_changes_nothing_of_the_training() -> None:
    often, once = (
        list(ClassifierTraining(config(validation_steps=steps), some_data(), 0).run())[-1] for steps in (1, 6)
    )
    assert (often.step, often.balanced_accuracy, often.loss) == (once.step, once.balanced_accuracy, once.loss)


def test_cosine_falls_from_the_rate_towards_0() -> None:
    settings = config(max_train_steps=4, lr_scheduler="cosine", learning_rate=0.2)
    rates = [learning_rate(settings, step) for step in range(4)]
    assert rates == pytest.approx([0.2, 0.1 * (1 + math.sqrt(0.5)), 0.1, 0.1 * (1 - math.sqrt(0.5))])
    assert learning_rate(config(learning_rate=0.2), 3) == 0.2


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_weight_decay_is_that_of_the_optimizer(optimizer: str) -> None:
    settings = config(optimizer=optimizer, weight_decay=0.5, learning_rate=0.1, momentum=0.9)
    network = build_classifier("small_cnn", 3, 16, generator=torch.Generator()).classifier
    built = training.build_optimizer(settings, network)
    weight = network.network.classifier.weight
    before = weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    # Adam divides the term by its own size, about as long as that is not near epsilon.
    expected = before - 0.1 * before.sign() if optimizer == "adam" else before * (1 - 0.1 * 0.5)
    assert torch.allclose(weight, expected, atol=5e-3 if optimizer == "adam" else 1e-6)


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(TrainingFailure, match="a lower learning_rate than 10 may help") as error:
        train_classifier(
            config(network="vit", optimizer="sgd", learning_rate=10, max_train_steps=20), some_data(), 0
        )
    assert error.value.reason == "nan_loss"


@pytest.mark.parametrize("network", ["small_cnn", "vit"])
def test_flops_are_those_of_a_real_step(network: str) -> None:
    built = build_classifier(network, 3, 16, generator=torch.Generator().manual_seed(0)).classifier.train()
    before = {name: tensor.clone() for name, tensor in built.state_dict().items()}
    images = torch.rand(2, 3, 16, 16)
    flops = count_step_flops(built, 2, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in built.state_dict().items())
    assert flops == count_flops(lambda: built(images).sum().backward()) > 0


def test_flops_of_a_training_are_those_of_its_steps() -> None:
    two, four = (train_classifier(config(max_train_steps=steps), some_data(), 0).record for steps in (2, 4))
    assert four.train_flops == 2 * two.train_flops > 0


def test_data_and_configuration_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="there are no generated images"):
        ClassifierTraining(config(generated_probability=0.5), some_data(), 0)
    with pytest.raises(UserError, match="resnet18 needs images of 32 pixels a side and more, got 16"):
        ClassifierTraining(config(network="resnet18"), some_data(), 0)


def test_a_training_that_is_not_over_has_no_result() -> None:
    with pytest.raises(ValueError, match="0 of 6 steps are done"):
        ClassifierTraining(config(), some_data(), 0).finish()
