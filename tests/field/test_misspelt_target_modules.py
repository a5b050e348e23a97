"""An arm whose target_modules do not exist, before two sound arms on the same worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.preflight.checks import check_study
from study.spec.study_spec import StudySpec
from tests.helpers.short_runs import config_of
from trainables.config.fields import ModelConfig
from trainables.methods.registry import get_method, method_config_class
from trainables.run.execute import execute
from trainables.run.resident import Resident


def problems(*arms: dict[str, Any]) -> str:
    study = {
        "name": "targets",
        "subjects": ["cat-1", "dog-1"],
        "arms": {f"arm-{number}": {"method": "lora", **arm} for number, arm in enumerate(arms)},
    }
    return "\n".join(check_study(StudySpec.model_validate(study)))


def test_the_arms_after_it_are_trained(tmp_path: Path) -> None:
    resident, ends = Resident(), []
    for name, modules in (("misspelt", ["to_qq"]), ("first", ["to_q"]), ("second", ["to_v"])):
        list(execute(config_of(tmp_path / name, target_modules=modules), resident))
        ends.append(json.loads((tmp_path / name / "result.json").read_text()))
    assert [end["state"] for end in ends] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert ends[0]["reason"] == "user_error"
    assert "'to_qq' matches no module of the UNet; did you mean 'to_q'?" in ends[0]["message"]
    list(execute(config_of(tmp_path / "fresh", target_modules=["to_v"])))
    weights = "weights/pytorch_lora_weights.safetensors"
    assert (tmp_path / "second" / weights).read_bytes() == (tmp_path / "fresh" / weights).read_bytes()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"target_modules": ["to_q", "to_vv"]}, "target_modules: 'to_vv' matches no module of the UNet"),
        ({"target_modules": ["to_qq", "to_vv"]}, "'to_qq', 'to_vv' match no module"),
        ({"target_modules": "to_q"}, "'to_q' matches no module"),  # a regular expression for whole names
        (
            {"target_modules": ["norm1", "to_q"]},
            "'norm1' matches 12 modules of the UNet that cannot be adapted",
        ),
        ({"target_modules": ["attn1"]}, "transformer_blocks.0.attn1 (Attention); name linear layers"),
        ({"target_modules": ["to_out.1"]}, "to_out.1 (Dropout)"),
        ({"target_modules": r".*attn1\..*"}, "cannot be adapted"),
        ({"target_modules": ["conv1"], "init_lora_weights": "orthogonal"}, "orthogonal"),
        (
            {"train_text_encoder": True, "text_encoder_target_modules": ["q_proj", "to_k"]},
            "text_encoder_target_modules: 'to_k' matches no module of the text encoder",
        ),
        (
            {"train_text_encoder": True, "text_encoder_target_modules": "attention"},
            "match no module of the text encoder",
        ),
        (
            {
                "search_space": {
                    "target_modules": {"type": "categorical", "choices": ["attention", ".*to_qq"]}
                }
            },
            "'.*to_qq' matches no module",
        ),
        (
            {
                "search_space": {
                    "train_text_encoder": {"type": "categorical", "choices": [False, True]},
                    "text_encoder_target_modules": {
                        "type": "categorical",
                        "choices": ["all-linear", "q_prj"],
                    },
                }
            },
            "'q_prj' matches no module of the text encoder",
        ),
    ],
)
def test_it_is_refused_before_the_launch(fields: dict[str, Any], told: str) -> None:
    text = problems({}, fields)
    assert told in text
    assert "arm 'arm-1'" in text
    assert "arm-0" not in text


def test_what_fits_is_taken() -> None:
    assert "target_modules" not in problems(
        {"target_modules": "attention"},
        {"target_modules": ["to_q", "conv1"]},
        {"target_modules": r".*attn2\.to_[kv]"},
        {"target_modules": "all-linear"},
        {"train_text_encoder": True, "text_encoder_target_modules": ["fc1", "encoder.layers.0.mlp.fc2"]},
    )


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        (
            "atention",
            "attention_mlp_conv, all-linear (did you mean 'attention'?) is one regular expression",
        ),
        ("to_q, to_v", "write several names as a list, [to_q, to_v]"),
        (["attention"], "'attention' stands alone, without brackets"),
        (["all-linear"], "'all-linear' stands alone, without brackets"),
    ],
)
def test_words_for_several_modules_are_explained(targets: str | list[str], told: str) -> None:
    config = method_config_class("lora").model_validate({"target_modules": targets})
    (problem,) = get_method("lora").check(config, ModelConfig())
    assert told in problem
