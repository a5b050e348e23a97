"""What makes two studies the same: digests, differences, records; and the presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.driver.claim import check_unchanged
from study.spec.difference import difference, not_taken
from study.spec.loading import load_study, preset_names, preset_path
from study.spec.study_spec import StudySpec
from study.storage.layout import STUDY_FILE, Storage
from tests.helpers.study_files import study_dict
from trainables.errors import UserError


def spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(study_dict(**changes))


def test_equal_studies_have_equal_digests_however_they_are_written() -> None:
    written_out = spec(
        model={"path": "embedded"},
        search={"trials": 3, "subjects": ["cat-1"], "objective": None, "sampler": "tpe"},
        subjects=[{"name": "cat-1"}, "dog-1", "bird-1"],
    )
    assert written_out.digest() == spec().digest()
    assert difference(written_out, spec()) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"search": {"trials": 4}}, "search.trials: 3 -> 4"),
        ({"budget": {"max_train_steps": 60}}, "budget.max_train_steps: 50 -> 60"),
        ({"confirm": {"seeds": [100]}}, "confirm.seeds: [100, 101] -> [100]"),
        ({"training": {"lr_warmup_steps": 6}}, "training.lr_warmup_steps: 5 -> 6"),
        ({"evaluation": {"guidance_scale": 5}}, "evaluation.guidance_scale: 3.0 -> 5.0"),
        (
            {"subjects": ["cat-1", "dog-1", {"name": "bird-1", "holdout": 3}]},
            "subjects.bird-1.holdout: 2 -> 3",
        ),
    ],
)
def test_changes_are_shown_value_by_value(changes: dict[str, Any], line: str) -> None:
    changed = spec(**changes)
    assert changed.digest() != spec().digest()
    assert difference(spec(), changed) == [line]
    assert difference(json.loads(json.dumps(spec().record())), changed) == [line]


def test_added_removed_and_reordered_parts() -> None:
    arms = study_dict()["arms"]
    more = spec(arms={**arms, "extra": {"method": "lora", "r": 4}})
    assert 'arms.extra.method: (absent) -> "lora"' in difference(spec(), more)
    assert 'arms.extra.method: "lora" -> (absent)' in difference(more, spec())
    turned = spec(arms=dict(reversed(arms.items())))
    assert turned.digest() == spec().digest(), "the order of arms means nothing"


def test_a_resume_may_use_other_resources() -> None:
    other = spec(
        resources={"max_concurrent_runs": 1, "max_attempts": 5, "num_workers": 2, "gpus_per_worker": 1},
        tracking={"uri": "http://127.0.0.1:5000"},
        storage={"ledger_url": "sqlite:////tmp/ledger.db"},
        description="words",
        budget={"max_train_steps": 50, "max_hours": 3},
    )
    assert other.digest() == spec().digest()


def test_effective_search_spaces_belong_to_the_identity() -> None:
    """So that new default ranges in another version are noticed when a study is resumed."""
    content = spec().identity()
    assert content["arms"]["cosine"]["search_space"]["r"]["choices"] == [4, 8, 16, 32]
    assert "lr_scheduler" not in content["arms"]["cosine"]["search_space"]


def test_records_come_back(tmp_path: Path) -> None:
    space = {"r": {"type": "categorical", "choices": [4, 8]}, "lr_scheduler": None}
    arms = {
        "own": {"method": "lora", "learning_rate": 1e-3, "search_space": space},
        "one": {"method": "lora", "search_space": "fixed"},
    }
    original = spec(arms=arms, search={"scheduler": "asha"}, evaluation={"at": [0.5]})
    back = StudySpec.from_record(json.loads(json.dumps(original.record())))
    assert back == original
    assert back.digest() == original.record()["digest"]
    file = tmp_path / "written.yaml"
    file.write_text(original.to_yaml())
    assert load_study(file) == original


def test_a_field_that_a_later_version_has_is_no_change(tmp_path: Path) -> None:
    """A study that was begun before there was such a field did what its default does."""
    record = json.loads(json.dumps(spec().record()))
    for content in (record["identity"], record["spec"]):
        del content["evaluation"]["anchor_images"]
        del content["subjects"][1]["holdout"]
    record["digest"] = "of an earlier version"
    storage = Storage(tmp_path, spec().name)
    storage.folder.mkdir(parents=True)
    (storage.folder / STUDY_FILE).write_text(json.dumps(record))
    assert check_unchanged(spec(), storage).digest() == spec().digest()
    changed = spec(evaluation={"anchor_images": 32})
    assert difference(record, changed) == ["evaluation.anchor_images: 64 -> 32"]
    with pytest.raises(UserError, match=r"evaluation\.anchor_images: 64 -> 32"):
        check_unchanged(changed, storage)


def test_a_study_that_has_begun_keeps_its_search_spaces(tmp_path: Path) -> None:
    """Whatever ranges a later version of the program comes with; what the study file says is still compared."""
    arm = next(name for name in spec().arms if "learning_rate" in spec().space(name).parameters)
    record = json.loads(json.dumps(spec().record()))
    record["identity"]["arms"][arm]["search_space"]["learning_rate"] |= {"low": 0.011, "high": 0.012}
    record["digest"] = "of an earlier version"
    storage = Storage(tmp_path, spec().name)
    storage.folder.mkdir(parents=True)
    (storage.folder / STUDY_FILE).write_text(json.dumps(record))
    resumed = check_unchanged(spec(), storage)
    for known in (resumed, StudySpec.from_record(record)):
        assert known.space(arm).parameters["learning_rate"].probes()[0] == 0.011
    assert difference(record, spec()) == []
    arms = study_dict()["arms"]
    own = {"learning_rate": {"type": "float", "low": 0.011, "high": 0.02}}
    edited = spec(arms={**arms, arm: {**arms[arm], "search_space": own}})
    with pytest.raises(UserError, match=rf"arms\.{arm}\.search_space"):
        check_unchanged(edited, storage)


def test_margin_and_prices_of_the_first_launch_count_and_a_change_is_told() -> None:
    record = json.loads(
        json.dumps(spec(report={"margin": 0.05}, resources={"price_per_hour": {"cpu": 1}}).record())
    )
    same = spec(report={"margin": 0.05}, resources={"price_per_hour": {"cpu": 1}})
    assert not_taken(record, same) == []
    margin, price = not_taken(record, spec(report={"margin": 0.03}, resources={"price_per_hour": {"cpu": 2}}))
    assert margin.startswith("report.margin: 0.05 -> 0.03 is not taken")
    del record["spec"]["report"], record["spec"]["resources"]["price_per_hour"]  # of a version without them
    assert not_taken(record, spec(report={"margin": 0.03})) == []
    assert price.startswith('resources.price_per_hour: {"cpu": 1.0} -> {"cpu": 2.0} is not taken')


def test_a_record_of_another_version_is_refused_in_words() -> None:
    record = spec().record()
    record["spec"]["from_the_future"] = 1
    with pytest.raises(UserError, match="not a study of this version"):
        StudySpec.from_record(record)
    with pytest.raises(UserError, match="not a study of this version"):
        StudySpec.from_record({})


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_say_what_they_are(name: str) -> None:
    preset = load_study(name)
    assert preset.name == name
    assert preset_path(name).read_text().startswith("# ")
    assert "base" in preset.arms
    assert preset.confirm.seeds


def test_the_presets_that_the_documentation_names() -> None:
    assert {"quickstart", "own-photos", "stable-diffusion"} <= set(preset_names())
    quick = load_study("quickstart")
    assert quick.model.path == "embedded"
    assert [arm.method for arm in quick.arms.values()] == [
        "base", "lora", "lora", "lora", "dreambooth", "dreambooth", "dreambooth",
    ]  # fmt: skip
    assert len(quick.confirm.subjects or ()) == 2
    assert len(quick.confirm.seeds) == 2
    assert not set(quick.confirm.subjects or ()) & set(quick.search.subjects or ())
    large = load_study("stable-diffusion")
    assert large.evaluation.image_encoder == "facebook/dino-vits16"
    assert (len(large.confirm.subjects or ()), len(large.confirm.seeds)) == (5, 3)
