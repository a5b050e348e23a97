"""The preset that compares all methods: nobody is left out, and nobody has more than the others."""

from __future__ import annotations

import pytest

from study.preflight.notes import study_notes
from study.spec.loading import load_study, preset_names
from study.spec.study_spec import StudySpec
from trainables.config.fields import TrainingConfig
from trainables.methods.registry import BASE, method_config_class, method_names


@pytest.fixture(scope="module")
def preset() -> StudySpec:
    return load_study("methods")


def configs(preset: StudySpec) -> dict[str, TrainingConfig]:
    """The default configuration of each arm that trains, by its method."""
    return {
        arm.method: method_config_class(arm.method).model_validate(preset.method_config(name, {}))
        for name, arm in preset.arms.items()
        if arm.method != BASE
    }


def test_every_method_is_an_arm_once(preset: StudySpec) -> None:
    """The one that is made for data sets too, which has a preset of its own on one."""
    found = [arm.method for arm in preset.arms.values()]
    assert sorted(found) == sorted(method_names())
    captioned = {arm.method for arm in load_study("captioned").arms.values()}
    assert captioned == {BASE, "text_to_image"}


def test_steps_batches_warm_up_and_schedule_are_equal_and_not_searched(preset: StudySpec) -> None:
    equal = ("max_train_steps", "train_batch_size", "lr_warmup_steps", "lr_scheduler", "optimizer")
    found = {tuple(getattr(config, name) for name in equal) for config in configs(preset).values()}
    assert len(found) == 1
    for arm in preset.arms:
        assert not set(equal) & set(preset.space(arm).parameters)


def test_trials_are_equal_by_method_and_begin_with_the_default(preset: StudySpec) -> None:
    by_method: dict[str, int] = {}
    for name, arm in preset.arms.items():
        family = "lora" if arm.method == "dreambooth_lora" else arm.method  # one code with another default
        by_method[family] = by_method.get(family, 0) + preset.trials_of(name)
    assert by_method.pop(BASE) == 0
    assert len(set(by_method.values())) == 1
    assert min(preset.trials_of(name) for name, arm in preset.arms.items() if arm.method != BASE) >= 2
    for name, arm in preset.arms.items():
        default = preset.default_params(name)
        assert default == {field: preset.method_fields(name)[field] for field in default}, arm.method


def test_prior_and_text_encoder_are_on_wherever_a_method_has_them_but_in_lora(preset: StudySpec) -> None:
    for method, config in configs(preset).items():
        if "method" not in config.needs_of("with_prior_preservation"):
            assert config.with_prior_preservation == (method != "lora"), method
        if "method" not in config.needs_of("train_text_encoder"):
            assert config.train_text_encoder, method


def test_each_subject_of_the_verdict_has_a_search_on_another_class(preset: StudySpec) -> None:
    confirm, search = preset.confirm.subjects or (), preset.search.subjects or ()
    assert preset.search.repeats == len(confirm) == len(search) >= 4
    assert not set(confirm) & set(search)
    for one, other in zip(search, confirm, strict=True):
        assert one.split("-")[0] != other.split("-")[0]
    elsewhere = {
        subject.name for name in preset_names() if name != "methods" for subject in load_study(name).subjects
    }
    assert not elsewhere & {subject.name for subject in preset.subjects}


def test_nothing_is_noted_against_it_but_how_large_a_difference_is_found(preset: StudySpec) -> None:
    (note,) = study_notes(preset)
    assert "smaller ones take more confirm subjects" in note
