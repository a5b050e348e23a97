"""The reader of traits, by which the image encoder is judged, and the bars of the embedded model's benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import embedded_model
from benchmarks.embedded_encoders import ARMS, CONTRAST, GRADED, TRAITS, Result, first_stage, table
from benchmarks.embedded_traits import read_identities, shared_traits
from benchmarks.pretraining import image_encoder
from trainables.embedded import world
from trainables.embedded.render import render
from trainables.evaluation.encoders import load_image_encoder

torch.set_num_threads(1)


def test_traits_are_read_off_renders() -> None:
    rng = np.random.default_rng(3)
    drawn = [world.draw_identity(rng, class_name) for class_name in world.CLASSES]
    found = read_identities([render(who, world.draw_setting(rng, who)) for who in drawn])
    assert [one.class_name for one in found] == list(world.CLASSES)
    own = [shared_traits([one], who) for one, who in zip(found, drawn, strict=True)]
    assert np.mean([visible for visible, _ in own]) > 0.95
    assert np.mean([alike for _, alike in own]) > 0.92
    others = [shared_traits([one], who)[0] for one, who in zip(found, drawn[1:] + drawn[:1], strict=True)]
    assert np.mean(others) < 0.3


def test_an_identity_shares_all_its_traits_with_itself() -> None:
    who = world.draw_identity(np.random.default_rng(1))
    visible, alike = shared_traits([who], who)
    assert visible.tolist() == pytest.approx([1.0])
    assert alike.tolist() == pytest.approx([1.0])


def test_judges_are_ranked_by_the_mean_and_compared() -> None:
    def of(value: float, other: float) -> Result:
        scores = {GRADED: value, CONTRAST: other} | dict.fromkeys(TRAITS, value)
        return Result(scores, scores)

    values = dict(
        zip([arm.name for arm in ARMS], [(0.4, 0.1), (0.3, 0.2), (0.2, 0.3), (0.1, 0.4)], strict=True)
    )
    text = table([{name: of(*pair) for name, pair in values.items()}] * 2)
    assert "| LoRA | 0.40 (1) | 0.10 (4) | 0.40 (1) | 0.40 (1) |" in text
    assert "| Kendall's tau with the graded encoder, the means |  | -1.00 | 1.00 | 1.00 |" in text


def test_the_first_stage_judges_beside_the_graded_encoder(tmp_path: Path) -> None:
    image_encoder.build(tiny=True).save_pretrained(tmp_path)
    graded = load_image_encoder("embedded")
    rng = np.random.default_rng(1)
    who = world.draw_identity(rng, "cat")
    picture = render(who, world.draw_setting(rng, who))
    assert first_stage(tmp_path, graded).embed([picture]).shape == (1, 32)
    assert graded.embed([picture]).shape == (1, 160)


def test_the_bars_of_fine_tuning_stand_where_they_stood_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prior preservation must halve the similarity of the class, and every arm keep its prompts: 0.6 and 0.7 miss."""

    def run(
        settings: Any, arm: embedded_model.Arm, subject: str, seed: int, folder: Path, resident: Any
    ) -> Any:
        without = arm.name == "DreamBooth without prior"
        return {
            "subject_fidelity_scaled": 0.8,
            "prompt_fidelity_scaled": 0.7 if without else 0.9,
            "prior_preservation": 0.9 if without else 0.54,
            "train_seconds": 20.0,
        }

    monkeypatch.setattr(embedded_model, "fine_tune", run)
    lines = embedded_model.measure_fine_tuning(embedded_model.Settings(subjects=2, seeds=2))
    missed = {line.what: line for line in lines if not line.reached}
    assert set(missed) == {"class drift left by prior preservation", "DreamBooth without prior: prompts kept"}
    for line, bar in zip(missed.values(), (0.8, 0.5), strict=True):
        assert line.bar == bar
        assert "MISS by 0.1" in str(line)
