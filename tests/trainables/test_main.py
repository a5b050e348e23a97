"""``python -m trainables run.yaml``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.training_runs import MakeConfig
from trainables.__main__ import load_run, main
from trainables.errors import UserError

ROOT = Path(__file__).parents[2]


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_run_from_a_short_file(
    make_config: MakeConfig, photos: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "model").symlink_to(models / "model")
    config = make_config("lora")
    file = write(
        tmp_path / "short.yaml",
        {
            "method": "lora",
            "model": "model",
            "subject": {
                "name": "cat",
                "images": "photos",
                "instance_prompt": "a sks cat",
                "class_prompt": "a cat",
            },
            "training": {"max_train_steps": 2, "r": 2, "train_batch_size": 1},
            "evaluation": config.evaluation.model_dump(mode="json"),
        },
    )
    assert main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert "step 2/2" in printed
    assert "subject_fidelity" in printed
    assert (tmp_path / "runs" / "short" / "result.json").exists()
    assert main([str(file)]) == 0  # again: prints the result
    assert "COMPLETE" in capsys.readouterr().out


def test_a_failed_run_exits_with_1(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config("dreambooth", learning_rate=10.0, max_train_steps=30, mixed_precision="bf16")
    file = write(tmp_path / "run.yaml", config.model_dump(mode="json", exclude_unset=True))
    monkey = pytest.MonkeyPatch()
    monkey.setattr("trainables.run.execute.train", lambda *_: (_ for _ in ()).throw(RuntimeError("bad luck")))
    try:
        assert main([str(file)]) == 1
    finally:
        monkey.undo()
    assert "bad luck" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        ("method: lora\n  subject: x\n", ["run.yaml:2"]),
        ("- lora\n", ["mapping"]),
        ({"method": "lroa", "subject": "cat-1"}, ["run.yaml:1 method", "did you mean 'lora'"]),
        (
            {"method": "lora", "seed": -1, "subject": "cat-1", "training": {"rank": 4, "learning_rate": 0}},
            ["seed", "training.rank", "training.learning_rate"],
        ),
        (
            {"method": "dreambooth", "subject": {"name": "cat", "images": "nowhere"}},
            ["instance_prompt"],
        ),
        (
            {
                "method": "dreambooth",
                "model": "./no-model",
                "subject": {
                    "name": "cat",
                    "images": "nowhere",
                    "instance_prompt": "a sks cat",
                    "class_prompt": "a cat",
                },
                "training": {"mixed_precision": "fp16"},
                "device": "cpu",
            },
            ["no-model", "nowhere: no such folder", "fp16"],
        ),
    ],
)
def test_mistakes_exit_with_2_all_told_and_nothing_written(
    content: object, messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "run.yaml", content)
    assert main([str(file)]) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    for message in messages:
        assert message in errors
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_file_is_a_mistake(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none.yaml")]) == 2


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    file = write(
        tmp_path / "run.yaml",
        {
            "method": "base",
            "model": {"path": "org/model", "config": "./configurations"},
            "subject": {
                "name": "cat",
                "images": "a/b",
                "references": "/abs",
                "masks": "m",
                "instance_prompt": "a sks cat",
                "class_prompt": "a cat",
            },
            "evaluation": {"image_encoder": "encoder", "clip": "openai/clip-vit-base-patch32"},
            "output_dir": "out",
        },
    )
    config = load_run(file)
    assert config.model.path == "org/model"
    assert config.subject.images == str(tmp_path / "a/b")
    assert config.model.config == str(tmp_path / "configurations")
    assert config.subject.references == "/abs"
    assert config.subject.masks == str(tmp_path / "m")
    assert config.evaluation.image_encoder == str(tmp_path / "encoder")
    assert config.evaluation.clip == "openai/clip-vit-base-patch32"
    assert config.output_dir == str(tmp_path / "out")
    with pytest.raises(UserError, match="unknown key"):
        load_run(write(tmp_path / "bad.yaml", {"method": "base", "subject": "cat-1", "modle": "x"}))


def test_a_folder_with_the_result_of_another_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The result of one seed is not shown for that of another; of the same it is, and is said to be old."""
    run: dict[str, Any] = {
        "method": "base",
        "subject": "cat-1",
        "output_dir": "one",
        "evaluation": {
            "num_prompts": 2,
            "images_per_prompt": 1,
            "num_inference_steps": 1,
            "anchor_images": 2,
            "num_class_images": 2,
        },
    }
    assert main([str(write(tmp_path / "run.yaml", run))]) == 0
    capsys.readouterr()
    assert main([str(write(tmp_path / "run.yaml", run))]) == 0
    again = capsys.readouterr()
    assert "this run has ended before" in again.err
    assert "COMPLETE after 1 attempt:" in again.out
    assert main([str(write(tmp_path / "run.yaml", run | {"seed": 1}))]) == 2
    other = capsys.readouterr()
    assert "holds a run of another configuration" in other.err
    assert other.out == ""


def test_mistakes_are_found_without_torch(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"method": "lora", "subject": "cat-1", "training": {"rank": 1}})
    code = (
        "import sys; from trainables.__main__ import main; code = main([sys.argv[1]]); "
        "assert code == 2, code; assert 'torch' not in sys.modules, 'torch was loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
