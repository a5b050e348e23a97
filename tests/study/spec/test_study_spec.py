"""The study file: what it means when it is right, and what is said when it is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.storage.run_key import RunKey
from tests.helpers.study_files import only, problems, study_dict
from trainables.errors import UserError

DIMENSION = {"type": "categorical", "choices": [4, 8]}


def arm(**fields: Any) -> dict[str, Any]:
    """A sound study with one LoRA arm of the given fields."""
    return study_dict(arms={"lora": {"method": "lora", **fields}})


# ---------------------------------------------------------------------- what a study means


def test_defaults_are_resolved_when_a_study_is_loaded() -> None:
    spec = StudySpec.model_validate(study_dict())
    assert spec.model.path == "embedded"
    assert spec.search.subjects == ("cat-1",)
    assert spec.confirm.subjects == ("dog-1", "bird-1")
    assert spec.search.metrics == ("quality",)
    assert spec.search.directions == ("maximize",)
    one = StudySpec.model_validate(
        study_dict(subjects=["cat-1"], search={"trials": 3, "allow_overlap": True})
    )
    assert one.confirm.subjects == ("cat-1",), "if it is asked for, only the seeds are fresh"


def test_runs_of_both_phases() -> None:
    spec = StudySpec.model_validate(study_dict())
    assert [spec.trials_of(name) for name in spec.arms] == [0, 3, 3]
    assert spec.number_of_runs() == 2 * 3 + 3 * 2 * 2
    assert spec.search_keys("cosine", 1) == [RunKey("search", "cosine", 1, "cat-1", 0)]
    assert spec.confirm_keys("full", 2)[-1] == RunKey("confirm", "full", 2, "bird-1", 101)


def test_fields_come_from_training_budget_arm_and_trial_in_this_order() -> None:
    content = study_dict(training={"lr_scheduler": "linear", "lr_warmup_steps": 5, "train_batch_size": 2})
    spec = StudySpec.model_validate(content)
    assert spec.method_config("cosine", {"r": 8, "train_batch_size": 1}) == {
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 5,
        "train_batch_size": 1,
        "max_train_steps": 50,
        "r": 8,
    }


def test_fixed_and_common_fields_leave_the_space_and_an_arm_may_change_it() -> None:
    space = {"r": None, "lora_dropout": {"type": "float", "low": 0, "high": 0.5}}
    content = study_dict(training={"learning_rate": 1e-3})
    content["arms"] = {
        "fixed": {"method": "lora", "lr_scheduler": "cosine"},
        "own": {"method": "lora", "search_space": space},
        "prior": {"method": "dreambooth", "with_prior_preservation": False},
        "single": {"method": "lora", "r": 4, "search_space": "fixed"},
        "lora-prior": {"method": "lora", "with_prior_preservation": True},
        "unet": {"method": "dreambooth", "train_text_encoder": False},
    }
    spec = StudySpec.model_validate(content)
    assert list(spec.space("fixed").parameters) == ["r"]
    assert list(spec.space("own").parameters) == ["lr_scheduler", "lora_dropout"]
    assert list(spec.space("prior").parameters) == ["text_encoder_learning_rate", "lr_scheduler"], (
        "no prior, no weight of it; the embedded model's default trains the text encoder"
    )
    assert list(spec.space("lora-prior").parameters) == ["r", "prior_loss_weight", "lr_scheduler"]
    assert list(spec.space("unet").parameters) == ["prior_loss_weight", "lr_scheduler"]
    assert spec.space("single").parameters == {}
    assert spec.trials_of("single") == 0


def test_a_dimension_of_the_arm_wins_over_a_common_field() -> None:
    content = arm(search_space={"learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}})
    content["training"] = {"learning_rate": 1e-3}
    assert "learning_rate" in StudySpec.model_validate(content).space("lora").parameters


def test_the_embedded_model_and_stable_diffusion_have_ranges_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "sd").mkdir()
    small = StudySpec.model_validate(study_dict()).space("full").parameters["learning_rate"]
    large = (
        StudySpec.model_validate(study_dict(model={"path": "a/b"})).space("full").parameters["learning_rate"]
    )
    assert small.low > large.low


def test_run_configuration(tmp_path: Path) -> None:
    spec = StudySpec.model_validate(study_dict(resources={"cpus_per_run": 2}))
    key = spec.search_keys("cosine", 1)[0]
    config = spec.run_config(key, {"r": 8, "learning_rate": 2e-3}, Storage(tmp_path, spec.name))
    assert config.method == "lora"
    assert config.training.lr_scheduler == "cosine"
    assert config.training.r == 8  # type: ignore[attr-defined]
    assert config.training.max_train_steps == 50
    assert config.seed == 0
    assert config.cpu_threads == 2
    assert config.device == "cpu"
    assert config.output_dir == str(tmp_path / "small/runs/search/cosine/0001-cat-1-s0")
    assert config.cache_dir == str(tmp_path / "cache")
    gpu = StudySpec.model_validate(study_dict(resources={"gpus_per_run": 0.5}))
    assert gpu.run_config(key, {}, Storage(tmp_path, "small")).device == "cuda"


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    (tmp_path / "models" / "sd").mkdir(parents=True)
    photo = {"name": "mug", "images": "photos/mug", "references": "../held", "instance_prompt": "a sks mug"}
    content = study_dict(
        model="models/sd",
        subjects=[{**photo, "class_prompt": "a mug"}, "cat-1"],
        evaluation={"clip": "openai/clip-vit-base-patch32", "image_encoder": "./dino"},
    )
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    spec = load_study(tmp_path / "study.yaml")
    assert spec.model.path == str(tmp_path / "models/sd")
    assert spec.subjects[0].images == str(tmp_path / "photos/mug")
    assert spec.subjects[0].references == str(tmp_path.parent / "held")
    assert spec.evaluation.clip == "openai/clip-vit-base-patch32", "a hub id stays as it is"
    assert spec.evaluation.image_encoder == str(tmp_path / "dino")


def test_a_study_is_frozen() -> None:
    spec = StudySpec.model_validate(study_dict())
    with pytest.raises(ValidationError):
        spec.name = "other"


def test_minimised_metrics_and_fronts() -> None:
    spec = StudySpec.model_validate(study_dict(search={"objectives": ["subject_fidelity", "drift"]}))
    assert spec.search.directions == ("maximize", "minimize")


def test_loading_a_study_loads_nothing_heavy() -> None:
    code = (
        "import sys; from study.spec.loading import load_study; load_study('quickstart');"
        "print([m for m in ('torch', 'ray', 'mlflow', 'optuna', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


# ---------------------------------------------------------------------- what is said when it is wrong


def test_all_errors_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
name: a/b
subjects: [cat-1, dog-1, cat-1]
training: {lr_schedular: cosine, adam_beta1: x}
model: {pth: 3}
arms:
  misspelt: {method: lroa}
  lora:
    method: lora
    lr_scheduler: cosin
    rank: 3
    search_space:
      learning_rate: {type: float, low: 0, high: 1, log: true}
      r: {type: int, low: -4, high: 4}
      q: {type: flaot}
  empty: {method: lora, search_space: {}}
  first: {method: dreambooth}
  second: {method: dreambooth}
search: {trials: 0, objective: qualty}
confirm: {subjects: [cat-2]}
resources: {cpus_per_run: 1.5}
colour: red
"""
    found = problems(tmp_path, text)
    starts = [message.split(": ")[0] for message in found]
    assert starts == [
        "study.yaml:1 name",
        "study.yaml:2 subjects.2",
        "study.yaml:3 training.lr_schedular",
        "study.yaml:3 training.adam_beta1",
        "study.yaml:4 model.pth",
        "study.yaml:6 arms.misspelt.method",
        "study.yaml:9 arms.lora.lr_scheduler",
        "study.yaml:10 arms.lora.rank",
        "study.yaml:12 arms.lora.search_space.learning_rate",
        "study.yaml:13 arms.lora.search_space.r",
        "study.yaml:14 arms.lora.search_space.q",
        "study.yaml:14 arms.lora.search_space.q",
        "study.yaml:15 arms.empty.search_space",
        "study.yaml:17 arms.second",
        "study.yaml:18 search.trials",
        "study.yaml:18 search.objective",
        "study.yaml:19 confirm.subjects.0",
        "study.yaml:20 resources.cpus_per_run",
        "study.yaml:21 colour",
    ]


def test_malformed_yaml_shows_the_line(tmp_path: Path) -> None:
    message = only(tmp_path, "name: x\narms: {lora: [\n")
    assert message.startswith("study.yaml:3:1: not valid YAML")


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just text\n"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "a study begins with `name:`" in only(tmp_path, text)


def test_a_file_that_is_not_there_and_a_preset_that_is_misspelt(tmp_path: Path) -> None:
    for source, words in (
        (tmp_path / "none.yaml", "there is no file"),
        ("quikstart", "did you mean 'quickstart'?"),
    ):
        with pytest.raises(UserError, match="there is no file") as error:
            load_study(source)
        assert words in str(error.value)


def test_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    message = only(tmp_path, study_dict(search={"trails": 3}))
    assert "search.trails: unknown key 'trails'; did you mean 'trials'? Keys here: " in message


@pytest.mark.parametrize(
    ("key", "meant"),
    [("rank", "r"), ("lr", "learning_rate"), ("alpha", "lora_alpha"), ("learning_rat", "learning_rate")],
)
def test_names_of_other_trainers_are_understood(tmp_path: Path, key: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in only(tmp_path, arm(**{key: 3}))


def test_pruners_are_refused_with_the_reason(tmp_path: Path) -> None:
    assert "scheduler: {type: asha}" in only(tmp_path, study_dict(search={"pruner": "median"}))


def test_misspelt_method(tmp_path: Path) -> None:
    message = only(tmp_path, study_dict(arms={"a": {"method": "dreamboth"}}))
    assert "unknown method 'dreamboth'; did you mean 'dreambooth'? Methods: base, lora" in message


def test_missing_method(tmp_path: Path) -> None:
    assert "arms.a.method: is required" in only(tmp_path, study_dict(arms={"a": {"r": 4}}))


@pytest.mark.parametrize("arms", [{}, None, 3, {"lora": None}])
def test_arms_must_be_there(tmp_path: Path, arms: Any) -> None:
    content = study_dict()
    content["arms"] = arms
    assert "arms" in only(tmp_path, content)


def test_empty_search_spaces(tmp_path: Path) -> None:
    message = only(tmp_path, arm(search_space={}))
    assert "arms.lora.search_space: empty search space" in message
    assert "`search_space: fixed`" in message
    everything = arm(r=4, learning_rate=1e-3, lr_scheduler="cosine")
    message = only(tmp_path, everything)
    assert "study.yaml:9 arms.lora.search_space: empty search space: nothing is left to search" in message
    assert "choices is empty" in only(
        tmp_path, arm(search_space={"r": {"type": "categorical", "choices": []}})
    )
    removed = {"r": None, "learning_rate": None, "lr_scheduler": None}
    assert "nothing is left" in only(tmp_path, arm(search_space=removed))


def test_log_range_from_zero(tmp_path: Path) -> None:
    space = {"learning_rate": {"type": "float", "low": 0, "high": 1e-3, "log": True}}
    message = only(tmp_path, arm(search_space=space))
    assert "search_space.learning_rate: a log range cannot start at 0" in message
    assert "1e-6" in message


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            {"r": {"type": "int", "low": -4, "high": 8}},
            "-4 is in the range, but r must be at least 1, got -4",
        ),
        ({"r": {"type": "float", "low": 1, "high": 8}}, "r must be a whole number"),
        ({"lr_scheduler": {"type": "categorical", "choices": ["cosin"]}}, "did you mean 'cosine'?"),
        ({"rank": DIMENSION}, "did you mean 'r'?"),
        ({"r": {"type": "categorical"}}, "choices: is required, but missing"),
        ({"r": {"choices": [1]}}, "`type` must be one of float, int, categorical; it is missing"),
        ({"r": {**DIMENSION, "when": {"schedule": 1}}}, "names an unknown key 'schedule'"),
        ({"lr_warmup_steps": {"type": "int", "low": 0, "high": 500}}, "must be below max_train_steps"),
        ({"max_train_steps": {"type": "int", "low": 10, "high": 99}}, "same budget of 50 steps"),
        ("fixd", "must be a mapping"),
    ],
)
def test_dimensions_are_tried_on_the_field(tmp_path: Path, space: Any, words: str) -> None:
    assert words in only(tmp_path, arm(search_space=space))


def test_a_field_is_either_fixed_or_searched(tmp_path: Path) -> None:
    assert "r is also fixed (4); remove one" in only(tmp_path, arm(r=4, search_space={"r": DIMENSION}))


def test_fixed_fields_are_validated_at_their_place(tmp_path: Path) -> None:
    assert ":11 arms.lora.r: must be at least 1, got 0" in only(tmp_path, arm(r=0))
    content = study_dict(training={"lr_warmup_steps": -1})
    assert "training.lr_warmup_steps: must be at least 0, got -1" in only(tmp_path, content), (
        "said once, not per arm"
    )
    assert "init_lora_weights: False starts with random" in only(tmp_path, arm(init_lora_weights=False))


def test_the_length_of_training_is_equal_for_all(tmp_path: Path) -> None:
    assert "write budget.max_train_steps" in only(tmp_path, study_dict(training={"max_train_steps": 9}))
    message = only(tmp_path, arm(max_train_steps=60))
    assert "same budget of 50 steps (budget.max_train_steps), got 60" in message
    assert (
        StudySpec.model_validate(arm(max_train_steps=40)).method_config("lora", {})["max_train_steps"] == 40
    )


def test_the_base_model_has_nothing_to_search(tmp_path: Path) -> None:
    content = study_dict(arms={"base": {"method": "base", "search_space": {"r": DIMENSION}}})
    assert "nothing to search" in only(tmp_path, content)


def test_duplicate_arms(tmp_path: Path) -> None:
    twice = "name: x\nsubjects: [cat-1]\narms:\n  lora: {method: lora}\n  lora: {method: dreambooth}\n"
    assert "study.yaml:5:3: key 'lora' occurs twice (first in line 4)" in only(tmp_path, twice)
    same = {"a": {"method": "lora"}, "b": {"method": "lora", "lora_dropout": 0.0}}
    assert "arms.b: is the same arm as 'a'" in only(tmp_path, study_dict(arms=same))
    cases = {"Lora": {"method": "lora"}, "lora": {"method": "dreambooth"}}
    assert "differs from 'Lora' only in case" in only(tmp_path, study_dict(arms=cases))


@pytest.mark.parametrize("search", [{"objective": "fidelty"}, {"objectives": ["quality", "fidelty"]}])
def test_wrong_metric(tmp_path: Path, search: dict[str, Any]) -> None:
    message = only(tmp_path, study_dict(search=search))
    assert (
        "unknown metric 'fidelty': did you mean 'prompt_fidelity' or 'subject_fidelity'? `study ls metrics` lists all"
        in message
    )


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (3, '3 is no mapping of metrics to bounds; write for example {class_kept: ">= 0.8"}'),
        ({"class_kept": 0.8}, 'class_kept: 0.8 is no bound; write for example class_kept: ">= 0.8"'),
        ({"class_kept": ">= 8"}, "class_kept: no run has >= 8, since 1 is the top of its scale"),
        ({"failed_images": "<= -0.1"}, "failed_images: no run has <= -0.1"),
        ({"clas_kept": ">= 0.8"}, "unknown metric 'clas_kept': did you mean 'class_kept'"),
    ],
)
def test_wrong_bound(tmp_path: Path, bound: Any, words: str) -> None:
    objective = {"maximize": "quality_subject_prompt", "subject_to": bound}
    assert words in only(tmp_path, study_dict(search={"objective": objective}))


def test_bounds_that_a_run_may_meet_are_taken(tmp_path: Path) -> None:
    for bound in ({"class_kept": ">= 1.02"}, {"failed_images": "<= 0"}, {"train_seconds": "<= 500"}):
        objective = {"maximize": "quality_subject_prompt", "subject_to": bound}
        spec = StudySpec.model_validate(study_dict(search={"objective": objective}))
        assert spec.search.objective is not None
        assert len(spec.search.objective.subject_to) == 1
        assert StudySpec.model_validate(spec.model_dump(mode="json")).search == spec.search


def test_prices_want_a_device(tmp_path: Path) -> None:
    message = only(tmp_path, study_dict(resources={"price_per_hour": 3}))
    assert "3 is no mapping of devices to dollars; write for example {gpu: 2.5, cpu: 0.05}" in message


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"objective": "quality", "objectives": ["drift"]}, "either objective (one metric) or objectives"),
        ({"objectives": []}, "is empty; name at least one metric"),
        ({"objectives": ["quality", "quality"]}, "names a metric twice"),
        ({"objectives": ["quality", "drift"], "sampler": "gp"}, "gp searches for one objective"),
        ({"objectives": ["quality", "drift"], "sampler": "grid"}, "grid searches for one objective"),
        ({"sampler": "cmaes"}, "must be one of tpe, random, gp, nsgaii, grid; got 'cmaes'"),
        ({"seeds": []}, "needs at least 1, got 0"),
        ({"seeds": [1, 1]}, "contains a seed twice"),
        ({"seeds": [-1]}, "must be at least 0"),
        ({"subjects": []}, "is empty; name at least one of: cat-1"),
        ({"subjects": ["cat-9"]}, "no subject 'cat-9'; did you mean 'cat-1'?"),
        ({"subjects": ["cat-1", "cat-1"]}, "is named twice"),
        ({"seeds": [7, 100]}, "seeds of the search are used again (100)"),
        ({"repeats": 0}, "must be at least 1, got 0"),
        ({"repeats": 2}, "there are 2 searches (search.repeats), but 1 confirm subject to be dealt out over"),
        (
            {"trials": 3, "trials_per_method": 8},
            "search.trials_per_method: stands beside trials; give one of the two",
        ),
        ({"batch_size": 0}, "must be at least 1, got 0"),
        ({"scheduler": "hyperband"}, "must be one of asha; got 'hyperband'"),
        ({"scheduler": {"type": "asha", "grace_fraction": 1}}, "must be below 1"),
    ],
)
def test_searches_that_cannot_be(tmp_path: Path, search: dict[str, Any], words: str) -> None:
    assert words in only(tmp_path, study_dict(search=search))


def test_several_objectives_need_no_early_stopping(tmp_path: Path) -> None:
    search = {"objectives": ["quality", "drift"], "scheduler": "asha"}
    found = problems(tmp_path, study_dict(search=search, evaluation={"at": [0.5]}))
    assert "compares runs by one objective" in found[0]


def test_early_stopping_needs_single_runs_and_rungs(tmp_path: Path) -> None:
    rungs = {"at": [0.25, 0.5]}
    assert StudySpec.model_validate(
        study_dict(search={"scheduler": "asha"}, evaluation=rungs)
    ).search.scheduler
    tuned = study_dict(
        search={"scheduler": "asha"}, evaluation=rungs, budget={"max_train_steps": 50, "tuned_from": 0.5}
    )
    assert "search.scheduler: asha compares runs at equal shares of their training" in only(tmp_path, tuned)
    message = only(tmp_path, study_dict(search={"scheduler": "asha", "seeds": [0, 1]}, evaluation=rungs))
    assert "a trial has 2 runs" in message
    assert "evaluation.at has none" in only(tmp_path, study_dict(search={"scheduler": "asha"}))
    late = study_dict(search={"scheduler": {"type": "asha", "grace_fraction": 0.8}}, evaluation=rungs)
    assert "at 0.8 of the steps or later" in only(tmp_path, late)


def test_a_grid_needs_finitely_many_values(tmp_path: Path) -> None:
    content = study_dict(search={"sampler": "grid", "trials": 50}, arms={"lora": {"method": "lora"}})
    message = only(tmp_path, content)
    assert "arms.lora.search_space.learning_rate: a grid search needs finitely many values" in message
    content["arms"] = {"lora": {"method": "lora", "learning_rate": 1e-3}}
    assert StudySpec.model_validate(content).trials_of("lora") == 4 * 2, "no more trials than points"


@pytest.mark.parametrize(
    "name", ["../up", "a/b", ".hidden", "white space", "", "ä", "a" * 65, "-x", "a\\b", "a:b"]
)
def test_names_with_path_characters(tmp_path: Path, name: str) -> None:
    assert "cannot be a name, because names become folders" in only(tmp_path, study_dict(name=name))
    # YAML keys and subjects too.
    assert f"{name!r} cannot be a name" in "\n".join(
        problems(tmp_path, study_dict(arms={name: {"method": "lora"}}))
    )
    assert f"{name!r} cannot be a name" in "\n".join(problems(tmp_path, study_dict(subjects=[name])))


def test_names_of_the_storage_folder_are_taken(tmp_path: Path) -> None:
    assert "used by the storage folder itself" in only(tmp_path, study_dict(name="cache"))


def test_subjects(tmp_path: Path) -> None:
    photo = {"name": "mug", "images": "photos"}
    assert "needs instance_prompt and class_prompt" in only(tmp_path, study_dict(subjects=[photo]))
    assert "'cat-1' occurs twice" in only(tmp_path, study_dict(subjects=["cat-1", "cat-1"]))
    assert "subjects: needs at least 1" in only(tmp_path, study_dict(subjects=[]))
    assert "subjects.0.name: is required" in only(tmp_path, study_dict(subjects=[{"images": "photos"}]))


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"cpus_per_run": 0}, "must be at least 1"),
        ({"gpus_per_run": -1}, "must be at least 0"),
        ({"gpus_per_run": 1.5}, "above 1 must be a whole number, got 1.5"),
        ({"max_concurrent_runs": 0}, "must be at least 1"),
        ({"gpu_per_run": 1}, "did you mean 'gpus_per_run'?"),
        ({"num_workers": 0}, "must be at least 1"),
        (
            {"num_workers": 2, "gpus_per_run": 1},
            "gpus_per_run: 1 is for runs with one worker, but num_workers is 2; write gpus_per_worker: 1",
        ),
        ({"num_workers": 2, "cpus_per_run": 8}, "write cpus_per_worker: 4 (of each worker) instead"),
        ({"cpus_per_run": 8, "cpus_per_worker": 4}, "8 stands beside cpus_per_worker: 4; give one of them"),
        ({"gpus_per_worker": 2}, "must be 0 or 1, since a worker computes on one GPU, got 2; for more GPUs"),
        ({"num_workers": 2, "parallel_strategy": "fdsp"}, "must be one of ddp, fsdp; got 'fdsp'"),
        ({"parallel_strategy": "fsdp"}, "but num_workers is 1; take at least 2 workers, or remove it"),
        ({"num_workers": 8}, "num_workers: is 8, but arm 'cosine' trains on batches of 4 images"),
    ],
)
def test_resources(tmp_path: Path, resources: dict[str, Any], words: str) -> None:
    assert words in only(tmp_path, study_dict(resources=resources))


def test_a_shared_model_is_trained_with_adamw(tmp_path: Path) -> None:
    resources = {"num_workers": 2, "parallel_strategy": "fsdp"}
    message = only(
        tmp_path, study_dict(resources=resources, arms={"one": {"method": "lora", "optimizer": "prodigy"}})
    )
    assert "resources.parallel_strategy: is fsdp" in message
    assert "arm 'one' has optimizer: prodigy; take adamw" in message
    searched = {"optimizer": {"type": "categorical", "choices": ["adamw", "adamw_8bit"]}}
    message = only(
        tmp_path,
        study_dict(
            resources=resources,
            arms={"two": {"method": "lora", "search_space": searched}, "b": {"method": "base"}},
        ),
    )
    assert "arm 'two' has optimizer: adamw_8bit" in message


def test_evaluation_and_storage(tmp_path: Path) -> None:
    assert "fractions of max_train_steps in (0, 1], got 2.0" in only(
        tmp_path, study_dict(evaluation={"at": [2]})
    )
    assert "lacks the placeholder {subject}" in only(tmp_path, study_dict(evaluation={"prompts": ["a cat"]}))
    assert "must be a URL such as sqlite" in only(tmp_path, study_dict(storage={"ledger_url": "ledger.db"}))


def test_the_python_api_says_the_same() -> None:
    with pytest.raises(ValidationError, match="empty search space"):
        StudySpec.model_validate(arm(search_space={}))
