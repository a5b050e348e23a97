"""Choices of a method's own space that an arm rules out are left out of it; what an arm writes is not touched."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from search_spaces.loader import load_space, space_names, variants_of
from search_spaces.schema import Categorical
from study.spec.sections import Arm, Budget, arm_space
from study.spec.study_spec import StudySpec
from tests.helpers.study_files import only, study_dict
from trainables.config.fields import ModelConfig


def structures(**arm: Any) -> tuple[Any, ...]:
    arms = {"base": {"method": "base"}, "hn": {"method": "hypernetwork", **arm}}
    spec = StudySpec.model_validate(study_dict(arms=arms))
    dimension = spec.space("hn").parameters["layer_structure"]
    assert isinstance(dimension, Categorical)
    return dimension.choices


@pytest.mark.parametrize(
    "arm",
    [
        {"activation_func": "relu"},
        {"dropout": 0.2},
        {"search_space": {"activation_func": {"type": "categorical", "choices": ["linear", "relu"]}}},
        {"search_space": {"dropout": {"type": "float", "low": 0.0, "high": 0.3}}},
    ],
)
def test_what_needs_a_hidden_layer_is_searched_with_structures_that_have_one(arm: dict[str, Any]) -> None:
    assert structures(**arm) == ("1,2,1", "1,2,2,1")


def test_other_arms_search_all_structures() -> None:
    for arm in ({}, {"activation_func": "linear"}, {"dropout": 0.0}, {"add_layer_norm": True}):
        assert structures(**arm) == ("1,1", "1,2,1", "1,2,2,1")


def test_what_the_arm_itself_states_is_refused(tmp_path: Path) -> None:
    own = {"layer_structure": {"type": "categorical", "choices": ["1,1", "1,2,1"]}}
    arms = {"hn": {"method": "hypernetwork", "activation_func": "relu", "search_space": own}}
    message = only(tmp_path, study_dict(arms=arms))
    assert "arms.hn.search_space.layer_structure: '1,1' is in the range" in message
    assert "activation_func 'relu' has no effect with layer_structure 1,1" in message


def test_spaces_of_arms_that_state_nothing_are_whole() -> None:
    """Studies that were begun before search what they did."""
    for method, path in itertools.product(space_names(), ("embedded", "some/model")):
        for fixed in ({}, *variants_of(method)):
            arm = Arm.model_validate({"method": method, **fixed})
            found = arm_space(arm, {}, Budget(), ModelConfig(path=path)).parameters
            whole = load_space(method, path == "embedded", fixed).parameters
            kept = {name: dim for name, dim in found.items() if isinstance(dim, Categorical)}
            assert all(dim.choices == whole[name].choices for name, dim in kept.items())
