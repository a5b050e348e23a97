"""What is said before a launch of how data sets will be judged, and how much there is to draw of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.preflight.checks import check_study, data_notes, evaluation_notes
from study.preflight.data_set_checks import prompt_count
from study.preflight.workload import images_of
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.command_line import run
from tests.helpers.image_folders import captioned, write_lines, write_pictures
from trainables.data.subjects import resolve_subject
from trainables.embedded import evaluation_prompts
from trainables.evaluation.choice import evaluations_of
from trainables.evaluation.protocol import make_protocol
from trainables.run.checks import check_run
from trainables.run.held_out_checks import templates_asked


def spec(subject: Any, **changes: Any) -> StudySpec:
    content = {
        "name": "sets",
        "subjects": [subject],
        "arms": {"base": {"method": "base"}, "one": {"method": "text_to_image"}},
        "confirm": {"seeds": [100]},
        "budget": {"max_train_steps": 20},
        "search": {"trials": 2, "allow_overlap": True},
        **changes,
    }
    return StudySpec.model_validate(content)


def searched(**changes: Any) -> dict[str, Any]:
    return {"trials": 2, "allow_overlap": True, **changes}


def folder(path: Path, count: int = 30, **dataset: Any) -> dict[str, Any]:
    captioned(path, count)
    return {"name": "mine", "dataset": {"path": str(path), "trigger": "ink", **dataset}}


def test_quality_of_emoji_is_refused_as_what_a_search_goes_by() -> None:
    (problem,) = check_study(spec("emoji"))
    assert problem.startswith("data set 'emoji': the embedded CLIP does not find its captions")
    assert "quality would have no value in any run: it cannot be search.objective" in problem
    assert "take subject_fidelity_scaled, or dataset_kid with 50 images" in problem
    for metric in ("subject_fidelity_scaled", "dataset_kid", "held_out_loss"):
        search = {"num_prompts": 13, "images_per_prompt": 4}
        sound = spec("emoji", search=searched(objective=metric), evaluation={"search": search})
        assert check_study(sound) == []
        assert any("ranked by the likeness" in note for note in evaluation_notes(sound))
    bound = {"maximize": "subject_fidelity_scaled", "subject_to": {"failed_images": "<= 0.5"}}
    (problem,) = check_study(spec("emoji", search=searched(objective=bound)))
    assert "failed_images would have no value" in problem


def test_quality_of_the_cast_is_known_to_the_embedded_clip_in_both_phases_and_halves() -> None:
    for choice in ({}, {"restore_best": "quality", "at": [0.5]}):
        cast = spec("sprite-cast", evaluation=choice)
        assert check_study(cast) == []
        assert not any("CLIP" in note for note in evaluation_notes(cast))


def test_where_nothing_is_searched_what_is_unknown_is_a_note() -> None:
    fixed = {"one": {"method": "text_to_image", "search_space": "fixed"}}
    emoji = spec("emoji", arms=fixed, search={}, confirm={"seeds": [100], "subjects": ["emoji"]})
    assert check_study(emoji) == []
    assert any("the embedded CLIP does not find its captions" in note for note in evaluation_notes(emoji))
    # Another CLIP is not here, or is not small: it is asked when runs load it.
    unknown = emoji.model_copy(
        update={"evaluation": emoji.evaluation.model_copy(update={"clip": "openai/clip"})}
    )
    assert not any("CLIP" in note for note in evaluation_notes(unknown))


def test_a_step_is_not_chosen_by_what_is_unknown() -> None:
    evaluation = {"restore_best": "quality", "at": [0.5]}
    (problem,) = check_study(
        spec("emoji", search=searched(objective="subject_fidelity_scaled"), evaluation=evaluation)
    )
    assert "it cannot be evaluation.restore_best; take subject_fidelity_scaled, or dataset_kid" in problem
    evaluation["restore_best"] = "held_out_loss"
    assert check_study(spec("emoji", search=searched(objective="clip_i"), evaluation=evaluation)) == []


def test_distances_need_images_on_both_sides() -> None:
    (problem,) = check_study(spec("emoji", search=searched(objective="dataset_kid")))
    assert "evaluation.search draws 16 of 8 captions: raise num_prompts or images_per_prompt" in problem
    evaluation = {"restore_best": "dataset_cmmd", "at": [0.5], "search": {"num_prompts": 13}}
    problems = check_study(spec("sprite-cast", evaluation=evaluation))
    assert problems
    assert all("needs at least 50 held-out images" in problem for problem in problems)
    # A data set that comes with the project takes no dataset.holdout.
    assert all(problem.endswith("; 32 choose the step: take subject_fidelity_scaled") for problem in problems)
    evaluation = {
        "restore_best": "dataset_kid",
        "at": [0.5],
        "images_between": 20,
        "search": {"num_prompts": 13},
    }
    between = check_study(spec("emoji", search=searched(objective="clip_i"), evaluation=evaluation))
    assert between
    assert all("draws 20 of" in problem and "evaluation.images_between" in problem for problem in between)


def test_distances_that_restoring_the_best_step_takes_away_are_noted(tmp_path: Path) -> None:
    many = {"num_prompts": 13}
    evaluation = {**many, "restore_best": "held_out_loss", "at": [0.5]}
    (note,) = (note for note in evaluation_notes(spec("sprite-cast", evaluation=evaluation)) if "KID" in note)
    assert "evaluation.restore_best leaves 32 of its 64 held-out images to judge the result" in note
    assert note.endswith("its runs have no KID and no CMMD: leave it out")
    mine = folder(tmp_path / "mine", 120, holdout=0.5)
    (note,) = (note for note in evaluation_notes(spec(mine, evaluation=evaluation)) if "KID" in note)
    assert note.endswith("leave it out, or hold out more (dataset.holdout)")
    for kept in (
        spec("sprite-cast", evaluation=many),
        spec("emoji", evaluation=evaluation),  # each half has 50
        spec(
            "sprite-cast", evaluation={**evaluation, "num_prompts": 2}
        ),  # too few are drawn, with and without
    ):
        assert not any("KID" in note for note in evaluation_notes(kept))


def test_distances_need_samples_that_are_independent() -> None:
    """Two captions of 25 images each are two samples: their interval held the truth in a third of simulated studies."""
    evaluation = {"search": {"num_prompts": 2, "images_per_prompt": 25}}
    (problem,) = check_study(spec("emoji", search=searched(objective="dataset_kid"), evaluation=evaluation))
    assert "needs at least 8 captions that are drawn, and as many held-out groups or captions" in problem
    assert "there are 2: raise num_prompts" in problem


def test_a_worst_character_needs_characters(tmp_path: Path) -> None:
    assert check_study(spec("sprite-cast", search=searched(objective="worst_character"))) == []
    problems = check_study(spec("emoji", search=searched(objective="worst_character")))
    assert problems == [
        "data set 'emoji': worst_character as search.objective needs characters, and none is named that is on two "
        "real images, one of them held out; take subject_fidelity_scaled"
    ]


def cast_with(folder: Path, lone: str) -> StudySpec:
    """A study on a cast of two whose held-out images show a third character, on one image alone."""
    captioned(folder / "train", 8, who=["momo", "zog"] * 4)
    names = write_pictures(folder / "held", [f"{n}.png" for n in range(9)], first=50)
    who = [*("momo", "zog") * 4, lone]
    rows = [{"file_name": name, "text": f"{who[n]} at {n}", "who": who[n]} for n, name in enumerate(names)]
    write_lines(folder / "held", rows)
    dataset = {"path": str(folder / "train"), "references": str(folder / "held"), "character_column": "who"}
    return spec({"name": "mine", "dataset": dataset}, evaluation={"num_prompts": 5})


def test_a_character_on_one_image_alone_is_noted(tmp_path: Path) -> None:
    assert data_notes(cast_with(tmp_path / "sound", "momo")) == []
    (note,) = data_notes(cast_with(tmp_path / "lone", "rex"))
    assert note.startswith(
        "data set 'mine': 'rex' is on one held-out image of those that judge, and on none that is"
    )
    assert "compared with all held-out images" in note
    assert "add images of it" in note


def test_worst_character_goes_by_characters_that_are_on_two_images(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "train", [f"{n}.png" for n in range(4)])
    held = write_pictures(tmp_path / "held", [f"{n}.png" for n in range(8)], first=50)
    for folder, files, who in (("train", names, "nobody"), ("held", held, "rex-{}")):
        rows = [{"file_name": name, "text": f"at {name}", "who": who.format(name)} for name in files]
        write_lines(tmp_path / folder, rows)
    dataset = {
        "path": str(tmp_path / "train"),
        "references": str(tmp_path / "held"),
        "character_column": "who",
    }
    searched_by = searched(objective="worst_character")
    problems = check_study(spec({"name": "mine", "dataset": dataset}, search=searched_by))
    assert any("needs characters, and none is named that is on two real images" in text for text in problems)


def test_captions_that_are_trained_on_and_held_out_are_noted(tmp_path: Path) -> None:
    captioned(tmp_path / "train", 6)
    names = write_pictures(tmp_path / "held", [f"{n}.png" for n in range(6)], first=50)
    texts = ["Picture 1 -  SOFT.", "picture 2, soft", *(f"held out {n}" for n in range(4))]
    write_lines(tmp_path / "held", [{"file_name": n, "text": t} for n, t in zip(names, texts, strict=True)])
    dataset = {"path": str(tmp_path / "train"), "references": str(tmp_path / "held")}
    study = spec({"name": "mine", "dataset": dataset})
    (note,) = data_notes(study)
    assert note.startswith(
        "data set 'mine': 2 of 6 held-out captions are also trained on, word for word, for example"
    )
    assert "'Picture 1 - SOFT.' (0.png, trained on as 01.png)" in note
    assert not any("word for word" in problem for problem in check_study(study))


@pytest.mark.parametrize(
    ("search", "place"),
    [
        ({"objective": "worst_character"}, "search.objective"),
        ({"objectives": ["worst_character", "clip_i"]}, "search.objectives"),
        (
            {"objective": {"maximize": "clip_i", "subject_to": {"worst_character": ">= 0.1"}}},
            "search.objective.subject_to",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_with_the_field_that_names_it(
    search: dict[str, Any], place: str
) -> None:
    (problem,) = check_study(spec("emoji", search=searched(**search)))
    assert f"worst_character as {place} needs characters" in problem


@pytest.mark.parametrize("metric", ["dataset_kid", "dataset_cmmd", "worst_character"])
def test_measures_of_data_sets_decide_no_study_of_subjects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metric: str
) -> None:
    content = {
        "name": "plain",
        "subjects": ["cat-1", "dog-1"],
        "arms": {"one": {"method": "lora"}},
        "search": {"objective": metric},
        "evaluation": {"restore_best": metric, "at": [0.5]},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    code, _, errors = run(capsys, "validate", str(path))
    assert code == 2
    assert errors.count(f"{metric} is measured of data sets alone, and this is a study of subjects") == 2
    assert "search.objective" in errors
    assert "evaluation.restore_best" in errors


def test_too_few_held_out_captions_are_told_before_anything_starts(tmp_path: Path) -> None:
    small = spec(folder(tmp_path / "few", 10, holdout=0.2), search=searched(objective="clip_i"))
    problems = [problem for problem in check_study(small) if "held-out captions" in problem]
    assert len(problems) == 2
    assert "the search phase needs at least 2 distinct held-out captions" in problems[0]
    key = small.confirm_keys("one", 0)[0]
    config = small.run_config(key, {}, Storage(tmp_path, small.name))
    assert [problem for problem in check_run(config) if "held-out captions" in problem] == problems[1:]
    # Enough for one half each, and too few where half of the images choose the step.
    more = folder(tmp_path / "more", 20)
    assert not [p for p in check_study(spec(more, search=searched(objective="clip_i"))) if "captions" in p]
    halved = spec(
        more,
        search=searched(objective="clip_i"),
        evaluation={"restore_best": "clip_i", "at": [0.5]},
    )
    problems = [problem for problem in check_study(halved) if "held-out captions" in problem]
    assert problems
    assert any(
        "held-out images that choose the step: evaluation.restore_best" in problem for problem in problems
    )
    own = {"prompts": ["a {subject} cat", "{subject}a dog"]}
    asked = check_study(spec(more, search=searched(objective="clip_i"), evaluation=own))
    assert any("an evaluation prompt of a data set begins with {subject}" in problem for problem in asked)


def test_one_held_out_image_is_not_dealt_out(tmp_path: Path) -> None:
    one = spec(folder(tmp_path, 5), evaluation={"restore_best": "held_out_loss", "at": [0.5]})
    problems = check_study(one)
    assert any(
        "has 1 held-out image, and evaluation.restore_best needs at least 2" in problem
        for problem in problems
    )


def test_prompts_that_are_captions_by_which_a_step_is_chosen_are_refused(tmp_path: Path) -> None:
    subject = folder(tmp_path, 60, holdout=0.5)
    choice = {"restore_best": "clip_i", "at": [0.5]}

    def told(prompts: list[str]) -> list[str]:
        study = spec(subject, search=searched(objective="clip_i"), evaluation={**choice, "prompts": prompts})
        return [problem for problem in check_study(study) if "would choose the best step" in problem]

    study = spec(subject, evaluation=choice)
    judged, chosen = templates_asked(study.subject("mine"), study.evaluation.of_phase("confirm"))
    assert told(list(judged)) == []
    (problem,) = told(["{subject}a cat", chosen[0]])
    assert problem.startswith(repr(chosen[0]))
    # Those of the embedded world's searches choose the steps of its subjects, and nothing of a data set.
    assert told([*evaluation_prompts("search")[:2]]) == []


@pytest.mark.parametrize("choice", [{}, {"restore_best": "clip_i", "at": [0.5]}])
def test_prompts_of_one_phase_are_no_captions_of_the_other(tmp_path: Path, choice: dict[str, Any]) -> None:
    subject = folder(tmp_path, 60, holdout=0.5)
    own = ["{subject}a cat", "{subject}a dog"]
    fixed = {"one": {"method": "text_to_image", "search_space": "fixed"}}

    def told(prompts: list[str], phase: str, **arms: Any) -> list[str]:
        evaluation = {"prompts": prompts} if phase == "confirm" else {"search": {"prompts": prompts}}
        study = spec(subject, search=searched(objective="clip_i"), evaluation=choice | evaluation, **arms)
        return [problem for problem in check_study(study) if "would judge both" in problem]

    study = spec(subject, evaluation=choice)
    asked = {
        phase: templates_asked(study.subject("mine"), study.evaluation.of_phase(phase))  # type: ignore[arg-type]
        for phase in ("search", "confirm")
    }
    for phase, other, place in (
        ("confirm", "search", "evaluation.prompts"),
        ("search", "confirm", "evaluation.search.prompts"),
    ):
        (problem,) = told([*own, asked[other][0][0].upper().replace("{SUBJECT}", "{subject}")], phase)
        assert problem.startswith(f"{place}: '{{subject}}")
        assert "is a held-out caption of data set 'mine'" in problem
        assert told([*own, asked[phase][0][0]], phase) == []
        assert told([*own, asked[other][0][0]], phase, arms=fixed) == [], "nothing is searched"
    if choice:  # what chooses a step of a search's run chooses its configuration too
        assert len(told([*own, asked["search"][1][0]], "confirm")) == 1


@pytest.mark.parametrize("subject", ["sprite-cast", "emoji"])
def test_a_plan_counts_what_is_drawn_of_a_data_set(subject: str) -> None:
    study = spec(subject, evaluation={"num_class_images": 24, "anchor_images": 50})
    for phase in ("search", "confirm"):
        counted, settings = images_of(study, phase), study.evaluation.of_phase(phase)  # type: ignore[arg-type]
        protocol = make_protocol(resolve_subject(study.subject(subject), 64), settings, 64, 0)
        assert counted.final == len(protocol.instance) + len(protocol.classes)
        assert counted.anchors == len(protocol.anchors)
        assert counted.base == len(protocol.beside) + len(protocol.classes)
        assert prompt_count(study.subject(subject), settings) == len(protocol.templates)


@pytest.mark.parametrize("few", [0, 10, 15])
def test_a_plan_counts_what_chooses_a_step_of_a_data_set(tmp_path: Path, few: int) -> None:
    captioned(tmp_path, 60 - few, group=[str(max(0, number - 20)) for number in range(60 - few)])
    own = {"name": "mine", "dataset": {"path": str(tmp_path), "holdout": 0.7, "group_column": "group"}}
    choice = {"restore_best": "clip_i", "at": [0.5], "num_class_images": 24, "anchor_images": 50}
    study = spec(own, evaluation=choice)
    loaded = resolve_subject(study.subject("mine"), 64)
    for phase in ("search", "confirm"):
        settings = study.evaluation.of_phase(phase)  # type: ignore[arg-type]
        result, chosen_by = (make_protocol(*part, 64, 0) for part in evaluations_of(loaded, settings))
        counted = images_of(study, phase)  # type: ignore[arg-type]
        assert prompt_count(study.subject("mine"), settings) == len(result.templates)
        assert prompt_count(study.subject("mine"), settings, chooses=True) == len(chosen_by.templates)
        assert counted.final == len(result.instance) + len(result.classes)
        assert counted.between == 2 * (len(chosen_by.instance) + len(chosen_by.classes))
        assert counted.anchors == len(result.anchors) + len(chosen_by.anchors)


def test_a_plan_counts_general_prompts_where_there_is_no_trigger(tmp_path: Path) -> None:
    study = spec(folder(tmp_path, 40, trigger=None), evaluation={"num_class_images": 24, "anchor_images": 50})
    counted, settings = images_of(study, "confirm"), study.evaluation.of_phase("confirm")
    protocol = make_protocol(resolve_subject(study.subject("mine"), 64), settings, 64, 0)
    assert protocol.general
    assert counted.anchors == len(protocol.anchors)
    notes = evaluation_notes(study)
    images = len(protocol.instance)
    assert any(f"judged on {images} images of its held-out captions" in note for note in notes)


def test_captions_of_files_are_implied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioned(tmp_path / "cast")
    content = {
        "name": "sets",
        "subjects": [{"name": "mine", "dataset": {"path": "cast"}}],
        "training": {"caption_dropout": 0.1, "shuffle_captions": True},
        "arms": {"one": {"method": "lora"}, "two": {"method": "lora", "aspect_ratio_buckets": True}},
        "search": {"allow_overlap": True},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    study = load_study(path)
    assert {study.method_fields(arm)["captions"] for arm in study.arms} == {"files"}
    assert StudySpec.from_record(study.record()).digest() == study.digest()
    path.write_text(yaml.safe_dump({**content, "subjects": ["cat-1", "dog-1"]}))
    code, _, errors = run(capsys, "validate", str(path))
    assert code == 2
    assert "it needs captions: files" in errors


def test_captions_that_were_edited_are_read_anew(tmp_path: Path) -> None:
    cast = resolve_subject(spec("sprite-cast").subject("sprite-cast"), 64)
    names = [f"{number:02}.png" for number in range(len(cast.references))]
    for name, image in zip(names, cast.references, strict=True):
        image.save(tmp_path / name)
    captions = [caption.removeprefix(cast.instance_prompt) for caption in cast.reference_captions]

    def unread(texts: list[str]) -> bool:
        write_lines(
            tmp_path, [{"file_name": name, "text": text} for name, text in zip(names, texts, strict=True)]
        )
        study = spec({"name": "mine", "dataset": {"path": str(tmp_path), "holdout": 0.5}})
        return any("does not find its captions" in problem for problem in check_study(study))

    assert [unread(captions), unread([*captions[9:], *captions[:9]]), unread(captions)] == [
        False,
        True,
        False,
    ]
