"""No held-out image of a data set of classes reaches a generator: a run that would learn from one trains nothing."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.class_folders import class_folder
from tests.helpers.training_runs import MakeConfig
from trainables.config.class_data import ClassDataConfig
from trainables.config.fields import SubjectConfig
from trainables.config.generation import GenerationConfig
from trainables.data import images as image_files
from trainables.data.labelled_images import labelled
from trainables.errors import InputsChanged
from trainables.evaluation.prepared_classes import METADATA_FILE, PreparedClasses, prepare_classes
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig

Generating = Callable[[PreparedClasses], RunConfig]


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedClasses:
    class_folder(tmp_path / "photos", {"ill": 12, "well": 12})
    return prepare_classes(ClassDataConfig(path=str(tmp_path / "photos")), folder=tmp_path / "prepared")


@pytest.fixture
def generating(make_config: MakeConfig) -> Generating:
    """Makes a run that learns from the training images of "ill" and draws two."""

    def make(prepared: PreparedClasses) -> RunConfig:
        config = make_config("lora", max_train_steps=2, checkpointing_steps=2)
        subject = SubjectConfig(
            name="ill",
            images=str(prepared.images_of("train", "ill")),
            references=str(prepared.references_of("ill")),
            instance_prompt="a sks cat",
            class_prompt="a cat",
        )
        fields: dict[str, Any] = {
            "prompts": {"ill": "a sks cat"}, "images": {"ill": 2}, "num_inference_steps": 1,
            "classes": str(prepared.folder),
        }  # fmt: skip
        generation = GenerationConfig.model_validate(fields)
        return config.model_copy(update={"subject": subject, "generation": generation})

    return make


def first(prepared: PreparedClasses, part: str) -> Path:
    return min(prepared.images_of(part, "ill").glob("*.png"))


def under_a_new_name(prepared: PreparedClasses, part: str) -> str:
    shutil.copy(first(prepared, part), prepared.images_of("train", "ill") / "99999.png")
    return "train/ill/99999.png"


def over_an_old_one(prepared: PreparedClasses, part: str) -> str:
    target = first(prepared, "train")
    shutil.copy(first(prepared, part), target)
    return f"{target} has other pixels than when the data set was split"


def beside_the_classes(prepared: PreparedClasses, part: str) -> str:
    shutil.copy(first(prepared, part), prepared.folder / "train" / "99999.png")
    return "train/99999.png"


def removed(prepared: PreparedClasses, part: str) -> str:
    target = first(prepared, "train")
    target.unlink()
    return f"{target}: no such file"


@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize("spoil", [under_a_new_name, over_an_old_one, beside_the_classes, removed])
def test_a_run_whose_training_images_are_not_those_that_were_split_does_not_begin(
    prepared: PreparedClasses, generating: Generating, spoil: Callable[[PreparedClasses, str], str], part: str
) -> None:
    config = generating(prepared)
    told = spoil(prepared, part)
    with pytest.raises(InputsChanged) as raised:
        list(execute(config))
    assert told in str(raised.value)
    assert not Path(config.output_dir).exists()


def refusal(config: RunConfig, resident: Resident) -> str:
    """Why a run failed before it has trained or drawn anything."""
    events = list(execute(config, resident))
    assert not {event.kind for event in events} & {"progress", "checkpoint", "generated"}
    assert not any(event.data.get("name") == "train" for event in events if event.kind == "phase")
    assert events[-1].data["state"] == "FAIL"
    message: str = events[-1].data["message"]
    return message


def test_a_held_out_image_that_the_list_names_as_a_training_image_is_refused(
    prepared: PreparedClasses, generating: Generating, resident: Resident
) -> None:
    leaked = first(prepared, "test")
    name = under_a_new_name(prepared, "test")
    with (prepared.folder / METADATA_FILE).open("a", newline="") as file:
        csv.writer(file).writerow([name, "ill", "", "train", labelled(leaked, "", "").digest])
    message = refusal(generating(prepared), resident)
    assert f"the same picture is trained on and held out: test/ill/{leaked.name} (as {name})" in message


def test_held_out_images_in_another_folder_that_is_trained_on_are_refused(
    prepared: PreparedClasses, generating: Generating, resident: Resident, tmp_path: Path
) -> None:
    config = generating(prepared)
    shutil.copytree(prepared.images_of("train", "ill"), tmp_path / "copy")
    leaked = first(prepared, "test")
    shutil.copy(leaked, tmp_path / "copy" / "99999.png")
    subject = config.subject.model_copy(update={"images": str(tmp_path / "copy")})
    message = refusal(config.model_copy(update={"subject": subject}), resident)
    assert f"test/ill/{leaked.name} (as {tmp_path / 'copy' / '99999.png'})" in message


def test_references_that_are_no_validation_images_are_refused(
    generating: Generating, resident: Resident, tmp_path: Path
) -> None:
    class_folder(tmp_path / "photos", {"ill": 12, "well": 12})
    stated = ClassDataConfig(path=str(tmp_path / "photos"), near_copies="allow")
    prepared = prepare_classes(stated, folder=tmp_path / "prepared")
    shutil.copy(first(prepared, "test"), prepared.references_of("ill") / "99999.png")
    assert "references/ill/99999.png" in refusal(generating(prepared), resident)


def test_held_out_images_are_opened_by_the_check_alone(
    prepared: PreparedClasses, generating: Generating, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    original = image_files.read_file

    def read_file(path: Path, *arguments: Any) -> bytes:
        opened.append(path)
        return original(path, *arguments)

    config = generating(prepared)
    monkeypatch.setattr(image_files, "read_file", read_file)
    for event in execute(config, resident):
        if event.kind == "phase" and event.data["name"] == "train":
            opened.clear()
    below = {
        path.relative_to(prepared.folder).parts[:2] for path in opened if prepared.folder in path.parents
    }
    assert below == {("train", "ill")}
