"""What is said of an evaluation before a study starts: for both phases, and where results would say little."""

from __future__ import annotations

from typing import Any

import pytest

from study.preflight.checks import check_study, evaluation_notes
from study.spec.phases import SearchEvaluation
from study.spec.study_spec import StudySpec


def spec_of(searching: dict[str, Any] | None = None, **evaluation: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "judged",
            "subjects": ["cat-1", "dog-1", "bird-1"],
            "arms": {"lora": {"method": "lora"}},
            "search": {"trials": 1, **(searching or {})},
            "confirm": {"seeds": [1]},
            "evaluation": {"num_class_images": 64, **evaluation},
        }
    )


def test_few_images_are_a_note() -> None:
    assert evaluation_notes(spec_of()) == []  # 16 prompts, 4 images of each
    (note,) = evaluation_notes(spec_of(images_per_prompt=2))
    assert "judged on 32 images" in note
    assert "at least 64" in note
    (note,) = evaluation_notes(spec_of(prompts=["{subject}"], images_per_prompt=1))
    assert "judged on 1 image of" in note
    (note,) = evaluation_notes(spec_of(num_class_images=16))
    assert "judged on 16 images of it" in note
    assert "at least 64" in note
    nothing_to_judge = spec_of(images_per_prompt=1)
    confirm = nothing_to_judge.confirm.model_copy(update={"seeds": ()})
    assert evaluation_notes(nothing_to_judge.model_copy(update={"confirm": confirm})) == []


@pytest.mark.parametrize("metric", ["class_kid", "class_cmmd"])
def test_distances_need_enough_images_in_both_phases(metric: str) -> None:
    objective = {"objective": {"minimize": metric}}
    said = [line for line in check_study(spec_of(objective, num_class_images=16)) if metric in line]
    assert [line.split(" of at least 50")[0] for line in said] == [
        f"{metric} needs evaluation.search.num_class_images", f"{metric} needs evaluation.num_class_images"
    ]  # fmt: skip
    enough = spec_of(objective, num_class_images=50)
    settings = enough.evaluation.model_copy(update={"search": SearchEvaluation(num_class_images=50)})
    enough = enough.model_copy(update={"evaluation": settings})
    assert not [line for line in check_study(enough) if metric in line]


def test_the_metrics_of_bounds_are_looked_at_too() -> None:
    bounded = {"objective": {"maximize": "quality_subject_prompt", "subject_to": {"class_kid": "<= 0.1"}}}
    assert any("class_kid needs" in line for line in check_study(spec_of(bounded)))


def test_a_search_with_one_prompt_cannot_be_scored() -> None:
    spec = spec_of()
    one = spec.evaluation.model_copy(update={"search": SearchEvaluation(num_prompts=1)})
    said = check_study(spec.model_copy(update={"evaluation": one}))
    assert [line for line in said if "2 evaluation prompts" in line and "evaluation.search" in line]


def test_a_search_may_look_at_other_steps() -> None:
    """Its runs need no curve, and evaluations take most of their time."""
    spec = spec_of(at=[0.25, 0.5], search={"at": []})
    assert spec.evaluation.of_phase("search").at == ()
    assert spec.evaluation.of_phase("confirm").at == (0.25, 0.5)
    same = spec_of(at=[0.25], num_inference_steps=7)
    inherited = same.evaluation.of_phase("search")
    assert (inherited.at, inherited.num_inference_steps) == ((0.25,), 7)


@pytest.mark.parametrize(
    ("search", "line"),
    [({"at": [2]}, "fractions of max_train_steps"), ({"prompts": ["no place"]}, "lacks the placeholder")],
)
def test_what_is_wrong_with_the_search_alone_is_told(search: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        spec_of(search=search)


def test_early_stopping_looks_where_the_search_is_evaluated() -> None:
    with pytest.raises(ValueError, match="asha needs evaluations"):
        spec_of({"scheduler": "asha"}, at=[0.5], search={"at": []})
    spec_of({"scheduler": "asha"}, search={"at": [0.5]})
