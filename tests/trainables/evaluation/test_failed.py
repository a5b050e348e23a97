"""Failed images are told from good ones, on pictures whose truth is known; the figures of quality.py in small."""

from __future__ import annotations

from pathlib import Path

from benchmarks.failed_images import OTHER_BAR, PERFECT_BAR, measure
from trainables.config.fields import EvaluationConfig, ModelConfig
from trainables.data.cache import Cache
from trainables.evaluation.encoders import load_metric_models
from trainables.models.loading import load_backbone


def test_perfect_pictures_pass_and_others_fail(tmp_path: Path) -> None:
    # Few solver steps: the anchors move little, and the test takes seconds.
    settings = EvaluationConfig(
        prompt_set="search", images_per_prompt=1, num_class_images=2, num_inference_steps=6
    )
    names = ("dog-1", "dog-7")
    found = measure(names, settings, load_backbone(ModelConfig()), load_metric_models(), Cache(tmp_path))
    assert found.pictures[0] == 2 * 2 * 8
    assert found.perfect <= PERFECT_BAR
    assert found.other_identity >= OTHER_BAR
    assert found.other_prompt >= OTHER_BAR
