"""Bad input, one test each: the message says what is wrong, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from study.cli.main import main

Launch = Callable[..., str]


def study_dict(**changes: Any) -> dict[str, Any]:
    """A valid small study of the embedded model, with top-level keys replaced."""
    return {
        "name": "bad",
        "model": "embedded",
        "subjects": ["cat-1", "dog-1"],
        "arms": {"lora": {"method": "lora"}},
        "search": {"sampler": "random", "trials": 1, "seed": 0, "subjects": ["cat-1"], "seeds": [0]},
        "confirm": {"subjects": ["dog-1"], "seeds": [100]},
        "budget": {"max_train_steps": 2},
        **changes,
    }


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Launch:
    """Launches a study (a dict or YAML text) that must be refused, and returns what was printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def launch(study: dict[str, Any] | str, *arguments: str) -> str:
        file = tmp_path / "bad.yaml"
        file.write_text(study if isinstance(study, str) else yaml.safe_dump(study, sort_keys=False))
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as exit_:
            main(["launch", str(file), "--storage", str(tmp_path / "storage"), *arguments])
        printed = capsys.readouterr()
        assert exit_.value.code == 2, printed.err
        assert "Traceback" not in printed.err + printed.out
        assert sorted(tmp_path.rglob("*")) == before, "something was written"
        return printed.err

    return launch


def photos(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    for index in range(count):
        Image.new("RGB", (96, 80), (40 * index, 90, 30)).save(folder / f"{index}.png")
    return folder


def photo_subject(folder: Path) -> dict[str, Any]:
    return {"name": "mug", "images": str(folder), "instance_prompt": "a sks mug", "class_prompt": "a mug"}


def with_photos(folder: Path) -> dict[str, Any]:
    return study_dict(
        subjects=["cat-1", photo_subject(folder)], confirm={"subjects": ["mug"], "seeds": [100]}
    )


def test_malformed_yaml(refused: Launch) -> None:
    message = refused("name: bad\narms: {lora: [\n")
    assert "bad.yaml:" in message


def test_unknown_key_names_the_line_and_the_nearest(refused: Launch) -> None:
    text = yaml.safe_dump(study_dict(), sort_keys=False).replace("trials:", "trails:")
    message = refused(text)
    line = next(number for number, row in enumerate(text.splitlines(), 1) if "trails" in row)
    assert f"bad.yaml:{line}" in message
    assert "trails" in message
    assert "trials" in message.replace("trails", "")


def test_all_errors_at_once(refused: Launch) -> None:
    message = refused(
        study_dict(arms={"lora": {"method": "lroa"}}, budget={"max_train_steps": -1}, colour="red")
    )
    assert "lroa" in message
    assert "max_train_steps" in message
    assert "colour" in message


def test_misspelt_method(refused: Launch) -> None:
    message = refused(study_dict(arms={"a": {"method": "dreamboth"}}))
    assert "dreamboth" in message
    assert "dreambooth" in message


def test_empty_search_space(refused: Launch) -> None:
    space = {"r": {"type": "categorical", "choices": []}}
    message = refused(study_dict(arms={"a": {"method": "lora", "search_space": space}}))
    assert "choices" in message


def test_log_range_from_zero(refused: Launch) -> None:
    space = {"learning_rate": {"type": "float", "low": 0, "high": 1e-3, "log": True}}
    message = refused(study_dict(arms={"a": {"method": "lora", "search_space": space}}))
    assert "log" in message
    assert "learning_rate" in message


def test_duplicate_arm(refused: Launch) -> None:
    text = yaml.safe_dump(study_dict(), sort_keys=False).replace(
        "  lora:\n    method: lora\n", "  lora:\n    method: lora\n  lora:\n    method: dreambooth\n"
    )
    message = refused(text)
    assert "lora" in message
    assert "duplicate" in message.lower() or "twice" in message


def test_missing_image_folder(refused: Launch, tmp_path: Path) -> None:
    message = refused(with_photos(tmp_path / "nowhere"))
    assert "nowhere" in message


def test_empty_image_folder(refused: Launch, tmp_path: Path) -> None:
    message = refused(with_photos(photos(tmp_path / "empty", count=0)))
    assert "empty" in message


def test_corrupt_image_is_named(refused: Launch, tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 this is no picture")
    message = refused(with_photos(folder))
    assert "broken.jpg" in message


def test_missing_model_folder(refused: Launch) -> None:
    message = refused(study_dict(model={"path": "./no-such-model"}))
    assert "no-such-model" in message


def test_incompatible_resolution(refused: Launch) -> None:
    message = refused(study_dict(training={"resolution": 50}))
    assert "50" in message
    assert "multiple" in message


def test_wrong_metric(refused: Launch) -> None:
    study = study_dict()
    study["search"]["objective"] = "fidelty"
    message = refused(study)
    assert "fidelty" in message
    assert "fidelity" in message


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            {"maximize": "quality", "subject_to": {"class_kept": 0.8}},
            """class_kept: 0.8 is no bound; write for""",
        ),
        ({"maximize": "quality", "subject_to": {"class_kept": "> 0.8"}}, "'> 0.8' is no bound; write for"),
        (
            {"maximize": "quality", "subject_to": {"class_kept": ">= 0.8.1"}},
            "'>= 0.8.1' is no bound; write for",
        ),
        ({"maximize": "quality", "subject_to": {"class_kpt": ">= 0.8"}}, "did you mean 'class_kept'"),
        ({"maximize": "quality", "subject_to": ["class_kept >= 0.8"]}, "subject_to"),
        ({"maximize": "drift"}, "drift is better the lower it is; write minimize: drift"),
        ({"maximize": "diversity"}, "diversity has no better direction"),
        (
            {"subject_to": {"class_kept": ">= 0.8"}},
            "name one metric, as maximize: quality or minimize: drift",
        ),
        ({"maximise": "quality"}, "did you mean 'maximize'?"),
    ],
)
def test_malformed_objectives_and_bounds(refused: Launch, objective: dict[str, Any], words: str) -> None:
    study = study_dict()
    study["search"]["objective"] = objective
    text = yaml.safe_dump(study, sort_keys=False)
    message = refused(text)
    assert words in message
    rows = list(enumerate(text.splitlines(), 1))
    first = next(number for number, row in rows if "objective:" in row)
    last = next(number for number, row in rows if row.startswith("confirm"))
    named = [int(part) for part in re.findall(r"bad\.yaml:(\d+) search\.objective", message)]
    assert named, message
    assert all(first <= number < last for number in named), message


def test_subjects_of_both_phases(refused: Launch) -> None:
    study = study_dict()
    study["confirm"]["subjects"] = ["cat-1", "dog-1"]
    message = refused(study)
    assert "confirm.subjects: subject cat-1 is also searched on" in message
    assert "search.allow_overlap: true" in message


def test_no_free_disk(refused: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    message = refused(study_dict())
    assert "free" in message


def test_unreachable_mlflow(refused: Launch) -> None:
    message = refused(study_dict(tracking={"uri": f"http://127.0.0.1:{closed_port()}"}))
    assert "MLflow" in message
    assert "127.0.0.1" in message


def test_unreachable_ray(refused: Launch) -> None:
    message = refused(study_dict(), "--address", f"127.0.0.1:{closed_port()}")
    assert "Ray" in message
    assert "127.0.0.1" in message


def test_gpu_study_without_gpus(refused: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    message = refused(study_dict(resources={"gpus_per_run": 1}))
    assert "GPU" in message


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "white space", ""])
def test_name_with_path_characters(refused: Launch, name: str) -> None:
    message = refused(study_dict(name=name))
    assert "name" in message


def test_name_of_an_arm_with_path_characters(refused: Launch) -> None:
    message = refused(study_dict(arms={"../lora": {"method": "lora"}}))
    assert "../lora" in message


def test_unknown_study_lists_those_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "known").mkdir()
    (tmp_path / "known" / "study.json").write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        main(["status", "unknown", "--storage", str(tmp_path)])
    assert exit_.value.code == 2
    assert "known" in capsys.readouterr().err


def test_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["validate", str(tmp_path / "none.yaml")])
    assert exit_.value.code == 2
    assert "none.yaml" in capsys.readouterr().err


def closed_port() -> int:
    """A port on loopback on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
