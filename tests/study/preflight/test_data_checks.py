"""Faults of data sets as `study validate`, `plan` and `doctor` tell them: errors for leaks, notes for the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import ImageFilter, ImageOps
from typer.testing import CliRunner

from benchmarks.support.tiny_models import make_tiny_model
from study.cli.main import app
from study.preflight.checks import check_study, data_notes
from study.preflight.notes import study_notes
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from tests.helpers.scenes import scene
from trainables.config.fields import ModelConfig, SubjectConfig
from trainables.models.folders import local_folder
from trainables.models.prompt_lengths import pipeline_reader
from trainables.run.prompt_checks import find_broken_words


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    make_tiny_model(folder, resolution=64, width=16)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seeds in (("images", range(4)), ("held", range(4, 6))):
        (tmp_path / name).mkdir()
        for seed in seeds:
            scene(seed, 160).save(tmp_path / name / f"{seed}.png")
    return tmp_path


def study(folder: Path, model: Path, method: str = "lora", **subject: Any) -> Path:
    own = {
        "name": "dog",
        "images": str(folder / "images"),
        "references": str(folder / "held"),
        "instance_prompt": "a dog dog",
        "class_prompt": "a dog",
    }
    content = {
        "name": "data",
        "model": {"path": str(model)},
        "subjects": [own | subject],
        "arms": {"one": {"method": method}},
        "search": {"trials": 1, "allow_overlap": True},
        "confirm": {"seeds": [1]},
        "evaluation": {"image_encoder": "embedded", "clip": "embedded"},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def spec(*arguments: Any, **subject: Any) -> StudySpec:
    return load_study(study(*arguments, **subject))


def test_a_sound_study_has_nothing_said_of_its_data(folder: Path, model: Path) -> None:
    sound = spec(folder, model)
    assert check_study(sound) == []
    assert data_notes(sound) == []


def test_commands_refuse_a_leak_and_say_no_more_than_a_note_of_the_rest(folder: Path, model: Path) -> None:
    scene(0, 640).filter(ImageFilter.GaussianBlur(30)).save(folder / "images" / "3.png")
    file = str(study(folder, model))
    run = CliRunner().invoke
    for command in (["validate", file], ["plan", file, "--no-probe", "--storage", str(folder / "s")]):
        done = run(app, command)
        assert done.exit_code == 0, done.output
        assert "note: subject 'dog': blurred at the size that runs train at: 3.png (0." in done.stderr
    done = run(app, ["doctor", file, "--storage", str(folder / "s"), "--format", "json"])
    assert "blurred at the size that runs train at: 3.png (0." in done.stdout
    assert '"ok": false' not in done.stdout.split("blurred at")[1]
    ImageOps.mirror(scene(1, 160)).save(folder / "held" / "5.png")
    for command in (
        ["validate", file],
        ["plan", file, "--no-probe", "--storage", str(folder / "s")],
        ["doctor", file, "--storage", str(folder / "s"), "--format", "json"],
    ):
        done = run(app, command)
        said = str(done.exception) + done.output
        assert done.exit_code != 0
        assert "held/5.png is nearly the same picture as 1.png, which is trained on" in said, said


def pieces(model: Path, word: str) -> tuple[str, ...]:
    reader = pipeline_reader(model)
    assert reader is not None
    return reader.pieces(word)


def test_a_rare_word_in_pieces_is_noted(folder: Path, model: Path) -> None:
    assert pieces(model, "dog") == ("dog",)
    assert "".join(pieces(model, "zwxq")) == "zwxq"
    assert len(pieces(model, "zwxq")) > 1
    (note,) = data_notes(spec(folder, model, instance_prompt="a zwxq dog"))
    parts = ", ".join(map(repr, pieces(model, "zwxq")))
    assert note.startswith(
        f"subject 'dog': the tokenizer of '{model}' breaks 'zwxq' of the instance prompt up, into {parts}"
    )
    assert note in study_notes(load_study(folder / "study.yaml"))


@pytest.mark.parametrize(
    ("instance", "plain", "broken"),
    [
        ("a photo of sks, a cat", "a photo of a cat", []),
        ("a SKS cat.", "a cat", []),
        ("a sks cat", "a cat.", []),
        ('a photo of "sks" (on a cat)', "a photo on a cat", []),
        ("a photo of sks's cat; red", "a photo of a cat: red", []),
        ("a photo of \u201csks\u201d \u2013 a cat\u2026", "a photo of a cat", []),
        ("a zwxq, red cat!", "a red cat", ["zwxq"]),
        ("a photo of zwxq's cat, in snow.", "a photo of a cat in snow", ["zwxq"]),
        ("a [sks] cat", "a cat", ["[sks]"]),  # who writes so means the brackets
        ("a <sks> cat", "a cat", ["<sks>"]),
        ("a sks-cat", "a cat", ["sks-cat"]),
    ],
)
def test_punctuation_is_no_part_of_a_rare_word(
    instance: str, plain: str, broken: list[str], folder: Path, model: Path
) -> None:
    assert pieces(model, "sks,") == ("sks", ","), "a token of its own"
    subject = SubjectConfig(
        name="dog", images=str(folder / "images"), instance_prompt=instance, class_prompt=plain
    )
    notes = find_broken_words(ModelConfig(path=str(model)), subject)
    assert [note.split(" breaks ")[1].split(" of the instance")[0] for note in notes] == [
        repr(word) for word in broken
    ]


def test_words_that_the_class_has_too_name_nobody(folder: Path, model: Path) -> None:
    both = {"instance_prompt": "a dog zwxq", "class_prompt": "a ZWXQ"}
    assert data_notes(spec(folder, model, **both)) == []


def test_a_placeholder_takes_the_rare_words_place(folder: Path, model: Path) -> None:
    subject = {"instance_prompt": "a zwxq dog"}
    assert data_notes(spec(folder, model, "textual_inversion", **subject)) == []


def test_the_embedded_model_spells_all_but_its_own_words() -> None:
    assert find_broken_words(ModelConfig(), SubjectConfig(name="cat-1")) == []
    folder = local_folder(ModelConfig())
    assert folder is not None
    assert len(pieces(folder, "sks")) > 1


def test_a_model_that_is_not_here_says_nothing(folder: Path) -> None:
    subject = SubjectConfig(
        name="dog", images=str(folder / "images"), instance_prompt="a zwxq dog", class_prompt="a dog"
    )
    assert find_broken_words(ModelConfig(path="nobody/has-this"), subject) == []
