"""Where it is known what generated images are worth, the scores of classifiers say it: gain, none, and harm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

import pytest
from PIL import Image

from tests.helpers.classifier_runs import CLASSES, config_of, drawn, entries, prepared, result_of
from trainables.downstream.execute import execute
from trainables.evaluation.prepared_classes import PreparedClasses

FAINT = 0.06  # the colours, so that one image of each class teaches little
IMAGES = 30
SEEDS = (0, 1)
TRAINING = {
    "max_train_steps": 80,
    "validation_steps": 40,
    "checkpointing_steps": 80,
    "learning_rate": 2e-3,
    "train_batch_size": 16,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedClasses:
    """One real image of each class to train on, 28 to test with."""
    return prepared(
        tmp_path_factory.mktemp("data"),
        (40, 40, 40),
        FAINT,
        train=0.1,
        validation=0.2,
        test=0.7,
        imbalance=dict.fromkeys(CLASSES, 1),
    )


def accuracy(
    folder: Path, data: PreparedClasses, pictures: Mapping[str, Sequence[Image.Image]] | None = None
) -> float:
    """The mean over seeds, of real images with these."""
    found = []
    for seed in SEEDS:
        training = TRAINING if pictures is None else {**TRAINING, "generated_probability": 0.5}
        fields = (
            {}
            if pictures is None
            else {"ratio": float(IMAGES), "generated": entries(folder / "cache", pictures)}
        )
        config = config_of(folder, data, f"s{seed}", seed=seed, training=training, **fields)
        list(execute(config))
        found.append(result_of(config)["evaluation"]["accuracy"])
    return mean(found)


def test_gain_none_and_harm(tmp_path: Path, data: PreparedClasses) -> None:
    counts = (IMAGES,) * 3
    noise = {
        label: drawn(counts, ("none",) * 3, first, FAINT)[label]
        for label, first in zip(CLASSES, (5000, 6000, 7000), strict=True)
    }
    real = accuracy(tmp_path / "real", data)
    right = accuracy(tmp_path / "right", data, drawn(counts, strength=FAINT))
    nothing = accuracy(tmp_path / "noise", data, noise)
    wrong = accuracy(tmp_path / "wrong", data, drawn(counts, ("green", "blue", "red"), strength=FAINT))
    assert 0.4 < real < 0.85
    assert right - real > 0.15
    assert nothing - real < 0.05
    assert wrong - real < -0.3
