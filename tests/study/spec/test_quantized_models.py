"""Studies with a quantised base model: what is refused before a launch, and that others stay what they were."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from study.preflight.checks import check_study
from study.spec.study_spec import StudySpec
from tests.helpers.study_files import only, study_dict
from trainables.config.fields import ModelConfig
from trainables.run.checks import check_run
from trainables.run_config import RunConfig

LORA = {"one": {"method": "lora"}}


def spec_of(arms: dict[str, Any], **sections: Any) -> StudySpec:
    model = {"path": "embedded", "quantization": "4bit"}
    return StudySpec.model_validate(study_dict(model=model, arms=arms, **sections))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """bitsandbytes can be found, whether it is there or not; nothing loads it."""
    _found(monkeypatch, True)


def _found(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    original = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        if name == "bitsandbytes":
            return original("json") if there else None
        return original(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


@pytest.mark.usefixtures("installed")
def test_methods_that_change_weights_are_refused_with_what_to_take() -> None:
    starts = {"type": "categorical", "choices": ["gaussian", "pissa"]}
    arms = {
        "full": {"method": "dreambooth"},
        "captions": {"method": "text_to_image", "trains": "full", "captions": "instance_prompt"},
        "projections": {"method": "custom_diffusion"},
        "start": {"method": "lora", "search_space": {"init_lora_weights": starts}},
        "adapter": {"method": "dreambooth_lora"},
        "word": {"method": "textual_inversion"},
        "network": {"method": "hypernetwork"},
        "base": {"method": "base"},
    }
    found = check_study(spec_of(arms))
    told = {name: [line for line in found if f"arm {name!r}" in line] for name in arms}
    rule = "model.quantization: 4bit keeps the base model's weights as codes, which cannot change, and "
    assert told["full"] == [
        f"arm 'full': {rule}dreambooth trains all of them; take a method that trains adapters, such as "
        "dreambooth_lora, or leave quantization out"
    ]
    assert (
        f"{rule}text_to_image with trains: full trains all of them; take trains: adapter"
        in told["captions"][0]
    )
    assert (
        f"{rule}custom_diffusion trains those of cross-attention; take pivotal_tuning"
        in told["projections"][0]
    )
    assert f"{rule}init_lora_weights: pissa moves a part of each into the adapter" in told["start"][0]
    assert all(len(told[name]) == 1 for name in ("full", "captions", "projections", "start"))
    assert not any(told[name] for name in ("adapter", "word", "network", "base"))


def test_a_missing_package_is_named_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    _found(monkeypatch, False)
    line = (
        "model.quantization: 4bit needs the package bitsandbytes, which is not installed; install it "
        "(pip install 'diffusion-study[gpu]') or leave it out"
    )
    assert check_study(spec_of(LORA)).count(line) == 1
    run = RunConfig.model_validate(
        {
            "method": "dreambooth",
            "model": {"path": "embedded", "quantization": "4bit"},
            "subject": {"name": "cat-1"},
            "output_dir": "x",
            "cache_dir": "y",
        }
    )
    problems = check_run(run)
    assert line in problems
    assert any("dreambooth trains all of them" in problem for problem in problems)
    assert not any(
        "bitsandbytes" in problem for problem in check_run(run.model_copy(update={"model": ModelConfig()}))
    )


def test_weights_in_codes_are_not_dealt_out(tmp_path: Path) -> None:
    content = study_dict(
        model={"path": "embedded", "quantization": "8bit"},
        arms=LORA,
        resources={"num_workers": 2, "parallel_strategy": "fsdp"},
        training={"lr_warmup_steps": 5, "optimizer": "adamw"},
    )
    assert "but model.quantization: 8bit keeps codes in their place; take parallel_strategy: ddp" in only(
        tmp_path, content
    )


def test_only_8_and_4_bit_are_known(tmp_path: Path) -> None:
    told = only(tmp_path, study_dict(model={"path": "embedded", "quantization": "3bit"}))
    assert "quantization" in told
    assert "8bit" in told
    assert "3bit" in told


def test_a_model_without_it_is_recorded_as_before_and_one_with_it_is_another() -> None:
    assert ModelConfig().model_dump(mode="json") == {
        "path": "embedded",
        "revision": None,
        "variant": None,
        "config": None,
    }
    study, quantised = StudySpec.model_validate(study_dict(arms=LORA)), spec_of(LORA)
    assert "quantization" not in study.model_dump_json()
    assert study.digest() != quantised.digest()
    assert study.identity() != quantised.identity()
    again = StudySpec.from_record(quantised.record())
    assert again.model == ModelConfig(path="embedded", quantization="4bit")
    assert again.model.whole == ModelConfig(path="embedded")
    runs = [
        RunConfig.model_validate(
            {
                "method": "lora",
                "model": {"path": "embedded", "quantization": bits},
                "subject": {"name": "cat-1"},
                "output_dir": "x",
                "cache_dir": "y",
            }
        )
        for bits in (None, "8bit", "4bit")
    ]
    assert len({run.digest() for run in runs}) == len({run.comes_to() for run in runs}) == 3
    assert "quantization" not in runs[0].model_dump_json()
