"""Data sets in a study file: paths, identity, and what is refused beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.preflight.checks import check_study, shared_photographs
from study.preflight.notes import study_notes
from study.preflight.plan import make_plan
from study.remote.inputs import named_folders
from study.spec.loading import load_study, read_contents
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.command_line import run
from tests.helpers.image_folders import captioned
from tests.helpers.study_files import only, problems

FIXED = {"method": "lora", "search_space": "fixed"}


def content(**changes: Any) -> dict[str, Any]:
    return {
        "name": "sets",
        "subjects": [{"name": "my-cast", "dataset": {"path": "cast", "trigger": "ink style"}}],
        "arms": {"base": {"method": "base"}, "one": FIXED},
        "confirm": {"seeds": [100]},
        "budget": {"max_train_steps": 20},
        **changes,
    }


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


def test_paths_are_relative_to_the_study_file(tmp_path: Path) -> None:
    subjects = [{"name": "my-cast", "dataset": {"path": "cast", "references": "../held"}}]
    (subject,) = load_study(written(tmp_path, subjects=subjects)).subjects
    assert subject.folders == {
        "dataset.path": str(tmp_path / "cast"),
        "dataset.references": str(tmp_path.parent / "held"),
    }


def test_what_a_study_does_not_say_of_a_data_set_is_recorded(tmp_path: Path) -> None:
    record = load_study(written(tmp_path)).record()
    assert record["spec"]["subjects"][0]["dataset"] == {
        "path": str(tmp_path / "cast"),
        "references": None,
        "holdout": 0.2,
        "trigger": "ink style",
        "caption_column": "text",
        "group_column": None,
        "character_column": None,
    }


def test_content_and_not_the_path_is_the_identity_of_studies_and_runs(tmp_path: Path) -> None:
    def digests(name: str) -> tuple[str, str]:
        spec = load_study(tmp_path / name / "study.yaml")
        spec = spec.with_contents(read_contents(spec))
        (key,) = spec.confirm_keys("one", 0)
        return spec.digest(), spec.run_config(key, {}, Storage(tmp_path / "storage", "sets")).digest()

    for name in "ab":
        captioned(tmp_path / name / "cast")
        written(tmp_path / name)
    assert digests("a") == digests("b")
    contents = read_contents(load_study(tmp_path / "a" / "study.yaml"))
    assert set(contents["subjects.my-cast.dataset.path"]) == {f"{n:02}.png" for n in range(10)} | {
        "metadata.jsonl"
    }
    lines = tmp_path / "b" / "cast" / "metadata.jsonl"
    lines.write_text(lines.read_text().replace("picture 3", "picture three"))
    changed = digests("b")
    assert changed[0] != digests("a")[0]
    assert changed[1] != digests("a")[1]
    assert StudySpec.from_record(json.loads(json.dumps(load_study(tmp_path / "a" / "study.yaml").record())))


def test_runs_name_the_folders_that_are_shipped(tmp_path: Path) -> None:
    captioned(tmp_path / "cast")
    spec = load_study(written(tmp_path))
    (key,) = spec.confirm_keys("one", 0)
    config = spec.run_config(key, {}, Storage(tmp_path / "storage", "sets"))
    assert str(tmp_path / "cast") in named_folders(config)


def test_a_sound_study_has_no_problems_and_its_notes_no_words_of_a_subject(tmp_path: Path) -> None:
    captioned(tmp_path / "cast", 20)
    spec = load_study(written(tmp_path))
    assert check_study(spec) == []
    (note,) = [note for note in study_notes(spec) if "my-cast" in note]
    assert "the embedded CLIP does not find its captions" in note  # they are of no picture in particular


def test_a_plan_tells_the_split(tmp_path: Path) -> None:
    captioned(tmp_path / "cast", 12, take=[n // 2 for n in range(12)], who=list("abc") * 4)
    options = {"path": "cast", "trigger": "ink style", "group_column": "take", "character_column": "who"}
    subjects = [{"name": "my-cast", "dataset": options}]
    plan = make_plan(load_study(written(tmp_path, subjects=subjects)), Storage(tmp_path / "storage", "sets"))
    (line,) = plan.data_sets
    assert line == (
        "data set 'my-cast': 10 images to train on, 2 held out (17%); 'ink style' is put before captions; 6 groups; "
        "3 characters"
    )
    assert line in plan.summary()
    plain = make_plan(
        load_study(written(tmp_path, subjects=["emoji"])), Storage(tmp_path / "storage", "sets")
    )
    assert "'emoji style' is put before captions" in plain.data_sets[0]


@pytest.mark.parametrize("name", ["sprite-cast", "emoji"])
def test_what_comes_with_the_project_is_a_name(tmp_path: Path, name: str) -> None:
    spec = load_study(written(tmp_path, subjects=[name]))
    assert check_study(spec) == []
    assert spec.subjects[0].is_data_set
    assert "dataset" not in spec.record()["spec"]["subjects"][0]


def test_problems_of_a_folder_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captioned(tmp_path / "cast", 3)
    (tmp_path / "cast" / "02.png").unlink()
    code, _, error = run(capsys, "validate", str(written(tmp_path)))
    assert code == 2
    assert "Traceback" not in error
    assert "data set 'my-cast': " in error
    assert "no such image: metadata.jsonl line 3 (02.png)" in error


def test_a_misspelt_option_is_told_with_its_line(tmp_path: Path) -> None:
    subjects = [{"name": "my-cast", "dataset": {"path": "cast", "triger": "x"}}]
    message = only(tmp_path, content(subjects=subjects))
    assert "study.yaml:" in message
    assert "triger" in message
    assert "trigger" in message.replace("triger", "")


def test_a_data_set_is_no_subject_as_well(tmp_path: Path) -> None:
    subjects = [
        {"name": "my-cast", "dataset": {"path": "cast"}, "images": "photos", "instance_prompt": "a sks cat"}
    ]
    message = only(tmp_path, content(subjects=subjects))
    assert "takes a subject's place, and has images, instance_prompt too; remove them" in message


def test_subjects_and_data_sets_are_not_mixed(tmp_path: Path) -> None:
    message = only(tmp_path, content(subjects=["sprite-cast", "cat-1"]))
    assert "subjects: mixes data sets (sprite-cast) and subjects (cat-1)" in message
    assert "write a study for each kind" in message


@pytest.mark.parametrize("method", ["textual_inversion", "custom_diffusion", "pivotal_tuning"])
def test_methods_that_teach_a_word_are_refused(tmp_path: Path, method: str) -> None:
    arms = {"one": {"method": method, "search_space": "fixed"}}
    message = only(tmp_path, content(arms=arms))
    assert f"arms.one.method: {method} teaches a word for one subject" in message
    assert "take one of lora, dreambooth, dreambooth_lora, hypernetwork, text_to_image" in message


def test_prior_preservation_is_refused_where_it_is_a_default_too(tmp_path: Path) -> None:
    arms = {"full": {"method": "dreambooth", "search_space": "fixed"}}
    message = only(tmp_path, content(arms=arms))
    assert (
        "arms.full: with_prior_preservation: true (the default of dreambooth) draws images of a subject's class"
        in message
    )
    assert "set with_prior_preservation: false" in message
    arms["full"]["with_prior_preservation"] = True
    assert "arms.full.with_prior_preservation: with_prior_preservation: true draws" in only(
        tmp_path, content(arms=arms)
    )
    arms["full"]["with_prior_preservation"] = False
    assert load_study(written(tmp_path, arms=arms)).arms["full"].method == "dreambooth"


def test_masks_are_refused_wherever_they_are_asked_for(tmp_path: Path) -> None:
    message = only(tmp_path, content(training={"masked_loss": True}))
    assert "training.masked_loss: masked_loss: true needs masks of the images, and data set " in message
    space = {
        "method": "lora",
        "search_space": {"masked_loss": {"type": "categorical", "choices": [False, True]}},
    }
    found = problems(tmp_path, content(arms={"one": space}, search={"trials": 1, "allow_overlap": True}))
    assert any(
        "arms.one.search_space.masked_loss: masked_loss: true needs masks" in message for message in found
    )


def test_captions_are_those_of_the_files(tmp_path: Path) -> None:
    message = only(tmp_path, content(training={"captions": "instance_prompt"}))
    assert (
        "training.captions: captions: instance_prompt, but a data set is trained on the captions" in message
    )
    assert "is implied" in message
    assert load_study(written(tmp_path, training={"captions": "files"}))


def test_buckets_are_for_data_sets(tmp_path: Path) -> None:
    training = {"captions": "files", "aspect_ratio_buckets": True}
    assert load_study(written(tmp_path, training=training))
    message = only(tmp_path, content(training=training, subjects=["cat-1", "dog-1"]))
    assert (
        "training.aspect_ratio_buckets: aspect_ratio_buckets: true keeps the ratio of a data set's images"
        in message
    )


def test_search_and_confirm_share_no_picture_of_a_data_set(tmp_path: Path) -> None:
    for name in ("a", "b"):
        captioned(tmp_path / name, 12)
    subjects = [{"name": name, "dataset": {"path": name}} for name in ("a", "b")]
    spec = load_study(
        written(tmp_path, subjects=subjects, arms={"one": {"method": "lora"}}, search={"trials": 1})
    )
    found = shared_photographs(spec)
    assert len(found) == 12 + 1  # and the captions
    assert "00.png is also" in found[0]
    same = [{"name": name, "dataset": {"path": "a"}} for name in ("a", "b")]
    message = only(tmp_path, content(subjects=same, arms={"one": {"method": "lora"}}, search={"trials": 1}))
    assert "b has photographs of a, which is searched on" in message


def test_one_data_set_in_both_phases_is_to_be_asked_for(tmp_path: Path) -> None:
    searched = {"arms": {"one": {"method": "text_to_image"}}, "subjects": ["sprite-cast"]}
    message = only(tmp_path, content(**searched))
    assert "the study has 1 data set, but search and confirm together need at least 2" in message
    assert "search.allow_overlap: true" in message
    both = {"search": {"subjects": ["sprite-cast"]}, "confirm": {"subjects": ["sprite-cast"], "seeds": [100]}}
    assert "data set sprite-cast is also searched on" in only(tmp_path, content(**searched, **both))
    assert load_study(written(tmp_path, **searched, search={"allow_overlap": True})).confirm.subjects == (
        "sprite-cast",
    )


def test_the_same_prompts_of_a_data_set_are_not_stated_for_both_phases(tmp_path: Path) -> None:
    searched = {
        "arms": {"one": {"method": "text_to_image"}},
        "subjects": ["sprite-cast"],
        "search": {"allow_overlap": True},
    }
    own = ["{subject}a cat in the snow", "{subject}a dog"]
    again = ["{subject}a frog", "{subject} A dog"]
    message = only(tmp_path, content(**searched, evaluation={"prompts": own, "search": {"prompts": again}}))
    assert "evaluation.search.prompts: '{subject}a dog' would judge both search and confirm" in message
    assert "allow_overlap" not in message, "it allows the data set, and not the prompts"
    for evaluation in (
        {"prompts": own, "search": {"prompts": again[:1]}},
        {"prompts": own, "search": {"prompts": again, "num_prompts": 1}},
        {"prompts": own},
    ):
        load_study(written(tmp_path, **searched, evaluation=evaluation))
    nothing_searched = {"arms": {"one": FIXED}, "evaluation": {"prompts": own, "search": {"prompts": own}}}
    load_study(written(tmp_path, **{**searched, **nothing_searched}))


def test_prompts_for_subjects_name_no_characters(tmp_path: Path) -> None:
    asking = ["{subject} beside {character}", "{subject} in the snow"]
    for evaluation, place in (
        ({"prompts": asking}, "evaluation.prompts"),
        ({"search": {"prompts": asking}}, "evaluation.search.prompts"),
    ):
        changes = {"subjects": ["cat-1"], "arms": {"one": FIXED}, "evaluation": evaluation}
        message = only(tmp_path, content(**changes))
        assert f" {place}: " in message
        assert "asks for a character of a data set" in message
