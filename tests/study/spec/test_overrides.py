"""``key=value`` arguments: typed by YAML's rules, checked against the study's keys, named in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from trainables.errors import UserError

TEXT = """\
name: small
subjects: [cat-1, {name: dog-1, holdout: 2}]
arms:
  lora: {method: lora}
  lora-1.5: {method: lora, lr_scheduler: cosine}
search: {trials: 3}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(TEXT)
    return file


def refused(file: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_study(file, overrides)
    return "\n".join(error.value.problems)


def test_values_are_typed_and_missing_sections_made(study: Path) -> None:
    overrides = [
        "search.trials=8",
        "budget.max_hours=1e-1",
        "confirm.seeds=[7, 8]",
        "arms.lora.learning_rate=1e-4",
        "arms.lora.search_space={r: {type: int, low: 2, high: 8}}",
        "training.train_text_encoder=true",
        "resources.max_concurrent_runs=null",
        "model=org/model",
    ]
    spec = load_study(study, overrides)
    assert spec.search.trials == 8
    assert spec.budget.max_hours == 0.1
    assert spec.confirm.seeds == (7, 8)
    assert spec.arms["lora"].fixed == {"learning_rate": 1e-4}
    assert spec.space("lora").parameters["r"].describe() == "2 .. 8"
    assert spec.training["train_text_encoder"] is True
    assert spec.model.path == "org/model"


def test_lists_by_index_and_by_name(study: Path) -> None:
    spec = load_study(study, ["subjects.0=bird-1", "subjects.dog-1.holdout=3"])
    assert [subject.name for subject in spec.subjects] == ["bird-1", "dog-1"]
    assert spec.subjects[1].holdout == 3
    assert load_study(study, ["subjects.0.holdout=1"]).subjects[0].name == "cat-1"


def test_keys_with_dots_and_new_arms(study: Path) -> None:
    spec = load_study(study, ["arms.lora-1.5.r=4", "arms.mine.method=dreambooth"])
    assert spec.arms["lora-1.5"].fixed["r"] == 4
    assert spec.arms["mine"].method == "dreambooth"


def test_a_later_override_wins(study: Path) -> None:
    assert load_study(study, ["search.trials=8", "search.trials=9"]).search.trials == 9
    assert load_study(study, ["search.trials=8", "search={trials: 5}"]).search.trials == 5


def test_a_model_given_by_name_takes_further_keys(study: Path) -> None:
    spec = load_study(study, ["model=org/model", "model.revision=main"])
    assert (spec.model.path, spec.model.revision) == ("org/model", "main")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("search.trails=3", "override search.trails=3: unknown key 'trails'; did you mean 'trials'?"),
        ("serch.trials=3", "did you mean 'search'?"),
        ("search", "'search' is not an override; write key=value"),
        ("=3", "is not an override"),
        ("subjects.7=cat-2", "neither an index from 0 to 1 nor one of its values"),
        ("search.trials.x=3", "search.trials has no keys, it is 3"),
        ("search.trials=[1", "is not valid YAML"),
        ("search.trials=x", "override search.trials=x (search.trials): must be a whole number, got 'x'"),
        (
            "arms.lora.rank=3",
            "override arms.lora.rank=3 (arms.lora.rank): unknown key 'rank'; did you mean 'r'?",
        ),
        ("arms.loar.r=3", "override arms.loar.r=3 (arms.loar.method): is required, but missing"),
    ],
)
def test_wrong_overrides_are_named(study: Path, override: str, words: str) -> None:
    assert words in refused(study, override)


def test_all_wrong_overrides_at_once(study: Path) -> None:
    message = refused(study, "search.trails=3", "x", "budgt.max_hours=1")
    assert len(message.splitlines()) == 3


def test_the_file_is_named_for_what_the_file_says(study: Path) -> None:
    study.write_text(TEXT + "colour: red\n")
    message = refused(study, "search.trials=0")
    assert "override search.trials=0 (search.trials): must be at least 1, got 0" in message
    assert "study.yaml:7 colour: unknown key 'colour'" in message


def test_overrides_leave_the_document_alone(study: Path) -> None:
    from study.spec.overrides import apply_overrides
    from trainables.config.yaml_reader import load_document

    document = load_document(study)
    apply_overrides(document, ["search.trials=8"], StudySpec)
    assert document.data["search"] == {"trials": 3}
