"""What the model card of exported weights says of prompts: a subject's words, a data set's trigger, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.export.card import Card, write_card
from trainables.methods.exporting import About, Exported


@pytest.mark.parametrize(
    ("trigger", "captioned", "sentence", "field"),
    [
        ("a sks cat", False, "Prompts say `a sks cat`.", 'instance_prompt: "a sks cat"'),
        (
            "ink style",
            True,
            "Prompts begin with `ink style,` and go on like the captions that were trained on.",
            'instance_prompt: "ink style"',
        ),
        (
            "",
            True,
            "Prompts are captions like those that were trained on, and need no word of their own.",
            None,
        ),
    ],
)
def test_how_prompts_are_to_be_written(
    tmp_path: Path, trigger: str, captioned: bool, sentence: str, field: str | None
) -> None:
    about = About(
        title="t", description="d", date="", resolution=64, trigger=trigger, base="embedded", captioned=captioned,
        own={"study": "s", "run": "r"},
    )  # fmt: skip
    write_card(tmp_path, Card(about, "diffusers", "LoRA", "lora", {}, {}, Exported("load it")), "", {})
    text = (tmp_path / "README.md").read_text()
    assert sentence in text
    assert "``" not in text.replace("```", "")
    assert (field in text) if field else ("instance_prompt" not in text)


@pytest.mark.parametrize(
    ("stated", "fields"),
    [
        ("MIT", 'license: "mit"'),
        ("CC-BY-4.0", 'license: "cc-by-4.0"'),
        ("apache-2.0", 'license: "apache-2.0"'),
        ("My Terms", 'license: "other"\nlicense_name: "My Terms"'),
    ],
)
def test_a_licence_is_named_as_hubs_name_it(stated: str, fields: str, tmp_path: Path) -> None:
    about = About(
        title="t", description="d", date="", resolution=64, trigger="", base="embedded", license=stated,
        own={"study": "s", "run": "r"},
    )  # fmt: skip
    write_card(tmp_path, Card(about, "diffusers", "LoRA", "lora", {}, {}, Exported("load it")), "", {})
    text = (tmp_path / "README.md").read_text()
    assert f"---\n{fields}\n" in text
    assert f"## Licence\n\n{stated}\n" in text  # people read what was stated
