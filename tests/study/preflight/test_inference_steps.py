"""A study whose confirm runs are drawn in other numbers of solver steps: which runs are, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.preflight.plan import make_plan
from study.preflight.probe import Measured
from study.preflight.workload import images_of
from study.spec.difference import difference
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.study_files import only, study_dict

STEPS = [4, 8, 12, 25]


COST = Measured(
    method="",
    seconds_per_step=0.5,
    flops_per_step=10**9,
    seconds_per_image_step=0.01,
    flops_per_image_step=10**7,
    seconds_per_trained_image_step=0.02,
    latency_figures=1,
    seconds_per_image=0.05,
    preparation_seconds=1.0,
    saving_seconds=0.5,
    peak_memory_bytes=10**9,
    artifact_bytes=10**6,
    start_up_seconds=9.0,
)


def spec(**evaluation: Any) -> StudySpec:
    return StudySpec.model_validate(study_dict(evaluation=evaluation))


def test_only_confirm_runs_are_drawn_so() -> None:
    study = spec(inference_steps=STEPS)
    assert study.evaluation.of_phase("confirm").inference_steps == tuple(STEPS)
    assert study.evaluation.of_phase("search") == spec().evaluation.of_phase("search")


def test_a_study_without_it_is_the_one_that_it_was() -> None:
    assert spec(inference_steps=[]).digest() == spec().digest()
    assert "inference_steps" not in spec().identity()["evaluation"]
    assert spec(inference_steps=STEPS).digest() != spec().digest()
    (line, *_) = difference(spec(), spec(inference_steps=STEPS))
    assert line.startswith("evaluation.inference_steps")


@pytest.mark.parametrize("steps", [[8, 4], [0, 4], [4, 4], "4"])
def test_the_file_says_what_is_wrong(steps: Any, tmp_path: Path) -> None:
    said = only(tmp_path, study_dict(evaluation={"inference_steps": steps}))
    assert "inference_steps" in said
    assert "takes whole numbers from 1 to 1000 in increasing order, each once, such as [4, 8, 12, 25]" in said


def test_the_plan_counts_the_images(tmp_path: Path) -> None:
    evaluation = {"num_prompts": 8, "images_per_prompt": 4}
    plain, more = spec(**evaluation), spec(**evaluation, inference_steps=STEPS)
    images = images_of(more, "confirm")
    assert (images.at_other_steps, images.other_steps) == (4 * 16, 49 * 16)  # two images a prompt
    assert images_of(more, "search") == images_of(plain, "search")
    costs = {name: replace(COST, method=arm.method) for name, arm in more.arms.items()}
    arms = [
        {arm.arm: arm for arm in make_plan(one, Storage(tmp_path, "small"), costs, at_once=1).arms}
        for one in (plain, more)
    ]
    each = images.at_other_steps * COST.seconds_per_image
    each += images.other_steps * COST.seconds_per_trained_image_step
    for name, arm in arms[1].items():
        before = arms[0][name].seconds
        assert arm.seconds is not None
        assert before is not None
        assert arm.seconds - before == pytest.approx(arm.confirm_runs * each)
