"""Data sets as runs see them: leaks, prompts that are cut off, what is refused, and their files in a run's identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import ImageOps

from tests.helpers.image_folders import captioned, picture, write_lines, write_pictures
from trainables.config.fields import EvaluationConfig, ModelConfig, SubjectConfig, TrainingConfig
from trainables.data.group_split import hold_out_groups
from trainables.data.path_map import set_path_map
from trainables.errors import InputsChanged
from trainables.methods.data_set_fit import check_data_set
from trainables.run.checks import check_run
from trainables.run.contents import changes, contents_of_run, digests, sealed
from trainables.run.data_set import data_set_notes, leaks
from trainables.run.held_out_checks import templates_asked
from trainables.run.prompt_checks import find_broken_words, find_cut_prompts, find_cut_prompts_of_run
from trainables.run_config import RunConfig


def subject_of(path: Path, **options: object) -> SubjectConfig:
    return SubjectConfig.model_validate({"name": "my-cast", "dataset": {"path": str(path), **options}})


def run_of(folder: Path, subject: SubjectConfig, method: str = "lora", **training: Any) -> RunConfig:
    return RunConfig(
        method=method,
        subject=subject,
        training=training,
        output_dir=str(folder / "run"),
        cache_dir=str(folder / "cache"),
    )


# Leaks


def test_near_copies_over_the_split_are_told_in_one_message(tmp_path: Path) -> None:
    captioned(tmp_path, 12)
    held = sorted(hold_out_groups([f"{n:02}.png" for n in range(12)], 0.2))
    trained = [f"{n:02}.png" for n in range(12) if f"{n:02}.png" not in held]
    assert leaks(subject_of(tmp_path)) == []
    for number, name in enumerate(held):
        ImageOps.mirror(picture(int(trained[number][:2]))).save(tmp_path / name)
    (message,) = leaks(subject_of(tmp_path))
    assert message.startswith(
        "data set 'my-cast': nearly the same picture is trained on and held out (mirrored"
    )
    assert f"{held[0]} (as {trained[0]})" in message
    assert "dataset.group_column" in message


def test_pictures_that_are_there_twice_are_noted(tmp_path: Path) -> None:
    captioned(tmp_path, 10)
    held = hold_out_groups([f"{n:02}.png" for n in range(10)], 0.2)
    one, other = [f"{n:02}.png" for n in range(10) if f"{n:02}.png" not in held][:2]
    ImageOps.mirror(picture(int(one[:2]))).save(tmp_path / other)
    notes = data_set_notes(subject_of(tmp_path), 64)
    assert len(notes) == 1
    assert notes[0].startswith(f"data set 'my-cast': {one} and {other} are nearly the same picture")


def test_notes_on_hundreds_of_images_stay_short(tmp_path: Path) -> None:
    captioned(tmp_path, 30)
    notes = data_set_notes(subject_of(tmp_path), 128)
    assert len(notes) == 1
    assert "and 22 more; take larger" in notes[0]


def test_what_comes_with_the_project_has_no_faults_of_this_kind() -> None:
    assert leaks(SubjectConfig(name="emoji")) == []
    assert data_set_notes(SubjectConfig(name="sprite-cast"), 64) == []


# Prompts


def test_captions_that_are_cut_off_are_noted_and_two_that_become_one_are_refused(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, [f"{n:02}.png" for n in range(6)])
    long = "a cat on a beach " * 9
    write_lines(tmp_path, [{"file_name": name, "text": f"{long} {n}"} for n, name in enumerate(names)])
    found = find_cut_prompts(ModelConfig(), subject_of(tmp_path), EvaluationConfig(), "instance_prompt")
    assert any(
        "the captions" in problem and "differ only beyond the 32 tokens" in problem
        for problem in found.problems
    )
    lines = [{"file_name": name, "text": f"number {n} {long}"} for n, name in enumerate(names)]
    write_lines(tmp_path, lines)
    found = find_cut_prompts(ModelConfig(), subject_of(tmp_path), EvaluationConfig(), "instance_prompt")
    assert found.problems == []
    captions = [note for note in found.notes if "the caption " in note]
    assert len(captions) == 5
    assert "tokens and 'embedded' reads 32" in captions[0]
    prompts = [note for note in found.notes if "the evaluation prompt" in note]
    assert prompts, "held-out captions are what a data set is judged by"


def test_of_hundreds_of_captions_that_are_cut_off_some_are_told(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, [f"{n:02}.png" for n in range(40)])
    write_lines(
        tmp_path, [{"file_name": name, "text": f"{n} " + "cat " * 60} for n, name in enumerate(names)]
    )
    found = find_cut_prompts(ModelConfig(), subject_of(tmp_path), EvaluationConfig(), "instance_prompt")
    assert any("and 12 more captions are cut off so" in note for note in found.notes)


def test_the_trigger_stays_in_front_of_tags_in_random_order(tmp_path: Path) -> None:
    captioned(tmp_path, 5, text=[f"a, b, c, d, {n}" + ", in the snow" * 9 for n in range(5)])
    subject = subject_of(tmp_path, trigger="ink style of old")
    training = TrainingConfig(captions="files", shuffle_captions=True)
    found = find_cut_prompts(ModelConfig(), subject, EvaluationConfig(), "files", training)
    assert found.problems == []
    notes = [note for note in found.notes if "the caption " in note]
    assert len(notes) == 4
    for note in notes:
        assert "of the 8 orders of its tags (shuffle_captions) lose their end" in note
        assert "in the snow" in note
        assert "of old" not in note


def test_only_what_a_data_set_is_asked_for_is_read(tmp_path: Path) -> None:
    captioned(tmp_path, 60, text=[f"picture {n}, " + "soft " * 40 for n in range(60)])
    subject = subject_of(tmp_path, holdout=0.5)

    def named(evaluation: EvaluationConfig) -> list[str]:
        found = find_cut_prompts(ModelConfig(), subject, evaluation, "instance_prompt")
        told = [*found.problems, *found.notes]
        assert all(one.startswith("data set 'my-cast': ") for one in told)
        return sorted(
            {one.split("{subject}")[1].split(",")[0] for one in told if "the evaluation prompt" in one}
        )

    def captions(evaluation: EvaluationConfig) -> list[str]:
        asked = templates_asked(subject, evaluation)
        return sorted(one.removeprefix("{subject}").split(",")[0] for templates in asked for one in templates)

    few = EvaluationConfig(num_prompts=3)
    assert len(captions(few)) == 3
    assert named(few) == captions(few)
    choice = {"restore_best": "clip_i", "at": [0.5], "num_prompts": 3}
    restoring = EvaluationConfig(**choice)
    assert len(captions(restoring)) == 6, "three that judge, and three that choose"
    assert named(restoring) == captions(restoring)
    own = EvaluationConfig(prompts=("{subject}a cat",), num_prompts=1)
    assert named(own) == []
    long = "{subject}a cat, " + "soft " * 40
    assert named(EvaluationConfig(prompts=(long,))) == ["a cat"]
    assert named(EvaluationConfig(**choice, prompts=("{subject}a cat",), restore_best_prompts=(long,))) == [
        "a cat"
    ]


@pytest.mark.parametrize("name", ["sprite-cast", "emoji"])
def test_prompts_of_what_comes_with_the_project_are_read_to_the_end(tmp_path: Path, name: str) -> None:
    found = find_cut_prompts_of_run(run_of(tmp_path, SubjectConfig(name=name)))
    assert (found.problems, found.notes) == ([], [])


def test_a_trigger_may_be_common_words(tmp_path: Path) -> None:
    assert (
        find_broken_words(ModelConfig(path=str(tmp_path)), subject_of(tmp_path, trigger="qwxyz style")) == []
    )


# What is refused


def test_methods_and_fields_of_subjects_are_refused() -> None:
    cast, cat = SubjectConfig(name="sprite-cast"), SubjectConfig(name="cat-1")
    usual = TrainingConfig()
    assert check_data_set("lora", usual, cast) == []
    assert check_data_set("base", TrainingConfig(masked_loss=True), cast) == []
    for method in ("textual_inversion", "custom_diffusion", "pivotal_tuning"):
        (message,) = check_data_set(method, usual, cast)
        assert message.startswith(f"{method} teaches a word for one subject")
        assert check_data_set(method, usual, cat) == []
    prior = TrainingConfig(with_prior_preservation=True, masked_loss=True)
    assert [message.partition(" ")[0] for message in check_data_set("lora", prior, cast)] == [
        "with_prior_preservation:",
        "masked_loss:",
    ]
    assert check_data_set("lora", prior, cat) == []
    (message,) = check_data_set("lora", TrainingConfig(aspect_ratio_buckets=True), cat)
    assert "those of subjects are squares" in message


def test_a_run_is_checked_before_it_begins(tmp_path: Path) -> None:
    captioned(tmp_path / "few", 8)
    (message,) = check_run(run_of(tmp_path, subject_of(tmp_path / "few")))
    assert "the confirm phase needs at least 2 distinct held-out captions" in message
    captioned(tmp_path / "cast", 20)
    subject = subject_of(tmp_path / "cast")
    assert check_run(run_of(tmp_path, subject)) == []
    (message,) = check_run(run_of(tmp_path, subject, "dreambooth"))
    assert "with_prior_preservation: true draws images of a subject's class" in message
    (tmp_path / "cast" / "metadata.jsonl").unlink()
    assert any("images without a caption" in problem for problem in check_run(run_of(tmp_path, subject)))


# Identity


def test_images_captions_and_metadata_count_and_the_path_does_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        captioned(tmp_path / name, 4)
        captioned(tmp_path / f"held-{name}", 2)
    runs = [
        sealed(run_of(tmp_path, subject_of(tmp_path / name, references=str(tmp_path / f"held-{name}"))))
        for name in ("a", "b")
    ]
    assert set(runs[0].contents) == {
        *("subject.dataset.path", "subject.dataset.references", "model"),
        *("evaluation.image_encoder", "evaluation.clip"),
    }
    assert runs[0].digest() == runs[1].digest()
    other = subject_of(tmp_path / "a", references=str(tmp_path / "held-a"), trigger="ink style")
    assert sealed(run_of(tmp_path, other)).digest() != runs[0].digest()
    (tmp_path / "a" / "metadata.jsonl").write_text((tmp_path / "b" / "metadata.jsonl").read_text() + "\n")
    with pytest.raises(
        InputsChanged, match=r"subject\.dataset\.path .* does not hold .*: changed metadata\.jsonl"
    ):
        sealed(runs[0])


def test_text_files_and_sub_folders_count(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["1.png", "sub/2.png", "sub/3.png"])
    for name in ("1", "sub/2", "sub/3"):
        (tmp_path / f"{name}.txt").write_text(name)
    before = contents_of_run(run_of(tmp_path, subject_of(tmp_path)))
    held = before["subject.dataset.path"]
    assert set(held) == {"1.png", "1.txt", "sub/2.png", "sub/2.txt", "sub/3.png", "sub/3.txt"}
    (tmp_path / "sub" / "2.txt").write_text("other words")
    after = contents_of_run(run_of(tmp_path, subject_of(tmp_path)))
    assert changes(held, after["subject.dataset.path"]) == "changed sub/2.txt"
    assert digests(before) != digests(after)


def test_folders_are_found_where_they_were_copied_to(tmp_path: Path) -> None:
    captioned(tmp_path / "copy", 20)
    subject = subject_of(tmp_path / "not-here")
    try:
        set_path_map({str(tmp_path / "not-here"): str(tmp_path / "copy")})
        assert check_run(run_of(tmp_path, subject)) == []
        assert "subject.dataset.path" in contents_of_run(run_of(tmp_path, subject))
    finally:
        set_path_map({})


def test_a_record_of_a_data_set_comes_back(tmp_path: Path) -> None:
    config = run_of(tmp_path, subject_of(tmp_path, trigger="ink style", group_column="take"))
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.digest() == config.digest()
    shipped = run_of(tmp_path, SubjectConfig(name="emoji"))
    assert RunConfig.model_validate_json(shipped.model_dump_json()) == shipped
    assert "dataset" not in shipped.model_dump(mode="json")["subject"]
