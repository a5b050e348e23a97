"""Arms of other kinds of adapters: their defaults and ranges, and what is said against them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search_spaces.schema import Categorical, Float
from study.preflight.checks import check_study
from study.spec.study_spec import StudySpec
from study.tracking.params import flat_params
from tests.helpers.study_files import only, study_dict
from trainables.methods.adapter_kinds import KINDS
from trainables.run_config import RunConfig


def spec_of(arms: dict[str, Any], model: str = "embedded") -> StudySpec:
    content = {"name": "adapters", "model": model, "subjects": ["cat-1", "dog-1"], "arms": arms}
    return StudySpec.model_validate(content)


@pytest.mark.parametrize("model", ["embedded", "some/model"])
def test_each_kind_begins_its_search_at_its_own_defaults(model: str) -> None:
    spec = spec_of({kind: {"method": "lora", "adapter": kind} for kind in KINDS}, model)
    rates = {}
    for kind in KINDS:
        fields, point, space = (
            spec.method_fields(kind),
            spec.default_params(kind),
            spec.space(kind).parameters,
        )
        assert "adapter" not in space
        for name, dimension in space.items():
            if not isinstance(dimension, Categorical):
                assert point[name] == fields[name]
            assert point[name] == fields[name] or name == "lr_scheduler"
        assert ("r" in space) == (kind in ("lora", "rslora", "dora", "loha", "lokr", "hra"))
        rate = space["learning_rate"]
        assert isinstance(rate, Float)
        rates[kind] = (rate.low, rate.high)
    assert rates["lora"] == rates["rslora"] == rates["dora"]
    assert rates["lokr"][0] > rates["lora"][0]


def test_a_run_gets_the_defaults_of_its_kind() -> None:
    config: Any = {"method": "lora", "subject": {"name": "cat-1"}, "output_dir": "x", "cache_dir": "y"}
    rates = {}
    for model in ("embedded", "some/model"):
        for training in ({"adapter": "lokr"}, {}, {"adapter": "lokr", "learning_rate": 0.5}):
            run = RunConfig.model_validate({**config, "model": {"path": model}, "training": training})
            rates[model, *training.values()] = run.training.learning_rate
    assert list(rates.values()) == [
        KINDS["lokr"].embedded["learning_rate"], 5e-4, 0.5, KINDS["lokr"].defaults["learning_rate"], 1e-4, 0.5,
    ]  # fmt: skip


def test_a_kind_may_be_searched() -> None:
    kinds = {"type": "categorical", "choices": ["lora", "dora"]}
    spec = spec_of({"one": {"method": "lora", "search_space": {"adapter": kinds}}})
    space = spec.space("one").parameters
    assert space["adapter"].describe() == "lora | dora"
    assert space["r"].describe() == "4 | 8 | 16 | 32"
    assert spec.default_params("one")["adapter"] == "lora"


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ({"adapter": "oft", "r": 4}, "r: has no effect in this arm: it needs adapter: lora or rslora"),
        ({"oft_block_size": 8}, "it needs adapter: oft, but adapter is lora"),
        ({"adapter": "loha", "loraplus_lr_ratio": 4}, "loraplus_lr_ratio: has no effect in this arm"),
        ({"adapter": "lohr"}, "adapter"),
        ({"loraplus_lr_ratio": 16, "optimizer": "prodigy"}, "estimates one for all; take optimizer: adamw"),
        ({"init_lora_weights": "orthogonal", "r": 5}, "needs an even r, got 5"),
    ],
)
def test_what_a_kind_does_not_read_is_refused_in_the_file(
    arm: dict[str, Any], told: str, tmp_path: Path
) -> None:
    assert told in only(tmp_path, study_dict(arms={"one": {"method": "lora", **arm}}))


def test_two_ways_to_write_rslora_are_one_arm(tmp_path: Path) -> None:
    arms = {
        "one": {"method": "lora", "adapter": "rslora"},
        "two": {"method": "lora", "use_rslora": True},
    }
    assert "arms.two: is the same arm as 'one'" in only(tmp_path, study_dict(arms=arms))


def test_patterns_stand_in_a_study_and_in_mlflow() -> None:
    patterns = {"rank_pattern": {r".*attn2\.to_(k|v)": 4, "to_q": 8}}
    spec = spec_of({"one": {"method": "lora", **patterns}})
    again = StudySpec.from_record(json.loads(json.dumps(spec.record())))
    assert again.arms["one"].fixed == patterns
    (name, value), *_ = flat_params({"arm": patterns}).items()
    assert (name, json.loads(value)) == ("arm.rank_pattern", patterns["rank_pattern"])
    assert flat_params({"arm": {"rank_pattern": {"to_q": 8}}}) == {"arm.rank_pattern.to_q": "8"}


def test_what_does_not_fit_the_model_is_refused_before_the_launch() -> None:
    ranks = {"search_space": {"r": {"type": "categorical", "choices": [4, 512]}}}
    starts = {"init_lora_weights": {"type": "categorical", "choices": ["gaussian", "pissa"]}}
    arms = {
        "oft": {"adapter": "oft", "target_modules": ["to_q", "conv1"]},
        "rank": ranks,
        "start": {"target_modules": "attention_mlp_conv", "search_space": starts},
        "blocks": {"adapter": "oft", "oft_block_size": 64},
        "sound": {"adapter": "lokr", "target_modules": "attention_mlp_conv"},
        "plain": {"adapter": "oft", "target_modules": ["to_q", "proj_in"]},
    }
    found = check_study(spec_of({name: {"method": "lora", **arm} for name, arm in arms.items()}))
    told = {name: "\n".join(line for line in found if f"arm '{name}'" in line) for name in arms}
    assert "name linear layers and 1x1 convolutions only (adapter: oft)" in told["oft"]
    assert "r: 512 is above the width of" in told["rank"]
    assert "(init_lora_weights: pissa)" in told["start"]
    assert "oft_block_size: 64 does not divide the 160 inputs" in told["blocks"]
    assert told["sound"] == told["plain"] == ""
