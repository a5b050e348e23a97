"""Hypotheses of a study file: what is accepted, what conditions mean, and what is told of mistakes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from study.spec.arithmetic import value_of
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from trainables.errors import UserError

STUDY: dict[str, Any] = {
    "name": "h",
    "subjects": ["cat-5", "dog-5", "bird-5"],
    "arms": {
        "base": {"method": "base"},
        "lora-cosine": {"method": "lora", "lr_scheduler": "cosine"},
        "lora-constant": {"method": "lora", "lr_scheduler": "constant"},
        "searched": {"method": "lora", "r": 4},
        "full": {"method": "dreambooth", "lr_scheduler": "constant"},
    },
    "search": {"trials": 2, "subjects": ["cat-5"]},
    "confirm": {"subjects": ["dog-5", "bird-5"]},
}
SOUND = {"claim": "Cosine is better.", "measure": "quality", "difference": ["lora-cosine", "lora-constant"],
         "expect": {"more_than": 0}}  # fmt: skip


def spec(**hypotheses: Any) -> StudySpec:
    return StudySpec.model_validate({**STUDY, "hypotheses": hypotheses})


def test_conditions_are_the_arms_that_have_them() -> None:
    """A base model has no schedule, and an arm that searches a field has no value of it."""
    one = spec(
        h={
            **SOUND,
            "difference": [{"where": {"lr_scheduler": "cosine"}}, {"where": {"lr_scheduler": "constant"}}],
        },
        m={
            **SOUND,
            "difference": [{"where": {"method": "lora", "lr_scheduler": "constant"}}, ["base", "full"]],
        },
    ).statements
    assert [operand.arms for operand in one[0].operands] == [("lora-cosine",), ("full", "lora-constant")]
    assert [operand.arms for operand in one[1].operands] == [("lora-constant",), ("base", "full")]


def test_numbers_may_be_arithmetic() -> None:
    (one,) = spec(h={**SOUND, "ratio": ["full", {"predicted": "8 * (1e2 + 20)"}], "difference": None,
                     "expect": {"between": ["1/2", 2]}}).statements  # fmt: skip
    assert one.operands[1].predicted == 960
    assert one.expect.between == (0.5, 2.0)


def test_they_are_no_part_of_what_runs_do_but_each_change_is_another_statement() -> None:
    plain, stated = StudySpec.model_validate(STUDY), spec(h=SOUND)
    assert plain.digest() == stated.digest()
    assert StudySpec.from_record(stated.record()).statements == stated.statements
    others = [{**SOUND, "claim": "Other."}, {**SOUND, "expect": {"more_than": 0.1}}, {**SOUND, "margin": 0.1}]
    digests = {spec(h=fields).statements[0].digest for fields in (SOUND, *others)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"claim": " "}, "claim: is empty; write the sentence"),
        ({"measure": "qualty"}, "no metric is called 'qualty'; did you mean 'quality'?"),
        ({"measure": None}, "measure: is missing: the metric in which the arms are compared"),
        ({"difference": None}, "give one of difference, ratio, value, arithmetic; got none"),
        ({"value": "full"}, "give one of difference, ratio, value, arithmetic; got difference and value"),
        ({"difference": ["lora-cosin", "full"]}, "difference.0: no arm is called 'lora-cosin'; did you mean 'lora-"),
        ({"difference": [{"where": {"lr_scheduler": "linear"}}, "full"]}, 'all of that; there are lr_scheduler: "c'),
        ({"difference": [{"where": {"learning_rate": 1}}, "full"]}, "learning_rate: no value of its own in any arm"),
        ({"difference": [3, 4]}, "compares two numbers; name arms"),
        ({"difference": [{"arms": ["full"], "where": {"r": 4}}, "full"]}, "give one of arms, each_of, where, pre"),
        ({"difference": [{"each_of": ["full"]}, "base"]}, "each_of: name at least two arms, and none twice"),
        ({"difference": ["base", {"each_of": ["full", "ful"]}]}, "difference.1: no arm is called 'ful'; did you mean"),
        ({"difference": ["base", {"each_of": ["full", "searched"]}], "expect": {"equal_to": 0}, "margin": 0.1},
         "expect: what is claimed of each of several arms is more_than or less_than a limit"),
        ({"difference": [["full", "full"], "base"]}, "name at least one, and none twice"),
        ({"expect": {"equal_to": 0}}, "margin: is missing: how far from the value"),
        ({"expect": {"more_than": 0, "less_than": 1}}, "got more_than and less_than"),
        ({"expect": {"between": [2, 1]}}, "2.0 is not below 1.0; give the lower end first"),
        ({"expect": {"between": [1, 2]}, "margin": 0.1}, "the ends of `between` say how far; remove it"),
        ({"expect": {"more_than": "2 *"}}, "is no arithmetic; write numbers"),
        ({"expect": {"more_than": "__import__('os')"}}, "is no arithmetic; write numbers"),
        ({"difference": None, "ratio": ["full", "base"], "expect": {"more_than": 0}}, "a ratio is above 0"),
        ({"difference": None, "measure": "quality", "arithmetic": "2"}, "measure: arithmetic has none; remove it"),
        ({"inference_steps": 4}, "quality is not measured at other numbers of inference steps; take quality_subject"),
        ({"measure": "quality_subject_prompt", "inference_steps": 4}, "4 is none of evaluation.inference_steps ([])"),
        ({"difference": None, "value": 3}, "is a number; name arms, or write `arithmetic`"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(tmp_path: Any, change: dict[str, Any], told: str) -> None:
    import yaml

    file = tmp_path / "h.yaml"
    hypothesis = {name: value for name, value in {**SOUND, **change}.items() if value is not None}
    file.write_text(yaml.safe_dump({**STUDY, "hypotheses": {"h": hypothesis}}))
    with pytest.raises(UserError) as error:
        load_study(str(file), [])
    assert any(told in problem and "hypotheses.h" in problem for problem in error.value.problems), (
        error.value.problems
    )


def test_one_mistake_hides_no_other() -> None:
    with pytest.raises(ValidationError) as error:
        spec(a={**SOUND, "difference": ["x", "y"]}, b={**SOUND, "difference": ["full", "z"]})
    assert all(name in str(error.value) for name in ("'x'", "'y'", "'z'"))


@pytest.mark.parametrize(
    ("text", "value"),
    [("8 * (10,000 + 20,000)", 240_000), ("2**3 - -1", 9), ("1e3/4", 250), (" 7 ", 7), ("1,234.5", 1234.5)],
)
def test_arithmetic(text: str, value: float) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [("1/0", "divides by 0"), ("9**9**9", "too large"), ("(-2)**.5", "root of a negative"), ("a", "no arithmetic"),
     ("", "no arithmetic"), ("True", "no arithmetic"), ("1 if 2 else 3", "no arithmetic"),
     ("(" * 300, "no arithmetic"), ("1,5*2", "a comma stands between thousands alone"), ("0,05", "1.5 for a decimal"),
     ("10,00", "between thousands"), ("1,000,0", "between thousands")],
)  # fmt: skip
def test_arithmetic_that_has_no_value(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        value_of(text)


def test_inference_steps_are_those_that_are_drawn() -> None:
    drawn = {"evaluation": {"inference_steps": [4, 12]}}
    at = {**SOUND, "measure": "quality_subject_prompt", "inference_steps": 4}
    (one,) = StudySpec.model_validate({**STUDY, **drawn, "hypotheses": {"h": at}}).statements
    plain = {name: value for name, value in at.items() if name != "inference_steps"}
    (other,) = spec(h=plain).statements
    assert one.inference_steps == 4
    assert one.digest != other.digest


def test_each_of_several_arms_is_no_mean_of_them() -> None:
    mean, each = (
        spec(h={**SOUND, "difference": ["base", {key: ["searched", "full"]}]}).statements[0]
        for key in ("arms", "each_of")
    )
    assert each.operands[1].each_of == mean.operands[1].arms == ("full", "searched")
    assert each.digest != mean.digest


def test_statements_without_later_fields_keep_their_digest() -> None:
    """As they stand in ledgers that were begun before there were any."""
    (one,) = spec(h=SOUND).statements
    fields = one.model_dump(mode="json")
    del fields["inference_steps"]
    for operand in fields["operands"]:
        del operand["each_of"]
    content = json.dumps(fields, sort_keys=True, ensure_ascii=False)
    assert one.digest == hashlib.sha256(content.encode()).hexdigest()
