"""A study whose runs restore their best step: what is refused, what is told before, and what it costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.tiny_models import make_photos
from study.preflight.checks import check_study, evaluation_notes
from study.preflight.workload import images_of
from study.spec.difference import difference
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.study_files import only, study_dict
from trainables.evaluation.metrics_table import METRICS, choosing_metrics, unfit_choice
from trainables.evaluation.prompts import templates_of
from trainables.run.checks import check_run

AT = [0.25, 0.5]


def spec(**evaluation: Any) -> StudySpec:
    return StudySpec.model_validate(study_dict(evaluation=evaluation))


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"restore_best": "qualty", "at": AT}, "did you mean 'quality'"),
        ({"restore_best": "drif", "at": AT}, "did you mean 'drift'"),
        ({"restore_best": "diversity", "at": AT}, "no better direction, so that no step is best by it"),
        ({"restore_best": "train_seconds", "at": AT}, "is a cost, and no evaluation measures it"),
        (
            {"restore_best": "dataset_kid_low", "at": AT},
            "is an end of the interval of dataset_kid and no measure of its own, so that no step is best by it; take "
            "one of quality, ",
        ),
        ({"restore_best": "class_cmmd_high", "at": AT}, "of the interval of class_cmmd and no measure"),
        ({"restore_best": "ceiling_quality", "at": AT}, "no better direction"),
        ({"restore_best": "quality"}, "evaluation.at names none; write for example at: [0.25, 0.5, 0.75]"),
        ({"restore_best": "quality", "at": [1.0]}, "evaluation.at names none"),
        ({"restore_best": "quality", "at": AT, "search": {"at": []}}, "evaluation.search.at names none"),
        ({"restore_best_prompts": ["{subject}"]}, "which is not set; set it, or remove them"),
        ({"restore_best": "quality", "at": AT, "restore_best_prompts": ["a cat"]}, "lacks the placeholder"),
    ],
)
def test_what_cannot_be_restored_is_refused(evaluation: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert words in only(tmp_path, study_dict(evaluation=evaluation))


def test_metrics_that_choose_are_measures_with_a_better_direction() -> None:
    names = choosing_metrics()
    assert {"quality", "held_out_loss", "class_kid", "dataset_kid", "worst_character"} <= set(names)
    assert not any(name.endswith(("_low", "_high")) for name in names)
    assert all(unfit_choice(name) is None for name in names)
    for name in set(METRICS) - set(names):
        problem = unfit_choice(name)
        assert problem is not None
        assert problem.endswith(", ".join(names))


def test_both_phases_choose_on_the_prompts_of_the_search() -> None:
    own = ["{subject} on the moon", "{subject} in a bath"]
    study = spec(restore_best="quality", at=AT, search={"prompts": own})
    for phase in ("search", "confirm"):
        assert study.evaluation.of_phase(phase).restore_best_prompts == tuple(own)
    assert spec(restore_best="quality", at=AT).evaluation.of_phase("confirm").restore_best_prompts is None
    assert spec(at=AT, search={"prompts": own}).evaluation.of_phase("confirm").restore_best_prompts is None


def test_prompts_that_choose_and_judge_are_refused_before_anything_starts(tmp_path: Path) -> None:
    templates = ["{subject} here", "{subject} there"]
    study = spec(
        restore_best="quality",
        at=AT,
        prompts=templates,
        restore_best_prompts=["{subject}  HERE", "{subject}"],
    )
    (problem,) = check_study(study)
    assert (
        "'{subject} here' would choose the best step (evaluation.restore_best) and judge the result"
        in problem
    )
    by_loss = spec(restore_best="held_out_loss", at=AT, prompts=templates, restore_best_prompts=templates)
    assert check_study(by_loss) == [], "no image chooses"


def test_a_subject_needs_two_held_out_photographs(tmp_path: Path) -> None:
    photos = str(make_photos(tmp_path / "photos", count=5))
    for holdout, found in ((1, 1), (2, 0)):
        content = study_dict(evaluation={"restore_best": "held_out_loss", "at": AT})
        content["subjects"][1] = {
            "name": "mine",
            "images": photos,
            "holdout": holdout,
            "instance_prompt": "a sks dog",
            "class_prompt": "a dog",
        }
        study = StudySpec.model_validate(content)
        problems = [problem for problem in check_study(study) if "held-out" in problem]
        assert len(problems) == found
        assert all("evaluation.restore_best needs at least 2" in problem for problem in problems)
        key = study.confirm_keys("full", 0)[0]
        run = study.run_config(key, {}, Storage(tmp_path, study.name))
        assert [problem for problem in check_run(run) if "held-out image" in problem] == problems


@pytest.mark.parametrize(
    ("phase", "unused"),
    [
        ("search", {"arms": {"one": {"method": "lora", "search_space": "fixed"}}}),
        ("confirm", {"confirm": {"seeds": []}}),
    ],
)
def test_a_phase_without_runs_chooses_no_step(tmp_path: Path, phase: str, unused: dict[str, Any]) -> None:
    mine = {
        "name": "mine",
        "images": str(make_photos(tmp_path / "photos", count=5)),
        "holdout": 1,
        "instance_prompt": "a sks dog",
        "class_prompt": "a dog",
    }
    content = study_dict(evaluation={"restore_best": "held_out_loss", "at": AT})
    content["subjects"] = ["cat-1", mine] if phase == "confirm" else [mine, "cat-1"]
    told = [
        any(
            "evaluation.restore_best needs at least 2" in one
            for one in check_study(StudySpec.model_validate(study))
        )
        for study in (content, content | unused)
    ]
    assert told == [True, False]


def test_studies_without_it_are_the_same_as_ever() -> None:
    plain, chosen = spec(at=AT), spec(at=AT, restore_best="quality")
    assert not {"restore_best", "restore_best_prompts"} & set(plain.identity()["evaluation"])
    assert plain.digest() != chosen.digest()
    assert difference(plain, chosen) == ['evaluation.restore_best: (absent) -> "quality"']
    assert difference(chosen, chosen) == []
    assert StudySpec.from_record(chosen.record()).digest() == chosen.digest()


def test_what_chooses_is_counted() -> None:
    """Every evaluation on the way, and one more of the end, on the search's prompts; by the loss no image more."""
    plain, by_images, by_loss = (
        images_of(spec(at=AT, images_between=16, **choice), "confirm")
        for choice in ({}, {"restore_best": "quality"}, {"restore_best": "held_out_loss"})
    )
    config = spec(restore_best="quality", at=AT).evaluation.of_phase("search")
    prompts = len(templates_of(True, config))
    assert plain.between == 2 * (by_images.between // 3)
    assert by_images.final == plain.final
    assert (
        by_images.base
        == plain.base + prompts + config.model_copy(update={"num_class_images": 16}).num_class_images
    )
    assert by_images.anchors == plain.anchors + math.ceil(64 / prompts) * (prompts + 1)
    assert (plain.evaluations, by_images.evaluations, by_loss.evaluations) == (3, 4, 4)
    assert (by_loss.between, by_loss.base, by_loss.anchors) == (plain.between, plain.base, plain.anchors)


def test_it_is_said_what_the_budget_does_not_pay() -> None:
    (note,) = [
        note for note in evaluation_notes(spec(at=AT, restore_best="quality")) if "restore_best" in note
    ]
    assert "no part of its budget" in note
    assert "selection_seconds" in note
