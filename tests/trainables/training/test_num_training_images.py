"""A run that trains on some of a subject's images is judged as one that trains on all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.training_runs import MakeConfig
from trainables.data.cache import Cache
from trainables.data.subjects import resolve_subject
from trainables.events import EVALUATION_FILE, read_events
from trainables.models.loading import load_backbone
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.training import trainer
from trainables.training.encoded import Encoded, encode_data

IMAGES = 3  # of the fixture's photographs, beside two that are held out


@pytest.mark.parametrize(("count", "trained"), [(None, IMAGES), (1, 1), (2, 2), (IMAGES, IMAGES)])
def test_no_other_image_is_encoded(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int | None, trained: int
) -> None:
    encoded: list[Encoded] = []

    def noting(*arguments: Any) -> Encoded:
        encoded.append(encode_data(*arguments))
        return encoded[-1]

    monkeypatch.setattr(trainer, "encode_data", noting)
    config = make_config("lora", num_training_images=count)
    backbone = load_backbone(config.model, torch.device("cpu"))
    subject = resolve_subject(config.subject, backbone.resolution)
    trainer.build_trainer(config, backbone, subject, Cache(tmp_path / "cache"))
    assert [len(examples) for examples in encoded[0].examples] == [trained]


def test_what_judges_a_run_is_the_same(make_config: MakeConfig, resident: Resident) -> None:
    found = []
    for count in (None, 1):
        config = make_config("lora", f"run-{count}", num_training_images=count)
        list(execute(config, resident))
        folder = Path(config.output_dir)
        (judged,) = [event.data for event in read_events(folder) if event.kind == "evaluation"]
        found.append(
            (json.loads((folder / EVALUATION_FILE).read_text())["anchors"], judged["subject_fidelity"])
        )
    (anchors, fidelity), (anchors_of_one, fidelity_of_one) = found
    assert anchors_of_one == anchors
    assert fidelity_of_one != fidelity


def test_all_images_by_number_are_all_images(make_config: MakeConfig) -> None:
    assert make_config("lora").digest() == make_config("lora", num_training_images=None).digest()
