"""Search and confirm share no subject and no prompt; budgets and subjects are dealt out over searches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.preflight.checks import check_study, shared_photographs
from study.preflight.plan import make_plan
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from tests.helpers.study_files import only, problems, study_dict

SIX = ["cat-1", "dog-1", "bird-1", "fox-1", "cat-2", "dog-2"]


def spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(study_dict(**changes))


@pytest.mark.parametrize(
    ("repeats", "searched", "confirmed"),
    [
        (1, ("cat-1",), ("dog-1", "bird-1", "fox-1", "cat-2", "dog-2")),
        (2, ("cat-1", "dog-1"), ("bird-1", "fox-1", "cat-2", "dog-2")),
        (3, ("cat-1", "dog-1", "bird-1"), ("fox-1", "cat-2", "dog-2")),
    ],
)
def test_defaults_are_disjoint(repeats: int, searched: tuple[str, ...], confirmed: tuple[str, ...]) -> None:
    study = spec(subjects=SIX, search={"trials": 2, "repeats": repeats})
    assert (study.search.subjects, study.confirm.subjects) == (searched, confirmed)


def test_too_few_subjects_are_refused_with_their_number(tmp_path: Path) -> None:
    message = only(tmp_path, study_dict(subjects=["cat-1"]))
    assert (
        "study.yaml:2 subjects: the study has 1 subject, but search and confirm together need at least 2"
        in message
    )
    assert "add 1 more, or set search.allow_overlap: true" in message
    all_searched = study_dict(subjects=SIX[:2], search={"trials": 2, "repeats": 2})
    assert "need at least 4, because none may be in both; add 2 more" in only(tmp_path, all_searched)


def test_searches_must_be_dealt_the_same_number_of_subjects(tmp_path: Path) -> None:
    search = {"trials": 2, "repeats": 2, "subjects": SIX[:3]}
    message = only(tmp_path, study_dict(subjects=SIX, search=search))
    assert "search.subjects: 3 subjects cannot be dealt out evenly over 2 searches" in message
    assert "name 4 subjects" in message
    found = problems(tmp_path, study_dict(search={"trials": 2, "repeats": 4}))
    rule = "search.repeats: is 4, and each search has a subject of its own, but the study has only 3"
    assert any(rule in line for line in found)


def test_a_study_that_searches_nothing_or_confirms_nothing_shares_nothing() -> None:
    fixed = {"lora": {"method": "lora", "search_space": "fixed"}, "base": {"method": "base"}}
    assert spec(subjects=["cat-1"], arms=fixed).confirm.subjects == ("cat-1",)
    assert spec(subjects=["cat-1"], confirm={"seeds": []}).confirm.seeds == ()
    everything = spec(subjects=SIX, arms=fixed, confirm={"subjects": SIX, "seeds": [100]})
    assert everything.confirm.subjects == tuple(SIX)


def test_overlap_may_be_asked_for_and_what_was_launched_still_loads() -> None:
    content = study_dict(confirm={"subjects": ["cat-1", "dog-1"], "seeds": [100]})
    asked = spec(**{**content, "search": {"trials": 3, "allow_overlap": True}})
    assert asked.identity()["search"]["allow_overlap"] is True
    record = json.loads(json.dumps(asked.record()))
    record["spec"]["search"] = {
        "trials": 3,
        "subjects": ["cat-1"],
        "objective": "quality",
    }  # of an earlier version
    old = StudySpec.from_record(record)
    assert old.confirm.subjects == ("cat-1", "dog-1")
    assert (old.search.metrics, old.search.repeats) == (("quality",), 1)


def test_the_same_photographs_under_other_names_are_found(tmp_path: Path) -> None:
    from PIL import Image

    subjects = []
    for folder, greys in {"a": (10, 20, 30), "b": (40, 50, 30), "c": (60, 70, 80)}.items():
        (tmp_path / folder).mkdir()
        for number, grey in enumerate(greys):
            Image.new("RGB", (64, 64), (grey, number if grey != 30 else 0, 0)).save(
                tmp_path / folder / f"{folder}{number}.png"
            )
        name = {"name": folder, "images": str(tmp_path / folder), "holdout": 1}
        subjects.append(name | {"instance_prompt": f"a sks {folder}", "class_prompt": f"a {folder}"})
    study = spec(
        subjects=subjects,
        search={"trials": 2, "subjects": ["a"]},
        confirm={"subjects": ["b", "c"], "seeds": [100]},
    )
    (line,) = shared_photographs(study)
    assert f"confirm.subjects: {tmp_path}/b/b2.png is also {tmp_path}/a/a2.png, which is searched on" in line
    assert line in check_study(study)
    asked = study.model_copy(update={"search": study.search.model_copy(update={"allow_overlap": True})})
    assert shared_photographs(asked) == []


PROMPTS = ["{subject} in the snow", "{subject} on a beach"]


@pytest.mark.parametrize(
    ("evaluation", "line"),
    [
        (
            {"prompts": PROMPTS, "search": {"prompts": ["{subject}  In the SNOW"]}},
            "evaluation.search.prompts: '{subject} in the snow' would judge both search and confirm",
        ),
        (
            {"prompts": PROMPTS, "search": {"prompts": PROMPTS}},
            "evaluation.search.prompts: '{subject} in the snow' and 1 more would judge both",
        ),
    ],
)
def test_prompts_of_both_phases_are_refused(tmp_path: Path, evaluation: dict[str, Any], line: str) -> None:
    assert line in only(tmp_path, study_dict(evaluation=evaluation))
    spec(evaluation=evaluation, search={"trials": 3, "allow_overlap": True})


def test_own_prompts_are_compared_with_the_built_in_list(tmp_path: Path) -> None:
    from trainables.config.fields import EvaluationConfig
    from trainables.evaluation.prompts import templates_of

    built_in = templates_of(True, EvaluationConfig(prompt_set="search"))
    message = only(
        tmp_path, study_dict(evaluation={"prompts": [built_in[0].upper().replace("{SUBJECT}", "{subject}")]})
    )
    assert "evaluation.prompts: " in message
    spec(evaluation={"prompts": ["{subject} on a unicycle"]})
    spec(evaluation={"prompts": [built_in[-1]], "search": {"num_prompts": len(built_in) - 1}})


def test_trials_of_a_method_are_dealt_out_over_its_arms(tmp_path: Path) -> None:
    arms = {
        "base": {"method": "base"},
        "lora-b": {"method": "lora", "lr_scheduler": "cosine"},
        "lora-a": {"method": "lora", "lr_scheduler": "constant"},
        "lora-fixed": {"method": "lora", "search_space": "fixed"},
        "full": {"method": "dreambooth"},
    }
    study = spec(arms=arms, search={"trials_per_method": 7})
    assert {name: study.trials_of(name) for name in arms} == {
        "base": 0, "lora-b": 3, "lora-a": 4, "lora-fixed": 0, "full": 7,
    }  # fmt: skip
    turned = spec(arms=dict(reversed(arms.items())), search={"trials_per_method": 7})
    assert turned.digest() == study.digest()
    assert all(turned.trials_of(name) == study.trials_of(name) for name in arms), (
        "the order of arms means nothing"
    )
    message = only(tmp_path, study_dict(arms=arms, search={"trials_per_method": 1}))
    assert "search.trials_per_method: is 1, but 2 arms of method lora search" in message
    assert "set it to at least 2" in message


def test_keys_of_repeated_searches() -> None:
    study = spec(subjects=SIX, search={"trials": 4, "repeats": 2, "seeds": [0, 1]})
    numbers = range(2 * study.trials_of("full"))
    assert [study.repeat_of("full", number) for number in numbers] == [0] * 4 + [1] * 4
    assert {key.subject for key in study.search_keys("full", 3)} == {"cat-1"}
    assert {key.subject for key in study.search_keys("full", 4)} == {"dog-1"}
    assert [key.subject for key in study.confirm_keys("full", 5, repeat=1)] == ["fox-1"] * 2 + ["dog-2"] * 2
    whole = {key.subject for repeat in (0, 1) for key in study.confirm_keys("full", 0, repeat)}
    assert whole == set(study.confirm.subjects or ())
    assert study.search_runs_of("full") == 2 * 4 * 2
    assert study.number_of_runs() == 2 * 2 * 4 * 2 + 3 * 4 * 2
    keys = [key for number in numbers for key in study.search_keys("full", number)]
    assert len(keys) == len(set(keys)) == study.search_runs_of("full")


def test_a_plan_names_the_searches(tmp_path: Path) -> None:
    study = spec(subjects=SIX, search={"trials": 8, "repeats": 2})
    plan = make_plan(study, Storage(tmp_path, "small"), at_once=1)
    row = next(row for row in plan.rows() if row["arm"] == "full")
    assert (row["trials"], row["search_runs"]) == (16, 16)
    assert plan.runs == study.number_of_runs()
    lines = plan.summary()
    assert "3 arms, 32 trials, " in lines[0]
    assert any(
        line.startswith("full searches ") and line.endswith(", in 2 searches of 8 trials") for line in lines
    )
    single = make_plan(spec(), Storage(tmp_path, "small"), at_once=1).summary()
    assert any(line.endswith(", in 1 search of 3 trials") for line in single)


@pytest.mark.parametrize(
    ("search", "line"),
    [
        ({"repeats": 2}, "search.repeats: 1 -> 2"),
        ({"batch_size": 1}, "search.batch_size: null -> 1"),
        ({"allow_overlap": True}, "search.allow_overlap: false -> true"),
        (
            {"objective": {"maximize": "quality", "subject_to": {"class_kept": ">= 0.8"}}},
            'search.objective: "quality" -> (absent)',
        ),
    ],
)
def test_new_fields_belong_to_the_identity(search: dict[str, Any], line: str) -> None:
    from study.spec.difference import difference

    usual = {"trials": 3, "subjects": ["cat-1", "dog-1"], "objective": "quality"}
    one, other = spec(subjects=SIX, search=usual), spec(subjects=SIX, search={**usual, **search})
    assert one.digest() != other.digest()
    assert line in difference(one, other)
