"""What of a downstream phase is told before a launch: of its data, its classifiers and what is to be drawn."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.preflight.checks import check_study
from study.preflight.class_checks import class_notes
from study.preflight.downstream import classifier_work
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.class_folders import class_folder, flat_folder, write_table
from tests.helpers.downstream_studies import study_file
from tests.helpers.tiny_families import make_tiny
from trainables.data.labelled_images import labelled
from trainables.evaluation.prepared_classes import METADATA_FILE, PreparedClasses, prepared_at


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "prepared"))


def study(folder: Path, top: dict[str, Any] | None = None, **section: Any) -> StudySpec:
    """A study of two classes; `top` are sections beside `downstream`."""
    data = folder / "data"
    if not data.exists():
        class_folder(data, {"cat": 12, "dog": 12})
    path = study_file(folder, section.pop("dataset", data), **{"ratios": [1], **section})
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | (top or {})))
    return load_study(path)


def prepared_of(spec: StudySpec) -> PreparedClasses:
    assert spec.downstream is not None
    assert spec.downstream.prepared is not None
    return prepared_at(Path(spec.downstream.prepared))


def own(problems: Sequence[str]) -> list[str]:
    """Those of the downstream phase alone."""
    return [problem for problem in problems if "downstream." in problem]


# The data set


def first(prepared: PreparedClasses, part: str) -> Path:
    return min(prepared.images_of(part, "cat").glob("*.png"))


def under_a_new_name(prepared: PreparedClasses) -> str:
    shutil.copy(first(prepared, "test"), prepared.images_of("train", "cat") / "99999.png")
    return "has images that were not split into it: train/cat/99999.png"


def over_an_old_one(prepared: PreparedClasses) -> str:
    shutil.copy(first(prepared, "test"), first(prepared, "train"))
    return f"{first(prepared, 'train')} has other pixels"


def removed(prepared: PreparedClasses) -> str:
    name = first(prepared, "train")
    name.unlink()
    return f"{name}: no such file"


def listed(prepared: PreparedClasses) -> str:
    under_a_new_name(prepared)
    digest = labelled(first(prepared, "test"), "", "").digest
    with (prepared.folder / METADATA_FILE).open("a", newline="") as file:
        csv.writer(file).writerow(["train/cat/99999.png", "cat", "", "train", digest])
    return "trained on and held out: test/cat/00000.png (as train/cat/99999.png)"


@pytest.mark.parametrize("spoil", [under_a_new_name, over_an_old_one, removed, listed])
def test_training_images_that_are_not_those_that_were_split_are_named(
    tmp_path: Path, spoil: Callable[[PreparedClasses], str]
) -> None:
    spec = study(tmp_path)
    assert check_study(spec) == []
    told = spoil(prepared_of(spec))
    assert any(
        problem.startswith("downstream.dataset: ") and told in problem for problem in check_study(spec)
    )


# Classifiers and what is drawn

LONG = "bad word " * 40

PROBLEMS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "sizes": (
        {"classifiers": ["resnet18", "inception_v3", "vit", "small_cnn"], "resolution": 15},
        {},
        [
            "downstream.classifiers: resnet18 needs images of 32 pixels",
            "downstream.classifiers: inception_v3 needs images of 39 pixels",
            "downstream.classifiers: vit needs images of 16 pixels",
            "downstream.classifiers: small_cnn needs images of 16 pixels",
        ],
    ),
    "inception at 32": (
        {"classifiers": ["inception_v3"]},
        {},
        ["downstream.classifiers: inception_v3 needs images of 39"],
    ),
    "patches": (
        {"classifiers": ["vit"], "resolution": 36},
        {},
        ["downstream.classifiers: vit cuts images into patches of 8"],
    ),
    "timm": (
        {"classifiers": ["timm:nonesuch"]},
        {},
        ["downstream.classifiers: timm:nonesuch needs the package timm"],
    ),
    "weights": (
        {
            "classifiers": [
                {"network": "resnet18", "weights": "/nowhere/at/all"},
                {"network": "vgg19", "weights": "timm/vgg19"},
            ]
        },
        {},
        ["weights '/nowhere/at/all' is neither", "weights 'timm/vgg19' is no existing folder"],
    ),
    "negative prompt without guidance": (
        {"negative_prompt": "blurred", "guidance_scale": 1},
        {},
        ["downstream.negative_prompt has no effect at guidance_scale 1"],
    ),
    "long negative prompt": (
        {"negative_prompt": LONG},
        {},
        ["downstream.negative_prompt: the prompt 'bad word"],
    ),
    "shares": (
        {"real_shares": [0.5, 5]},
        {},
        ["downstream.real_shares: real_share 5 asks for more images of every class"],
    ),
    "a class that is not drawn": (
        {},
        {"confirm": {"subjects": ["dog"]}},
        ["confirm.subjects: leaves out 'cat'"],
    ),
    "several at once": (
        {"classifiers": ["inception_v3"], "real_shares": [5], "negative_prompt": "x", "guidance_scale": 0},
        {},
        ["downstream.classifiers: ", "downstream.real_shares: ", "downstream.negative_prompt has no effect"],
    ),
}


@pytest.mark.parametrize(("section", "top", "told"), PROBLEMS.values(), ids=PROBLEMS)
def test_what_runs_would_fail_of_is_told_before_a_launch(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: dict[str, Any],
    top: dict[str, Any],
    told: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    found = check_study(study(tmp_path, top, **section))
    found = [problem for problem in found if problem.startswith(("downstream.", "confirm.subjects"))]
    assert len(found) == len(told), found
    for part, problem in zip(sorted(told), sorted(found), strict=True):
        assert part in problem


def test_prompts_of_classes_that_one_model_would_not_read_to_the_end_are_named(tmp_path: Path) -> None:
    rows = [[label, f"{label}{number // 2}"] for label in ("cat", "dog") for number in range(12)]
    data = flat_folder(tmp_path / "photos", ["class", "group"], rows)
    dataset = {"path": str(data), "class_template": f"{LONG}of {{class}}"}
    found = own(check_study(study(tmp_path, models="one", dataset=dataset)))
    assert [problem.partition(": the prompt 'bad word")[0] for problem in found] == [
        "arm 'lora': downstream.dataset: class 'cat'",
        "arm 'lora': downstream.dataset: class 'dog'",
    ]


def test_a_model_without_classifier_free_guidance_takes_no_negative_prompt(tmp_path: Path) -> None:
    model = make_tiny("flux", tmp_path / "flux")
    spec = study(tmp_path, {"model": str(model)}, negative_prompt="blurred")
    (problem,) = own(check_study(spec))
    assert problem.startswith("downstream.negative_prompt has no effect on a model that takes guidance")


# Notes


def test_few_seeds_are_noted(tmp_path: Path) -> None:
    (note,) = (
        note for note in class_notes(study(tmp_path, seeds=[0], generator_seeds=[1, 2, 3])) if "seeds" in note
    )
    assert note.startswith("downstream.seeds has 1: fewer than 3 seeds show values")
    assert not any(
        "seeds" in note for note in class_notes(study(tmp_path, seeds=[0, 1, 2], generator_seeds=[1, 2, 3]))
    )


def test_further_images_of_groups_that_are_trained_on_are_noted(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "grouped", {"cat": 24, "dog": 24})
    names = [f"{label}/{number:02}.png" for label in ("cat", "dog") for number in range(24)]
    write_table(
        folder, ["file_name", "group"], [[name, f"{name[:3]}{int(name[4:6]) // 3}"] for name in names]
    )
    dataset = {"path": str(folder), "imbalance": {"dog": 3}}
    spec = study(tmp_path, dataset=dataset, real_shares=[2])
    assert any("further real images are of " in note for note in class_notes(spec))
    spec = study(tmp_path, dataset=dataset, real_shares=[0.5])  # none of them is learnt from
    assert not any("further real images" in note for note in class_notes(spec))


@pytest.mark.parametrize(
    ("count", "told"),
    [(24, "so few that they resolve no difference"), (160, "resolve differences of ")],
)
def test_a_plan_says_what_its_test_images_resolve(tmp_path: Path, count: int, told: str) -> None:
    data = class_folder(tmp_path / "data", {"cat": count, "dog": count})
    work = classifier_work(study(tmp_path, dataset=data), Storage(tmp_path / "storage", "classes"))
    assert work is not None
    (line,) = (line for line in work.words if "test images" in line)
    assert told in line
    assert "nan" not in line
