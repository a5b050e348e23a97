"""Captions and prompts above the tokenizer's limit (32 tokens of the embedded model), which are cut by the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.cli.main import main
from study.generate import draw_images
from study.preflight.checks import check_study
from study.preflight.notes import study_notes
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.scenes import scene
from trainables.__main__ import main as one_run
from trainables.errors import UserError
from trainables.run.execute import execute
from trainables.run_config import RunConfig

SCENE = "{subject} in the snow at night wearing a hat"
LONG = "a photo of {subject} in the snow with extraordinary mountains and magnificent trees"
LATE = "a magnificent photograph of extraordinary mountains with {subject}"
PHRASE = "a sks dog"
LONG_PHRASE = "a sks dog with an extraordinary embroidered collar"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study of five photographs with captions, three of which are trained on."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        path = tmp_path / "photos" / f"{number}.png"
        scene(number, 80).save(path)
        path.with_suffix(".txt").write_text(f"{PHRASE} in scene {number}")
    return write(tmp_path / "study.yaml")


def write(path: Path, *, prompts: list[str] | None = None, **subject: str) -> Path:
    """Both phases are judged on the same prompts, and on enough images to say nothing of their number."""
    prompts = prompts or ["{subject}", SCENE]
    content: dict[str, Any] = {
        "name": "long",
        "subjects": [
            {
                "name": "dog",
                "images": "photos",
                "instance_prompt": PHRASE,
                "class_prompt": "a dog",
                **subject,
            }
        ],
        "training": {"captions": "files"},
        "arms": {"base": {"method": "base"}, "lora": {"method": "lora"}},
        "search": {"trials": 1, "allow_overlap": True},
        "confirm": {"seeds": [1]},
        "evaluation": {
            "prompts": prompts,
            "images_per_prompt": -(-64 // len(prompts)),
            "num_class_images": 64,
            "search": {"prompts": prompts},
        },
    }
    path.write_text(yaml.safe_dump(content))
    return path


def found(file: Path) -> tuple[list[str], list[str]]:
    """Problems and notes of a study."""
    spec = load_study(file)
    return check_study(spec), study_notes(spec)


def caption(file: Path, number: int, text: str) -> Path:
    """Gives every photograph a caption of its own and the one of that number another; returns its file."""
    captions = sorted((file.parent / "photos").glob("*.txt"))
    captions[number].write_text(text)
    return captions[number]


def trained_on(file: Path) -> list[int]:
    """Numbers of the photographs that are not held out."""
    from trainables.data.subjects import training_captions

    names = training_captions(load_study(file).subjects[0])
    return sorted(int(Path(name).stem) for name in names)


def test_nothing_is_said_of_prompts_that_fit(file: Path) -> None:
    assert found(file) == ([], [])
    assert check_study(StudySpec.model_validate({**base(), "subjects": ["cat-1", "dog-1"]})) == []


def base() -> dict[str, Any]:
    return {"name": "embedded", "arms": {"lora": {"method": "lora"}}, "training": {"captions": "files"}}


def test_a_long_caption_is_a_note(file: Path) -> None:
    number = trained_on(file)[0]
    path = caption(
        file, number, f"{PHRASE} in the snow at night with many extraordinary and wonderful pine trees"
    )
    problems, (note,) = found(file)
    assert problems == []
    assert str(path) in note
    assert "reads 32" in note
    assert "trees" in note
    assert PHRASE not in note


def test_captions_of_held_out_photographs_do_not_matter(file: Path) -> None:
    held_out = ({0, 1, 2, 3, 4} - set(trained_on(file))).pop()
    caption(file, held_out, f"{PHRASE} in the snow " * 9)
    assert found(file) == ([], [])


def test_captions_that_become_one_are_refused(file: Path) -> None:
    first, second, *_ = trained_on(file)
    same = f"{PHRASE} in the snow at night with many extraordinary and wonderful pine "
    paths = [caption(file, first, same + "trees"), caption(file, second, same + "needles")]
    (problem,), notes = found(file)
    assert notes == []
    assert all(str(path) in problem for path in paths)
    caption(file, second, f"  {same}  trees")  # the same words are the same caption
    problems, notes = found(file)
    assert problems == []
    assert len(notes) == 2


@pytest.mark.parametrize("name", ["instance_prompt", "class_prompt"])
def test_an_instance_or_class_prompt_that_is_cut_is_refused(file: Path, name: str) -> None:
    (problem,), notes = found(write(file, **{name: LONG_PHRASE}))
    assert notes == []
    assert name in problem
    assert "reads 32" in problem
    assert "'collar' is lost" in problem


def test_evaluation_prompts(file: Path) -> None:
    problems, (note,) = found(write(file, prompts=["{subject}", LONG]))
    assert problems == []
    assert "evaluation prompt" in note
    assert "trees" in note
    (problem,), notes = found(write(file, prompts=["{subject}", LATE]))
    assert notes == []
    assert "sks dog' is lost" in problem
    assert "words of the subject" in problem
    (problem,), notes = found(write(file, prompts=["{subject}", LONG, f"{LONG} and flowers"]))
    assert notes == []
    assert "become one" in problem


def test_a_subject_that_is_named_twice_may_be_cut_once(file: Path) -> None:
    problems, notes = found(write(file, prompts=["{subject}", f"{LONG} beside {{subject}}"]))
    assert problems == []
    assert len(notes) == 1


def test_letters_that_the_model_does_not_know(file: Path) -> None:
    """An emoji is four tokens."""
    problems, (note,) = found(write(file, prompts=["{subject}", "{subject} " + "\N{CAT}" * 7 + " snow"]))
    assert problems == []
    assert "snow" in note


def test_prompts_that_differ_in_spaces_or_case_are_not_told_apart_by_length(file: Path) -> None:
    problems, _ = found(write(file, prompts=["{subject}", LONG, LONG.replace(" ", "  ")]))
    assert problems == []


def test_the_class_in_the_subjects_place(file: Path) -> None:
    """Images are compared with the prompts of the class, which may be the longer ones."""
    prompts = ["{subject}", "{subject} in the snow with extraordinary mountains"]
    file = write(file, prompts=prompts, class_prompt="a dog with an embroidered collar")
    problems, (note,) = found(file)
    assert problems == []
    assert "embroidered" in note


def test_the_commands_say_it(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import study.driver.launch

    def stop(*_: Any, **__: Any) -> None:
        raise UserError("here")

    monkeypatch.setattr(study.driver.launch, "launch", stop)
    write(file, prompts=["{subject}", LONG])
    storage = ["--storage", str(file.parent / "storage")]
    for words in (["validate"], ["plan", "--no-probe", *storage], ["launch", *storage]):
        with pytest.raises(SystemExit) as ended:
            main([words[0], str(file), *words[1:]])
        said = capsys.readouterr()
        assert ended.value.code == (2 if words[0] == "launch" else 0)
        assert said.err.count("note: ") == 1
        assert "note: " not in said.out
    write(file, prompts=["{subject}", LATE])
    for words in (["validate"], ["plan", "--no-probe", *storage], ["launch", *storage]):
        with pytest.raises(SystemExit) as ended:
            main([words[0], str(file), *words[1:]])
        assert ended.value.code == 2
        assert "words of the subject" in capsys.readouterr().err
    assert not (file.parent / "storage").exists()


def run_of(file: Path, **subject: str) -> dict[str, Any]:
    return {
        "method": "base",
        "subject": {
            "name": "dog",
            "images": str(file.parent / "photos"),
            "instance_prompt": PHRASE,
            "class_prompt": "a dog",
            **subject,
        },
        "evaluation": {
            "prompts": ["{subject}", LONG],
            "images_per_prompt": 1,
            "num_inference_steps": 1,
            "anchor_images": 2,
            "num_class_images": 2,
        },
        "cache_dir": str(file.parent / "cache"),
    }


def test_one_run_says_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file.with_name("run.yaml")
    path.write_text(yaml.safe_dump({**run_of(file, instance_prompt=LONG_PHRASE), "output_dir": "out"}))
    assert one_run([str(path)]) == 2
    assert "instance_prompt" in capsys.readouterr().err
    path.write_text(yaml.safe_dump({**run_of(file), "output_dir": "out"}))
    assert one_run([str(path)]) == 0
    assert "note: " in capsys.readouterr().err


def test_a_run_whose_model_was_not_here_before_fails_with_the_message(file: Path, tmp_path: Path) -> None:
    """`execute` looks by itself: a hub id that is fetched at the start cannot be looked at before."""
    config = RunConfig.model_validate(
        {**run_of(file, instance_prompt=LONG_PHRASE), "output_dir": str(tmp_path / "o")}
    )
    *_, last = execute(config)
    assert last.data["state"] == "FAIL"
    assert last.data["reason"] == "user_error"
    assert "instance_prompt" in last.data["message"]


def test_study_generate_says_it(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = Storage(tmp_path / "storage", "long")
    folder = storage.folder / "runs/confirm/base/0000-dog-s1"
    list(execute(RunConfig.model_validate({**run_of(file), "output_dir": str(folder)})))
    assert json.loads((folder / "result.json").read_text())["state"] == "COMPLETE"
    prompts = ["{subject}", LATE]
    paths = draw_images(storage, "confirm/base/0000-dog-s1", prompts, tmp_path / "out", count=1, steps=1)
    assert len(paths) == 2
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith("note: ")
    assert "sks dog' is lost" in note


def test_prompts_of_both_phases_are_looked_at(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    content["evaluation"]["search"]["prompts"] = ["{subject}", LONG]
    file.write_text(yaml.safe_dump(content))
    problems, notes = found(file)
    assert problems == []
    assert len(notes) == 1
    assert "magnificent trees" in notes[0]
