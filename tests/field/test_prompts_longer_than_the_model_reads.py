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
from study.storage.run_key import RunKey
from tests.helpers.scenes import scene
from trainables.__main__ import main as one_run
from trainables.config.fields import ModelConfig
from trainables.errors import UserError
from trainables.models.folders import local_folder
from trainables.models.prompt_lengths import pipeline_reader
from trainables.run.execute import execute
from trainables.run.prompt_checks import find_cut_prompts_of_run
from trainables.run_config import RunConfig
from trainables.training.captions import caption_orders

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


def write(
    path: Path,
    *,
    prompts: list[str] | None = None,
    arms: dict[str, dict[str, Any]] | None = None,
    **subject: str,
) -> Path:
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
        "arms": {"base": {"method": "base"}, **(arms or {"lora": {"method": "lora"}})},
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


SHUFFLED = {"method": "lora", "shuffle_captions": True}
TAGS = ["in the snow", "with a red hat", "on a beach", "by a house", "at night", "near the sea", "in a city"]


def lost_in_orders(text: str, keep_tokens: int) -> list[set[str]]:
    """The tags that are not read to their end, of each order that is trained on; by tokens of what stands before."""
    folder = local_folder(ModelConfig())
    reader = pipeline_reader(folder) if folder is not None else None
    assert reader is not None
    lost = []
    for order in caption_orders(text, keep_tokens=keep_tokens):
        tags = order.split(", ")
        ends = [len(reader.ids(", ".join(tags[: number + 1]))) for number in range(len(tags))]
        lost.append({tag for tag, end in zip(tags, ends, strict=True) if end > reader.limit - 2})
    return lost


@pytest.mark.parametrize("keep_tokens", [0, 2])
def test_of_tags_in_random_order_all_that_are_lost_in_some_order_are_told(
    file: Path, keep_tokens: int
) -> None:
    number = trained_on(file)[0]
    text = ",".join([PHRASE, *TAGS])  # the orders have a blank more for each comma
    path = caption(file, number, text)
    (plain,) = found(write(file))[1]
    lost = lost_in_orders(text, keep_tokens)
    assert len(lost) == 8
    arms = {"one": SHUFFLED | ({"keep_tokens": keep_tokens} if keep_tokens else {})}
    problems, (note,) = found(write(file, arms=arms))
    assert problems == []
    assert str(path) in note
    assert f"{sum(map(bool, lost))} of the 8 orders of its tags (shuffle_captions) lose their end" in note
    told = set(note.split("one or another of '")[1].split("'; shorten it")[0].split(", "))
    assert told == set().union(*lost)
    assert told > {tag for tag in TAGS if tag in plain}, "more than the end of what is written"
    assert (PHRASE in told) == (not keep_tokens)
    both = found(write(file, arms=arms | {"two": {"method": "lora"}}))[1]
    assert sorted(text for text in both if "the caption " in text) == sorted([plain, note])


def test_captions_of_which_some_order_is_read_to_the_end_do_not_become_one(file: Path) -> None:
    first, second, *_ = trained_on(file)
    for number, end in ((first, "with a cat"), (second, "with a bird")):
        caption(file, number, ", ".join([PHRASE, *TAGS, end]))
    (problem,) = found(write(file))[0]
    assert "the captions" in problem
    problems, notes = found(write(file, arms={"one": SHUFFLED}))
    assert problems == []
    assert len(notes) == 2
    assert found(write(file, arms={"one": SHUFFLED | {"keep_tokens": 8}}))[0] == [problem], "no tag is moved"
    assert found(write(file, arms={"one": SHUFFLED, "two": {"method": "lora"}}))[0] == [problem]
    study = load_study(write(file, arms={"one": SHUFFLED}))
    for spec, said in ((study, []), (load_study(write(file)), [problem])):
        arm = next(name for name in spec.arms if name != "base")
        key = RunKey("confirm", arm, 0, "dog", 1)
        config = spec.run_config(key, {}, Storage(file.parent, "long"))
        assert find_cut_prompts_of_run(config).problems == said


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
