"""Fields that change nothing where they stand, and arms that only look different."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from trainables.__main__ import main
from trainables.errors import UserError


def problems(folder: Path, **sections: Any) -> str:
    """Returns what is said against a study file, nothing if it is sound."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"name": "idle", "subjects": ["cat-1", "dog-1"], **sections}))
    try:
        load_study(path)
    except UserError as error:
        return "\n".join(error.problems)
    return ""


@pytest.mark.parametrize(
    ("arm", "field", "reason"),
    [
        ({"method": "lora", "lr_scheduler": "cosine", "lr_num_cycles": 4}, "lr_num_cycles", "is cosine"),
        ({"method": "lora", "lr_num_cycles": 4}, "lr_num_cycles", "is constant or cosine"),
        ({"method": "lora", "lr_scheduler": "linear", "lr_power": 2}, "lr_power", "lr_scheduler: polynomial"),
        ({"method": "lora", "lr_end_fraction": 0.1}, "lr_end_fraction", "lr_scheduler: polynomial"),
        ({"method": "lora", "text_encoder_learning_rate": 1e-4}, "text_encoder_learning_rate", "is false"),
        (
            {"method": "lora", "text_encoder_target_modules": ["fc1"]},
            "text_encoder_target_modules",
            "train_text_encoder: true",
        ),
        ({"method": "lora", "prior_loss_weight": 0.5}, "prior_loss_weight", "with_prior_preservation: true"),
        (
            {"method": "dreambooth", "with_prior_preservation": False, "num_class_images": 8},
            "num_class_images",
            "with_prior_preservation: true",
        ),
        ({"method": "dreambooth", "ema_decay": 0.9}, "ema_decay", "use_ema: true"),
        ({"method": "base", "learning_rate": 2e-4}, "learning_rate", "reads resolution alone"),
        (
            {"method": "hypernetwork", "train_text_encoder": True},
            "train_text_encoder",
            "the method hypernetwork does not read it",
        ),
        (
            {
                "method": "lora",
                "lr_scheduler": "cosine",
                "search_space": {"lr_power": {"type": "float", "low": 1, "high": 2}},
            },
            "search_space.lr_power",
            "is cosine",
        ),
        (
            {
                "method": "lora",
                "search_space": {
                    "lr_scheduler": {"type": "categorical", "choices": ["polynomial", "cosine"]},
                    "lr_power": {"type": "float", "low": 1, "high": 2, "when": {"lr_scheduler": "cosine"}},
                },
            },
            "search_space.lr_power",
            "is cosine",
        ),
    ],
)
def test_they_are_refused_in_an_arm(arm: dict[str, Any], field: str, reason: str, tmp_path: Path) -> None:
    text = problems(tmp_path, arms={"one": arm, "other": {"method": "dreambooth_lora"}})
    assert f"arms.one.{field}: has no effect in this arm" in text
    assert reason in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    "arm",
    [
        {"method": "lora", "lr_scheduler": "polynomial", "lr_power": 2, "lr_end_fraction": 0.1},
        {
            "method": "dreambooth",
            "text_encoder_learning_rate": 1e-4,
        },  # the embedded model's default trains it
        {"method": "dreambooth", "train_text_encoder": False},  # what the default then does is nobody's fault
        {"method": "base", "resolution": 32},
        {
            "method": "lora",
            "lr_num_cycles": 3,
            "search_space": {
                "lr_scheduler": {"type": "categorical", "choices": ["cosine", "cosine_with_restarts"]}
            },
        },
        {
            "method": "lora",
            "use_ema": False,  # a condition that never holds is meant so
            "search_space": {
                "ema_decay": {"type": "float", "low": 0.9, "high": 0.99, "when": {"use_ema": True}}
            },
        },
    ],
)
def test_what_may_have_an_effect_is_taken(arm: dict[str, Any], tmp_path: Path) -> None:
    assert problems(tmp_path, arms={"one": arm, "other": {"method": "dreambooth_lora"}}) == ""


def test_common_fields_must_act_in_some_arm(tmp_path: Path) -> None:
    arms = {"base": {"method": "base"}, "lora": {"method": "lora"}}
    text = problems(tmp_path, training={"num_class_images": 4, "lr_warmup_steps": 2}, arms=arms)
    assert "training.num_class_images: has no effect in any arm, as in 'lora'" in text
    assert "warmup" not in text
    arms["dreambooth"] = {"method": "dreambooth"}
    assert problems(tmp_path, training={"num_class_images": 4}, arms=arms) == ""
    arms["hypernetwork"] = {"method": "hypernetwork"}  # what all arms share need not be for it
    assert problems(tmp_path, training={"train_text_encoder": True}, arms=arms) == ""
    text = problems(
        tmp_path, training={"train_text_encoder": True}, arms={"hypernetwork": {"method": "hypernetwork"}}
    )
    assert "training.train_text_encoder: has no effect in any arm, as in 'hypernetwork'" in text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"target_modules": "attention"}, {"target_modules": ["to_out.0", "to_q", "to_k", "to_v"]}),
        ({"target_modules": ["to_q", "to_v"]}, {"target_modules": ["to_v", "to_q"]}),
        ({"r": 8, "lora_alpha": 8}, {"r": 8}),
        ({"r": 16, "lora_alpha": 8, "use_rslora": True}, {"r": 16, "lora_alpha": 32}),
        (
            {"train_text_encoder": True, "learning_rate": 1e-3, "text_encoder_learning_rate": 3e-4},
            {"train_text_encoder": True, "learning_rate": 1e-3},
        ),
        ({"learning_rate": 5e-4}, {"search_space": "fixed"}),  # the embedded model's default
        (
            {"lr_num_cycles": 1, "lr_scheduler": "cosine_with_restarts"},
            {"lr_scheduler": "cosine_with_restarts"},
        ),
        (
            {"search_space": {"r": {"type": "categorical", "choices": [4, 8]}}},
            {"search_space": {"r": {"type": "categorical", "choices": [8, 4]}}},
        ),
    ],
)
def test_arms_that_are_the_same_are_named(
    first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    if "search_space" not in first:
        first, second = {**first, "search_space": "fixed"}, {**second, "search_space": "fixed"}
    text = problems(tmp_path, arms={"one": {"method": "lora", **first}, "two": {"method": "lora", **second}})
    assert "arms.two: is the same arm as 'one'" in text


def test_what_a_method_of_words_trains_with_is_not_read_where_captions_are_files(tmp_path: Path) -> None:
    arm = {"method": "textual_inversion", "captions": "files", "search_space": "fixed"}
    kinds = {kind or "none": {**arm, "learnable_property": kind} for kind in ("object", None, "style")}
    text = problems(tmp_path, arms=kinds)
    assert "arms.object: is the same arm as 'none'" in text
    assert "style" not in text
    plain = {name: {**kind, "captions": "instance_prompt"} for name, kind in kinds.items()}
    assert problems(tmp_path, arms=plain) == ""


def test_arms_that_differ_are_no_duplicates(tmp_path: Path) -> None:
    fields: list[dict[str, Any]] = [
        {"r": 8},
        {"r": 8, "lora_alpha": 16},
        {"target_modules": ["to_q"]},
        {"train_text_encoder": True},
        {"train_text_encoder": True, "text_encoder_target_modules": ["fc1"]},
        {"lora_alpha": 4, "search_space": {"r": {"type": "categorical", "choices": [4, 8]}}},
        {"search_space": {"r": {"type": "categorical", "choices": [4, 8]}}},
    ]
    arms = {f"arm-{number}": {"method": "lora", **each} for number, each in enumerate(fields)}
    assert problems(tmp_path, arms=arms) == ""


def test_a_study_that_was_launched_by_an_earlier_version_is_still_read() -> None:
    content = {
        "name": "old",
        "subjects": ["cat-1", "dog-1"],
        "arms": {
            "one": {"method": "lora", "lr_scheduler": "cosine"},
            "two": {"method": "lora", "lr_scheduler": "cosine", "r": 8},
        },
    }
    record = StudySpec.model_validate(content).record()
    record["spec"]["arms"]["one"]["lr_num_cycles"] = 4
    assert StudySpec.from_record(record).arms["one"].fixed["lr_num_cycles"] == 4


def test_a_single_run_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.__main__._run", lambda config: 0)
    path = tmp_path / "run.yaml"
    run = {
        "method": "dreambooth",
        "subject": "cat-1",
        "training": {"lr_power": 2, "train_text_encoder": False},
    }
    path.write_text(yaml.safe_dump(run))
    assert main([str(path)]) == 0
    assert capsys.readouterr().err == (
        "note: training.lr_power has no effect without lr_scheduler: polynomial\n"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"method": "lora", "lr_scheduler": "linear"}, {"method": "lora", "lr_scheduler": "polynomial"}),
        (
            {"method": "lora", "lr_scheduler": "cosine"},
            {"method": "lora", "lr_scheduler": "cosine_with_restarts"},
        ),
        ({"method": "lora"}, {"method": "lora", "checkpointing_steps": 7}),
        (
            {"method": "lora", "learning_rate": 1e-3},
            {"method": "dreambooth_lora", "learning_rate": 1e-3, "with_prior_preservation": False},
        ),
        (
            {"method": "lora", "learning_rate": 1e-3, "with_prior_preservation": True},
            {"method": "dreambooth_lora", "learning_rate": 1e-3},
        ),
        (
            {"method": "lora", "r": 8},
            {"method": "lora", "search_space": {"r": {"type": "categorical", "choices": [8]}}},
        ),
    ],
)
def test_two_ways_to_say_the_same_arm_are_named(
    one: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    """Their weights would be equal byte by byte."""
    fixed = {
        name: arm if "search_space" in arm else arm | {"search_space": "fixed"}
        for name, arm in (("one", one), ("other", other))
    }
    if "search_space" in other:  # what else the method searches is fixed in both
        common = {"learning_rate": 1e-3, "lora_alpha": 8, "lora_dropout": 0.0, "lr_scheduler": "constant"}
        fixed = {name: {**common, **arm} for name, arm in fixed.items()}
    text = problems(tmp_path, arms=fixed)
    assert "is the same arm as 'one'" in text, text


def test_a_default_that_is_written_out_is_no_mistake(tmp_path: Path) -> None:
    """Configurations that are copied whole from another tool say everything."""
    arm = {"method": "lora", "lr_scheduler": "cosine", "lr_num_cycles": 1, "text_encoder_learning_rate": None}
    assert problems(tmp_path, arms={"one": arm}) == ""
