"""docs/cluster.md names only commands, options and files that there are."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from study.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "cluster.md").read_text()


def commands() -> list[list[str]]:
    """Every `study ...` command of the code blocks and of the inline code."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
    lines = [line.split("   #")[0] for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    found = []
    for line in [*lines, *inline]:
        for words in re.findall(r"(?:^|')(study [a-z]+[^'|;]*)", line):
            if "..." not in words:
                found.append(shlex.split(words)[1:])
    return found


def test_commands_and_options_exist() -> None:
    group = typer.main.get_command(app)
    found = commands()
    assert {words[0] for words in found} >= {
        "launch",
        "submit",
        "status",
        "doctor",
        "plan",
        "stop",
        "logs",
        "report",
    }
    for words in found:
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        for word in words[1:]:
            if word.startswith("--"):
                assert word.split("=")[0] in known, words


def test_overrides_are_fields_of_a_study() -> None:
    from study.spec.loading import load_study

    overrides = {word for words in commands() for word in words[1:] if re.fullmatch(r"[a-z_.]+=\S+", word)}
    overrides |= set(re.findall(r"`(training\.[a-z_]+=\S+)`", TEXT))
    several = {
        word for word in overrides if word.startswith(("resources.num_workers", "resources.gpus_per_w"))
    }
    alone = {
        word for word in overrides - several if not word.startswith(("model=", "training.train_batch_size"))
    }
    assert len(alone) >= 3
    load_study("quickstart", sorted(alone))
    load_study("quickstart", [*sorted(several), "training.train_batch_size=4"])


def test_links_and_files_exist() -> None:
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    for name in set(re.findall(r"\bdeploy/[\w.]+\w", TEXT)):
        assert (ROOT / name).exists(), name
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", TEXT, flags=re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors


def test_options_of_ray_exist() -> None:
    """The commands of `ray` that the page leans on, as the installed Ray has them."""
    from ray.scripts.scripts import cli

    for words in re.findall(r"(?:^|`|')(ray [a-z-]+[^`'\n#]*)", TEXT, flags=re.M):
        parts = shlex.split(words)
        if len(parts) < 2 or parts[1] not in cli.commands:
            assert parts[1] in ("job",), words
            continue
        known = {
            name
            for option in cli.commands[parts[1]].params
            for name in (*option.opts, *option.secondary_opts)
        }
        for word in parts[2:]:
            if word.startswith("--"):
                assert word.split("=")[0] in known, words


@pytest.mark.parametrize("message", re.findall(r"^\| `([^`]+)`", TEXT, flags=re.M))
def test_messages_of_the_table_are_the_programs_own(message: str) -> None:
    longest = max((part.strip() for part in message.split("...")), key=len)
    words = ["git", "grep", "-h", "-F", "-e", longest.strip(", "), "--", "study"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout
    assert found or message == "No space left on device", message
