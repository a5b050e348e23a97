"""The table of methods: what each row is the mean of, and that all methods are in it."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import embedded_search, methods
from benchmarks.support.single_run import fields_of
from trainables.methods.adapter_kinds import KINDS
from trainables.methods.registry import method_config_class, method_names


def test_all_methods_and_kinds_of_adapters_are_compared() -> None:
    assert set(methods.NAMES) == {*method_names(), *KINDS}  # `lora` is both
    assert len(methods.NAMES) == len(set(methods.NAMES))


@pytest.mark.parametrize("name", methods.NAMES)
def test_methods_are_told_what_they_read(name: str) -> None:
    method, fields = fields_of(name, 50, with_prior_preservation=True)
    config = method_config_class(method).model_validate(fields)
    assert config.without_effect(fields) == []
    if name != "base":
        assert (config.max_train_steps, config.train_batch_size, config.lr_warmup_steps) == (50, 2, 5)
    trains_text = {"lora", "dreambooth", "dreambooth_lora", "text_to_image", *KINDS}
    assert config.train_text_encoder == (name in trains_text)


def _run(subject: str, seed: int, quality: float, **others: Any) -> dict[str, Any]:
    figures = {"quality": quality, "train_seconds": 2.0, "peak_memory_bytes": (5 + seed) * 2**20}
    return {"state": "COMPLETE", "subject": subject, "seed": seed, **figures, **others}


def test_a_row_is_the_mean_over_subjects_of_means_over_seeds() -> None:
    runs = [
        _run("cat-9", 0, 0.2),
        _run("cat-9", 1, 0.4),
        _run("bear-9", 0, 0.7, train_seconds=5.0),
        {"state": "FAIL", "subject": "bear-9", "seed": 1},
    ]
    cells = [cell.strip() for cell in methods.row_of("lora", runs).strip("|").split("|")]
    head = [cell.strip() for cell in methods.head().splitlines()[0].strip("|").split("|")]
    assert len(cells) == len(head) == len(methods.head().splitlines()[1].strip("|").split("|"))
    row = dict(zip(head, cells, strict=True))
    # Subjects' means are .3 and .7, whatever number of runs each has.
    assert row["Quality"] == "0.50 (0.28)"
    assert row["Training time, s"] == "3.0"
    assert row["Peak memory, MiB"] == "5"
    assert (row["Drift"], row["Runs"]) == ("-", "3/4")


def test_costs_and_measures_have_their_titles_and_units() -> None:
    head = methods.head()
    for title in (
        "Trained parameters",
        "Training FLOPs",
        "Weights on disk, MB",
        "Prompt fidelity",
        "Diversity",
        "Drift",
    ):
        assert title in head


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--steps", "8"], "pivotal_tuning with --steps 8: lr_warmup_steps (5) must be below"),
        (["--steps", "4"], "must be below max_train_steps (4); take more steps"),
        (["--subjects", "cat-99"], "no embedded subject 'cat-99'; there are"),
        (["--methods", "lorra"], "invalid choice: 'lorra'"),
    ],
)
@pytest.mark.parametrize("command", [methods, embedded_search])
def test_what_cannot_run_is_said_before_anything_starts(
    command: Any, asked: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--out", str(tmp_path / "runs.jsonl"), *asked])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_real_run_has_all_of_the_table(tmp_path: Path) -> None:
    key = {"name": "ia3", "subject": "cat-9", "seed": 0, "steps": 6}
    evaluation = {
        "num_prompts": 2,
        "images_per_prompt": 2,
        "num_class_images": 2,
        "anchor_images": 2,
        "num_inference_steps": 1,
    }
    run = methods.measured(key, evaluation, str(tmp_path))
    assert run["state"] == "COMPLETE"
    assert run["train_steps"] == 6
    assert {*methods.COSTS, *methods.MEASURES} <= set(run)
    assert run["trainable_parameters"] == 19_200
