"""The budget of a study: one of three currencies, the same for all arms, tuned inside if asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.spec.difference import difference
from study.spec.loading import load_study
from study.spec.sections import MOST_STEPS
from study.spec.study_spec import StudySpec
from trainables.errors import UserError


def study(budget: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "small",
        "subjects": ["cat-1", "dog-1"],
        "arms": {"lora": {"method": "lora"}, "full": {"method": "dreambooth"}},
    }
    return {**content, **({} if budget is None else {"budget": budget}), **changes}


def problems(tmp_path: Path, content: dict[str, Any]) -> str:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(UserError) as error:
        load_study(file)
    return "\n".join(error.value.problems)


@pytest.mark.parametrize(
    ("budget", "fields"),
    [
        (None, {"max_train_steps": 200}),
        ({"max_train_steps": 50}, {"max_train_steps": 50}),
        ({"train_flops": 1e12}, {"max_train_steps": MOST_STEPS, "max_train_flops": 1e12}),
        ({"train_seconds": 9}, {"max_train_steps": MOST_STEPS, "max_train_seconds": 9.0}),
    ],
)
def test_a_budget_becomes_training_fields(budget: dict[str, Any] | None, fields: dict[str, Any]) -> None:
    spec = StudySpec.model_validate(study(budget))
    config = spec.method_config("lora", {})
    assert {name: config[name] for name in fields} == fields
    again = StudySpec.model_validate(yaml.safe_load(spec.to_yaml()))
    assert again == spec
    assert again.digest() == spec.digest()


def test_one_currency(tmp_path: Path) -> None:
    text = problems(tmp_path, study({"train_flops": 1e12, "train_seconds": 3}))
    assert "budget.train_seconds: stands beside train_flops; give one of the two" in text


def test_the_currency_belongs_to_the_identity() -> None:
    before = StudySpec.model_validate(study({"train_flops": 1e12}))
    after = StudySpec.model_validate(study({"train_flops": 1e12, "tuned_from": 0.5}))
    assert before.digest() != after.digest()
    assert "budget.tuned_from: null -> 0.5" in difference(before, after)
    assert any("search_space.budget_share" in line for line in difference(before, after))


@pytest.mark.parametrize(
    ("budget", "name", "low", "high"),
    [
        ({"max_train_steps": 200, "tuned_from": 0.25}, "max_train_steps", 50, 200),
        ({"train_flops": 1e12, "tuned_from": 0.25}, "budget_share", 0.25, 1),
        ({"train_seconds": 60, "tuned_from": 0.5}, "budget_share", 0.5, 1),
        ({"max_train_steps": 2, "tuned_from": 0.9}, "max_train_steps", 1, 2),
    ],
)
def test_the_length_is_tuned_inside_the_budget(
    budget: dict[str, Any], name: str, low: float, high: float
) -> None:
    spec = StudySpec.model_validate(study(budget))
    for arm in spec.arms:
        dimension: Any = spec.space(arm).parameters[name]
        assert (dimension.low, dimension.high, dimension.log) == (low, high, True)
        assert spec.method_config(arm, {name: low})[name] == low
    assert StudySpec.model_validate(yaml.safe_load(spec.to_yaml())) == spec


@pytest.mark.parametrize("unit", [{"max_train_steps": 200}, {"train_flops": 1e12}])
def test_an_arm_that_states_its_length_does_not_tune_it(unit: dict[str, Any]) -> None:
    own = {"max_train_steps": {"type": "int", "low": 10, "high": 20}}
    arms = {
        "fixed": {"method": "lora", "max_train_steps": 100},
        "own": {"method": "lora", "search_space": own},
        "unsearched": {"method": "dreambooth", "search_space": "fixed"},
        "tuned": {"method": "lora"},
    }
    spec = StudySpec.model_validate(study({**unit, "tuned_from": 0.5}, arms=arms))
    lengths = {
        arm: sorted({"max_train_steps", "budget_share"} & spec.space(arm).parameters.keys()) for arm in arms
    }
    tuned = "max_train_steps" if "max_train_steps" in unit else "budget_share"
    assert lengths == {"fixed": [], "own": ["max_train_steps"], "unsearched": [], "tuned": [tuned]}


def test_no_arm_may_spend_more_in_any_currency(tmp_path: Path) -> None:
    def one(budget: dict[str, Any], **arm: Any) -> str:
        return problems(tmp_path, study(budget, arms={"one": {"method": "lora", **arm}}))

    message = one({"train_flops": 1e12}, max_train_flops=2e12)
    assert "arms.one.max_train_flops: all arms have the same budget of 1000000000000 FLOPs" in message
    assert "(budget.train_flops), got 2000000000000" in message
    space = {"max_train_seconds": {"type": "float", "low": 1, "high": 90}}
    message = one({"train_seconds": 60}, search_space=space)
    assert "same budget of 60 seconds (budget.train_seconds), got up to 90" in message
    assert "takes away" in one({"train_seconds": 60}, max_train_seconds=None)
    text = problems(tmp_path, study({"train_flops": 1e12}, training={"max_train_flops": 1e11}))
    assert "write budget.train_flops" in text
    text = problems(tmp_path, study({"train_flops": 1e12}, training={"budget_share": 0.5}))
    assert (
        "training.budget_share: the length of training is the same for all arms; write a smaller budget"
        in text
    )
    message = one({"max_train_steps": 100}, budget_share=0.5)
    assert "is a share of max_train_flops or max_train_seconds, and neither is given" in message


def test_arms_that_differ_in_their_length_are_no_duplicates(tmp_path: Path) -> None:
    budget = {"train_flops": 1e12}
    arms = {"one": {"method": "lora"}, "other": {"method": "lora", "max_train_flops": 5e11}}
    assert StudySpec.model_validate(study(budget, arms=arms)).space("other").parameters
    arms["other"] = {"method": "lora", "max_train_flops": 1e12}
    assert "is the same arm as 'one'" in problems(tmp_path, study(budget, arms=arms))
