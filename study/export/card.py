"""The model card of exported weights: ``README.md`` with the fields that model hubs read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.evaluation.metrics_table import METRICS
from trainables.methods.exporting import FORMATS, About, Exported, Format

CARD_FILE = "README.md"
SAMPLE_IMAGES = "images"


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        method: Its title; `tag` its name.
        settings: Field of the training -> value, as they came to.
        evaluation: Bare name of a metric -> value, None where it could not be computed.
    """

    about: About
    form: Format
    method: str
    tag: str
    settings: Mapping[str, Any]
    evaluation: Mapping[str, float | None]
    written: Exported


def write_card(folder: Path, card: Card, hub_id: str, samples: Mapping[str, Path]) -> None:
    """Writes the card and copies the samples beside it.

    Args:
        hub_id: Of the base model; empty where it is no model of the hub.
        samples: Prompt -> an image; those that are gone are left out.
    """
    shown = {}
    for number, (prompt, path) in enumerate(samples.items()):
        if path.is_file():
            (folder / SAMPLE_IMAGES).mkdir(exist_ok=True)
            shown[prompt] = f"{SAMPLE_IMAGES}/{number:02d}{path.suffix}"
            shutil.copyfile(path, folder / shown[prompt])
    text = "\n".join([*_front_matter(card, hub_id), *_body(card, shown)]) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def _front_matter(card: Card, hub_id: str) -> list[str]:
    """YAML; every value is written as JSON, which is YAML and breaks out of nothing."""
    about = card.about
    fields: dict[str, str] = {}
    if about.license:
        name = about.license.lower()  # as hubs write them: "MIT" is their mit
        is_id = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) is not None
        fields |= {"license": name} if is_id else {"license": "other", "license_name": about.license}
    if hub_id:
        fields["base_model"] = hub_id
    if about.trigger:
        fields["instance_prompt"] = about.trigger
    if card.form in ("diffusers", "merged"):
        fields["library_name"] = "diffusers"
    if card.form == "peft":
        fields["library_name"] = "peft"
    tags = json.dumps(["text-to-image", card.tag, f"format:{card.form}"])
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return ["---", *lines, f"tags: {tags}", "---", ""]


def _body(card: Card, samples: Mapping[str, str]) -> list[str]:
    about = card.about
    usage = ["```python", card.written.usage, "```"] if card.written.code else [card.written.usage]
    lines = [f"# {_plain(about.title)}", "", _plain(about.description), ""]
    lines += [f"Written for {FORMATS[card.form]}. {_prompts(about)}", "", *usage, ""]
    lines += [f"- Note: {_plain(note)}." for note in card.written.notes]
    lines += [""] if card.written.notes else []
    if samples:
        lines += ["## Samples", "", "Images of this run, drawn for its evaluation.", ""]
        for prompt, path in samples.items():
            lines += [f"{_plain(prompt)}", "", f"![{_plain(prompt)}]({path})", ""]
    lines += ["## Training", "", "| field | value |", "|---|---|"]
    lines += [f"| method | {_plain(card.method)} |", f"| base model | {_plain(about.base)} |"]
    lines += [
        f"| {name} | {_plain(about.own[name])} |"
        for name in ("base_model_sha256", "subject", "seed", "train_steps", "config_digest")
        if name in about.own
    ]
    lines += [f"| {name} | {_plain(json.dumps(value))} |" for name, value in card.settings.items()]
    measured = {name: value for name, value in card.evaluation.items() if value is not None}
    if measured:
        lines += ["", "## Evaluation", "", _caveat(about), "", "| metric | value | |", "|---|--:|---|"]
        for name, value in measured.items():
            metric = METRICS.get(name)
            title, said = (metric.title, metric.description) if metric is not None else (name, "")
            lines.append(f"| {_plain(title)} | {value:.4g} | {_plain(said)} |")
    lines += ["", "## Licence", ""]
    lines.append(_plain(about.license) if about.license else "Not stated.")
    lines += [
        "",
        "The licence of the base model, and rights in the images that were trained on, apply beside it.",
    ]
    if about.author:
        lines += ["", f"Author: {_plain(about.author)}"]
    lines += [
        "",
        f"Trained {about.date}; run {_code(about.own['run'])} of the study {about.own['study']}.",
    ]
    return lines


def _prompts(about: About) -> str:
    if not about.trigger:
        return "Prompts are captions like those that were trained on, and need no word of their own."
    if about.captioned:
        return f"Prompts begin with {_code(about.trigger + ',')} and go on like the captions that were trained on."
    return f"Prompts say {_code(about.trigger)}."


def _caveat(about: About) -> str:
    return (
        f"Of this one run alone, by the plan of the study {_plain(about.own['study'])}. What a method is worth "
        "is said by the study's report, over subjects and seeds."
    )


def _code(text: str) -> str:
    return f"`{' '.join(text.replace('`', ' ').split())}`"


def _plain(text: str) -> str:
    """Text of one line that ends no cell and starts no markup."""
    line = " ".join(str(text).split())
    return re.sub(r"([\\|`<>\[\]])", r"\\\1", line)  # a backslash too: it would take back what follows
