"""Dimensions, conditions, grids, and the spaces of all methods against the fields of their configurations."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from search_spaces.loader import check_space, load_space, merge, space_names, variants_of
from search_spaces.schema import Categorical, Dimension, Float, Int, SearchSpace
from study.spec.sections import method_defaults
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.registry import get_method, method_config_class, method_names


def dimension(**fields: Any) -> Any:
    return TypeAdapter(Dimension).validate_python(fields)


def space(**parameters: dict[str, Any]) -> SearchSpace:
    return SearchSpace.model_validate({"parameters": parameters})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"type": "float", "low": 0, "high": 1e-3, "log": True},
            "a log range cannot start at 0; give a small",
        ),
        ({"type": "float", "low": -1, "high": 1, "log": True}, "cannot start at -1"),
        ({"type": "int", "low": 0, "high": 8, "log": True}, "for example low: 1"),
        ({"type": "float", "low": 2, "high": 1}, "low (2) must be below high (1)"),
        ({"type": "int", "low": 4, "high": 4}, "for a single value fix the field"),
        ({"type": "float", "low": 1, "high": 2, "log": True, "step": 0.1}, "log and step exclude each other"),
        ({"type": "int", "low": 1, "high": 9, "step": 20}, "step (20) is larger than the range"),
        ({"type": "categorical", "choices": []}, "choices is empty"),
        ({"type": "categorical", "choices": [4, 8, 4]}, "choice 4 occurs twice"),
        ({"type": "categorical", "choices": [[1, 2]]}, "must be text, a finite number"),
        ({"type": "categorical", "choices": [float("nan")]}, "finite number"),
        ({"type": "categorical", "choices": [1], "when": {"a": []}}, "names no value"),
        ({"type": "float", "low": 0, "high": float("inf")}, "finite"),
        ({"type": "int", "low": 1, "high": 8, "step": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_dimensions_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as error:
        dimension(**fields)
    assert words in str(error.value)


def test_choices_keep_their_types() -> None:
    choices = dimension(type="categorical", choices=[1, True, 1.0, "1", None]).choices
    assert [type(choice) for choice in choices] == [int, bool, float, str, type(None)]


def test_grids() -> None:
    assert Float(low=0, high=0.3, step=0.1).grid() == pytest.approx((0, 0.1, 0.2, 0.3))
    assert Float(low=0, high=1).grid() is None
    assert Int(low=1, high=7, step=3).grid() == (1, 4, 7)
    both = space(a={"type": "int", "low": 1, "high": 3}, b={"type": "categorical", "choices": [True, False]})
    assert both.grid_size() == 6
    assert space(a={"type": "float", "low": 0, "high": 1}).infinite() == ["a"]
    with pytest.raises(ValueError, match="no finite grid: a"):
        space(a={"type": "float", "low": 0, "high": 1}).grid_size()


def test_a_conditional_grid_counts_distinct_points() -> None:
    conditional = space(
        prior={"type": "categorical", "choices": [True, False]},
        weight={"type": "int", "low": 1, "high": 3, "when": {"prior": True}},
    )
    assert conditional.grid_size() == 3 + 1


def test_parents_come_first_and_conditions_are_checked() -> None:
    ordered = space(
        weight={"type": "float", "low": 0.1, "high": 1, "when": {"prior": True}},
        prior={"type": "categorical", "choices": [True, False]},
    )
    assert list(ordered.parameters) == ["prior", "weight"]
    assert ordered.parameters["weight"].applies({"prior": True})
    assert not ordered.parameters["weight"].applies({"prior": False})
    assert not ordered.parameters["weight"].applies({})
    with pytest.raises(ValidationError, match="circle"):
        space(
            a={"type": "int", "low": 1, "high": 2, "when": {"b": 1}},
            b={"type": "int", "low": 1, "high": 2, "when": {"a": 1}},
        )
    with pytest.raises(ValidationError, match="none of its values: cosine, constant"):
        space(
            a={"type": "int", "low": 1, "high": 2, "when": {"s": "cosin"}},
            s={"type": "categorical", "choices": ["cosine", "constant"]},
        )
    with pytest.raises(ValidationError, match="continuous"):
        space(
            a={"type": "int", "low": 1, "high": 2, "when": {"s": 1}},
            s={"type": "float", "low": 0, "high": 1},
        )


def test_fixed_fields_leave_the_space_and_decide_conditions() -> None:
    full = space(
        prior={"type": "categorical", "choices": [True, False]},
        weight={"type": "float", "low": 0.1, "high": 1, "when": {"prior": True}},
        power={"type": "int", "low": 1, "high": 2, "when": {"weight_kind": ["a", "b"]}},
        r={"type": "int", "low": 1, "high": 2},
    )
    left = full.resolve({"prior": False, "r": 2}, {"weight_kind": "b"})
    assert list(left.parameters) == ["power"]
    assert left.parameters["power"].when is None
    kept = full.resolve({"prior": True}, {"weight_kind": "c"})
    assert list(kept.parameters) == ["weight", "r"]
    assert full.resolve({}, {"weight_kind": "c"}).parameters["weight"].when == {"prior": (True,)}


def test_merge_replaces_adds_and_removes() -> None:
    merged = merge(
        space(a={"type": "int", "low": 1, "high": 2}, b={"type": "int", "low": 1, "high": 2}), {"a": None}
    )
    assert list(merged.parameters) == ["b"]
    assert merge(merged, {"c": Categorical(choices=(1,))}).parameters["c"].choices == (1,)


def test_descriptions() -> None:
    assert Float(low=1e-5, high=1e-3, log=True).describe() == "1e-05 .. 0.001, log"
    assert Int(low=1, high=9, step=2).describe() == "1 .. 9, step 2"
    assert Categorical(choices=(4, 8), when={"p": True}).describe() == "4 | 8 when p is True"


@pytest.mark.parametrize("method", [name for name in method_names() if get_method(name).trains])
@pytest.mark.parametrize("embedded", [False, True])
def test_every_method_has_a_space_that_its_configuration_takes(method: str, embedded: bool) -> None:
    searched = load_space(method, embedded=embedded)
    fields = method_config_class(method)

    def valid(changes: dict[str, Any]) -> ValidationError | None:
        try:
            fields.model_validate(changes)
        except ValidationError as error:
            return error
        return None

    assert method in space_names()
    assert "learning_rate" in searched.parameters
    assert "lr_scheduler" in searched.parameters
    assert check_space(searched, fields, valid) == {}
    for corner in searched.corners():
        assert valid(corner) is None


@pytest.mark.parametrize("method", space_names())
@pytest.mark.parametrize("embedded", [False, True])
def test_every_default_lies_in_its_range(method: str, embedded: bool) -> None:
    """It is each arm's first trial."""
    defaults = method_defaults(method, embedded=embedded)
    for name, dim in load_space(method, embedded=embedded).parameters.items():
        default = defaults[name]
        if name == "text_encoder_learning_rate" and default is None:
            default = defaults["learning_rate"]
        inside = default in dim.choices if isinstance(dim, Categorical) else dim.low <= default <= dim.high
        assert inside, f"{name}: {default} is not in {dim.describe()}"


VARIANTS = [(method, fixed) for method in space_names() for fixed in variants_of(method)]


@pytest.mark.parametrize(("method", "fixed"), VARIANTS)
@pytest.mark.parametrize("embedded", [False, True])
def test_what_an_arm_fixes_may_change_what_is_searched(
    method: str, fixed: dict[str, str], embedded: bool
) -> None:
    """Kinds of adapters differ in rates by orders of magnitude; their defaults are each arm's first trial."""
    fields = method_config_class(method)
    defaults = {**method_defaults(method), **fields.defaults_beside(fixed, embedded=embedded), **fixed}
    config = fields.model_validate(fixed)
    searched = load_space(method, embedded=embedded, fixed=fixed)
    assert searched != load_space(method, embedded=embedded)
    wanted = {"learning_rate", "lr_scheduler", "prior_loss_weight"}
    assert {name for name in wanted if "method" not in config.needs_of(name)} <= set(searched.parameters)
    for name, dim in searched.parameters.items():
        for field, values in config.needs_of(name).items():  # it has an effect
            assert fixed.get(field) is None or fixed[field] in values
        default = defaults[name]
        if name == "text_encoder_learning_rate" and default is None:
            default = defaults["learning_rate"]
        inside = default in dim.choices if isinstance(dim, Categorical) else dim.low <= default <= dim.high
        assert inside, f"{name}: {default} is not in {dim.describe()}"
    for corner in searched.corners():
        fields.model_validate({**fixed, **corner})


def test_variants_name_kinds_of_adapters() -> None:
    kinds = {fixed["adapter"] for method, fixed in VARIANTS if method == "lora"}
    assert kinds == set(KINDS) - {"lora", "rslora", "dora"}  # which share LoRA's ranges
    of_lora = [fixed for method, fixed in VARIANTS if method == "lora"]
    assert of_lora == [fixed for method, fixed in VARIANTS if method == "dreambooth_lora"]
    assert [{"trains": "full"}, *of_lora] == [
        fixed for method, fixed in VARIANTS if method == "text_to_image"
    ]


@pytest.mark.parametrize("method", space_names())
@pytest.mark.parametrize("embedded", [False, True])
def test_prior_and_text_encoder_are_searched_where_they_are_on(method: str, embedded: bool) -> None:
    """In every method that reads them, so that what is on in two arms is searched in both."""
    full = load_space(method, embedded=embedded)
    fields = method_config_class(method)
    both = set()
    if "method" not in fields.needs_of("with_prior_preservation"):
        weight = full.parameters["prior_loss_weight"]
        both.add("prior_loss_weight")
        assert weight.when == {"with_prior_preservation": (True,)}
        assert isinstance(weight, Float)
        assert (weight.low, weight.log) == (0.05, True)
    if "method" not in fields.needs_of("train_text_encoder"):
        both.add("text_encoder_learning_rate")
        assert full.parameters["text_encoder_learning_rate"].when == {"train_text_encoder": (True,)}
    assert both == set(full.parameters) & {"prior_loss_weight", "text_encoder_learning_rate"}
    for on in (False, True):
        fixed = {"train_text_encoder": on, "with_prior_preservation": on}
        assert both & set(full.resolve(fixed, {}).parameters) == (both if on else set())


def test_full_fine_tuning_of_the_embedded_model_stays_where_processors_agree() -> None:
    """Above 4e-4 the same configuration differs by .03 and more in quality between two processors."""
    rate: Any = load_space("dreambooth", embedded=True).parameters["learning_rate"]
    assert rate.high <= 4e-4


def test_full_fine_tuning_is_searched_at_lower_rates_than_adapters() -> None:
    for embedded in (False, True):
        for whole, fixed, other in (
            ("dreambooth", {}, "dreambooth_lora"),
            ("text_to_image", {"trains": "full"}, "text_to_image"),
        ):
            full: Any = load_space(whole, embedded=embedded, fixed=fixed).parameters["learning_rate"]
            adapters: Any = load_space(other, embedded=embedded).parameters["learning_rate"]
            assert full.high < adapters.high
            assert full.low < adapters.low


def test_the_base_model_has_no_space() -> None:
    assert load_space("base").parameters == {}
