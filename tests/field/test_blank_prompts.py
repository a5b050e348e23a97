"""`instance_prompt: "  "` was valid: the subject was taught without a word for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from study.spec.loading import load_study
from trainables.config.fields import SubjectConfig
from trainables.errors import UserError

STUDY = """name: blank
subjects:
  - name: dog
    images: photos
    instance_prompt: "{instance}"
    class_prompt: "{klass}"
arms: {{lora: {{method: lora}}}}
"""


@pytest.mark.parametrize("blank", ["", "  ", r"\n", r"\t", r"\u200b", r"\u00a0\u2060", r"\ufeff", r"\ufe0f"])
def test_a_study_with_one_is_refused_with_its_line(blank: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(instance=blank, klass="a dog"))
    with pytest.raises(UserError, match=r"study\.yaml:5 subjects\.0\.instance_prompt: .*is blank"):
        load_study(path)
    path.write_text(STUDY.format(instance=blank, klass=blank))
    with pytest.raises(UserError) as refused:
        load_study(path)
    assert "class_prompt" in str(refused.value)
    assert len(refused.value.problems) == 2


def test_prompts_of_an_embedded_subject_too() -> None:
    with pytest.raises(ValidationError, match="is blank"):
        SubjectConfig(name="robot", instance_prompt=" ")
    assert SubjectConfig(name="robot").instance_prompt is None


@pytest.mark.parametrize("sound", ["sks", "犬", "🐕", " a sks dog ", "*"])
def test_prompts_in_any_script_are_sound(sound: str) -> None:
    assert SubjectConfig(name="robot", instance_prompt=sound).instance_prompt == sound
