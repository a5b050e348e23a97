"""Notes: what a study file allows, but probably does not mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.preflight.notes import study_notes
from study.spec.loading import load_study, preset_names
from study.spec.study_spec import StudySpec

README = Path(__file__).parents[3] / "README.md"


def notes_of(arms: dict[str, Any], **search: Any) -> str:
    content = {
        "name": "noted",
        "subjects": ["cat-1", "dog-1", "bird-1", "fox-1"],
        "arms": arms,
        "search": search,
        "confirm": {"seeds": [1]},
        "evaluation": {"num_class_images": 64},
    }
    return "\n".join(study_notes(StudySpec.model_validate(content)))


def test_methods_with_unequal_trials_are_a_note() -> None:
    arms: dict[str, Any] = {
        "a": {"method": "lora"},
        "b": {"method": "dreambooth_lora"},
        "c": {"method": "dreambooth", "train_text_encoder": False},
    }
    assert "different numbers of trials (dreambooth 6, lora 12)" in notes_of(arms, trials=6)
    assert "numbers of trials" not in notes_of(arms, trials_per_method=6)
    assert "numbers of trials" not in notes_of({"a": arms["a"], "c": arms["c"]}, trials=6)


def test_a_factor_that_stands_for_a_method_is_a_note() -> None:
    arms = {
        "a": {"method": "lora", "train_text_encoder": False},
        "b": {"method": "dreambooth", "train_text_encoder": True, "with_prior_preservation": False},
    }
    assert "train_text_encoder is true in every arm of dreambooth and false in every arm of lora" in notes_of(
        arms
    )


def test_a_factor_that_a_method_does_not_read_is_none() -> None:
    arms = {
        "a": {"method": "textual_inversion"},
        "b": {"method": "dreambooth", "train_text_encoder": True, "with_prior_preservation": True},
    }
    assert "in every arm of" not in notes_of(arms)


def test_the_example_of_the_readme_is_fair(tmp_path: Path) -> None:
    """The first study that anybody copies compares methods, and not their budgets, text encoders or class images."""
    (text,) = re.findall(r"```yaml\n# my-study.yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    content = yaml.safe_load(text)
    content["subjects"] = ["cat-1", "cat-2", *(["dog-1"] if len(content["subjects"]) > 2 else [])]
    content["confirm"]["subjects"] = content["subjects"][1:]
    said = "\n".join(study_notes(StudySpec.model_validate(content)))
    assert "in every arm of" not in said
    assert "numbers of trials" not in said


@pytest.mark.parametrize("name", preset_names())
def test_presets_tune_their_methods_alike(name: str) -> None:
    said = "\n".join(study_notes(load_study(name)))
    assert "numbers of trials" not in said
    assert "in every arm of" not in said


def test_what_is_said_of_the_model_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.preflight.notes.model_notes", lambda model: [f"{model.path} is distilled"])
    assert "embedded is distilled" in notes_of({"a": {"method": "lora"}}).splitlines()
