"""Pictures of an evaluation: every image is in its place, small ones enlarged without smoothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.config.fields import EvaluationConfig
from trainables.data.cache import Cache
from trainables.data.subjects import Subject
from trainables.evaluation import grids
from trainables.evaluation.encoders import MetricModels
from trainables.evaluation.evaluator import evaluate, prepare_evaluation
from trainables.evaluation.grids import CELL, GridRow, draw_grid, save_samples, side_by_side
from trainables.models.backbone import Backbone

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 200, 0)


def plain(colour: tuple[int, int, int], side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def share(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of exactly this colour."""
    return int((np.asarray(picture) == np.array(colour)).all(axis=2).sum())


def test_grid_holds_every_image_at_a_readable_size() -> None:
    rows = [
        GridRow("references", (plain(GREEN),) * 3),
        GridRow("a prompt", (plain(RED), plain(RED)), (plain(BLUE), plain(BLUE))),
    ]
    picture = draw_grid(rows, "a heading")
    cell = 128  # 64 pixels twice
    assert cell >= CELL
    assert (share(picture, GREEN), share(picture, RED), share(picture, BLUE)) == tuple(
        count * cell * cell for count in (3, 2, 2)
    )
    reds, blues = (np.argwhere((np.asarray(picture) == c).all(axis=2))[:, 1] for c in (RED, BLUE))
    assert reds.max() < blues.min()


def test_large_images_are_reduced_and_long_captions_cut() -> None:
    picture = draw_grid([GridRow("word " * 300, (plain(RED, 1024),))])
    assert picture.width < 400
    assert share(picture, RED) == (2 * CELL) ** 2


def test_enlargement_is_not_smoothed() -> None:
    board = np.kron(np.indices((4, 4)).sum(0) % 2 * 255, np.ones((8, 8))).astype(np.uint8)
    picture = draw_grid([GridRow("", (Image.fromarray(board).convert("RGB"),))])
    values = np.unique(np.asarray(picture)[picture.height // 2, 12:150])
    assert set(values) <= {0, 255}


def test_strip() -> None:
    strip = side_by_side([plain(RED), plain(BLUE)])
    assert strip.size == (130, 64)
    assert share(strip, RED) == share(strip, BLUE) == 64 * 64


def test_samples_are_saved(
    tmp_path: Path,
    backbone: Backbone,
    subject: Subject,
    config: EvaluationConfig,
    metric_models: MetricModels,
) -> None:
    evaluator = prepare_evaluation(backbone, subject, config, metric_models, Cache(tmp_path / "cache"), 0)
    evaluation = evaluate(evaluator, backbone)
    between = save_samples(evaluator, evaluation, tmp_path / "samples", 50, final=False)
    final = save_samples(evaluator, evaluation, tmp_path / "samples", 150)
    prompts = ["00 subject in the snow", "01 subject with a red hat", "02 a photo of subject"]
    assert list(between) == ["grid", *prompts], "one prompt can be compared over the steps"
    assert list(final) == ["grid", *prompts, "class", "references"]
    assert len({*between.values(), *final.values()}) == 10
    assert all(path.is_file() for path in (*between.values(), *final.values()))
    with Image.open(final[prompts[1]]) as strip:
        assert strip.size == (66, 32)
        assert np.asarray(strip)[:, :32] == pytest.approx(np.asarray(evaluation.images[2]))
        assert np.asarray(strip)[:, 34:] == pytest.approx(np.asarray(evaluation.images[3]))


def test_the_heading_names_quality_and_class_kept(
    tmp_path: Path,
    backbone: Backbone,
    subject: Subject,
    config: EvaluationConfig,
    metric_models: MetricModels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    between = config.model_copy(update={"images_between": 2})
    evaluator = prepare_evaluation(backbone, subject, between, metric_models, Cache(tmp_path), 0)
    drawn: list[tuple[list[GridRow], str]] = []
    monkeypatch.setattr(grids, "draw_grid", lambda rows, heading: drawn.append((rows, heading)))
    for final, scores in ((True, {"quality": 0.512, "class_kept": -0.25}), (False, {"quality": None})):
        evaluation = evaluate(evaluator, backbone, final=final)
        known = {**evaluation.metrics, "class_kept": None, **scores}
        grids.sample_grid(evaluator, replace(evaluation, metrics=known), "step 5")
    assert "step 5, quality 0.51, class kept -0.25; left" in drawn[0][1]
    assert "step 5; left" in drawn[1][1]
    # On the way: two prompts, an image of each, and the two class images, each beside the base model's.
    assert [(len(row.images), len(row.beside)) for row in drawn[1][0]] == [(3, 0), (1, 1), (1, 1), (1, 1)]
