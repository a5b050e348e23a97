"""Problems are told at the keys that a file has, in the file's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from study.spec.study_spec import StudySpec
from tests.helpers.study_files import only, problems, study_dict
from trainables.config.training import TrainingConfig


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ({"target_modules": 5}, "arms.l.target_modules: must be text, or a list, such as [a, b], got 5"),
        ({"target_modules": [5]}, "arms.l.target_modules.0: must be text, got 5"),
        ({"alpha_pattern": {"to_k": 2, "to_q": -1}}, "arms.l.alpha_pattern.to_q: must be above 0, got -1"),
        ({"rank_pattern": {"to_q": "four"}}, "arms.l.rank_pattern.to_q: must be a whole number, got 'four'"),
        ({"r": 0}, "arms.l.r: must be at least 1, got 0"),
    ],
)
def test_places_are_those_of_the_file(arm: dict[str, Any], told: str, tmp_path: Path) -> None:
    found = problems(tmp_path, study_dict(arms={"l": {"method": "lora", **arm}}))
    assert any(problem.endswith(told) for problem in found), found
    assert not any("str" in problem.split(": ")[0].split(".") for problem in found)
    assert not any("tuple[" in problem for problem in found)


def test_what_is_wrong_for_all_arms_is_told_at_the_key_too(tmp_path: Path) -> None:
    message = only(tmp_path, study_dict(training={"max_grad_norm": "much"}, arms={"l": {"method": "lora"}}))
    assert "training.max_grad_norm: must be a number, got 'much'" in message


def test_no_value_is_null(tmp_path: Path) -> None:
    stages = {"max_train_steps_ti": 10, "train_text_encoder_ti_frac": 0.3}
    message = only(tmp_path, study_dict(arms={"p": {"method": "pivotal_tuning", **stages}}))
    assert "it needs max_train_steps_ti: null, but max_train_steps_ti is 10" in message


def test_evaluations_of_the_search_are_told_at_the_search(tmp_path: Path) -> None:
    evaluation = {"at": [0.5], "search": {"at": [2.0]}}
    assert "evaluation.search.at takes fractions" in only(tmp_path, study_dict(evaluation=evaluation))
    evaluation["search"] = {"at": []}
    message = only(tmp_path, study_dict(search={"scheduler": "asha"}, evaluation=evaluation))
    assert "but evaluation.search.at has none; write for example evaluation: {search: {at: [" in message


def test_captions_that_are_never_shown_have_no_order(tmp_path: Path) -> None:
    training = {"captions": "files", "caption_dropout": 1.0}
    shuffled = {"method": "lora", "shuffle_captions": True, "keep_tokens": 1}
    found = problems(tmp_path, study_dict(training=training, arms={"l": shuffled}))
    for field in ("shuffle_captions", "keep_tokens"):
        assert any(
            f"arms.l.{field}: has no effect in this arm: caption_dropout is 1, so that no caption is ever shown"
            in one
            for one in found
        )
    searched = {**shuffled, "search_space": {"caption_dropout": {"type": "float", "low": 0.5, "high": 1.0}}}
    assert StudySpec.model_validate(study_dict(training={"captions": "files"}, arms={"l": searched}))
    config = TrainingConfig(captions="files", caption_dropout=1.0, shuffle_captions=True)
    assert config.without_effect(["shuffle_captions"]) == [
        "shuffle_captions has no effect: caption_dropout is 1, so that no caption is ever shown"
    ]
    assert (
        TrainingConfig(captions="files", caption_dropout=0.9, shuffle_captions=True).without_effect(
            ["shuffle_captions"]
        )
        == []
    )
