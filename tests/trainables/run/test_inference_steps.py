"""Runs that are drawn in other numbers of solver steps too: what it gives, and that it changes nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from tests.helpers.training_runs import MakeConfig
from trainables.config.fields import EvaluationConfig
from trainables.evaluation.scoring import SUBJECT_AND_PROMPT
from trainables.events import Event, read_events
from trainables.run import execute as life
from trainables.run.execute import execute
from trainables.run.resident import Resident
from trainables.run_config import RunConfig, config_digest

STEPS = (1, 2, 5)  # results are judged in two


def with_steps(config: RunConfig, *steps: int, **evaluation: Any) -> RunConfig:
    content = config.evaluation.model_dump() | {"inference_steps": steps, **evaluation}
    return config.model_copy(update={"evaluation": EvaluationConfig.model_validate(content)})


def told(config: RunConfig) -> list[Event]:
    return [event for event in read_events(Path(config.output_dir)) if event.kind == "inference"]


def result_of(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content


def files_of(config: RunConfig, *patterns: str) -> dict[str, bytes]:
    folder = Path(config.output_dir)
    found = [path for pattern in patterns for path in sorted(folder.rglob(pattern))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.parametrize("method", ["base", "lora", "textual_inversion"])
def test_all_else_of_a_run_is_the_same_bit_by_bit(
    method: str, make_config: MakeConfig, resident: Resident
) -> None:
    without = make_config(method, "without", at=(0.5,))
    config = with_steps(make_config(method, "with", at=(0.5,)), *STEPS)
    for one in (without, config):
        list(execute(one, resident))
    ours, theirs = result_of(config), result_of(without)
    assert ours["state"] == theirs["state"] == "COMPLETE"
    assert ours["evaluation"] == theirs["evaluation"]
    assert ours["best"] == theirs["best"]
    for name in ("train_flops", "trainable_parameters", "artifact_bytes", "inference_bytes"):
        assert ours["cost"][name] == theirs["cost"][name]
    patterns = "*.safetensors", "*.csv", "*.png"
    assert files_of(config, *patterns) == files_of(without, *patterns)
    assert files_of(config, *patterns)
    shown = [
        [(event.kind, event.step, event.data) for event in read_events(Path(one.output_dir))
         if event.kind in ("evaluation", "image", "best")]
        for one in (config, without)
    ]  # fmt: skip
    assert shown[0] == shown[1]
    assert told(without) == []
    assert "inference" not in theirs


@pytest.mark.parametrize("method", ["base", "lora"])
def test_scores_at_the_number_of_steps_of_the_result_are_the_results(
    method: str, make_config: MakeConfig, resident: Resident
) -> None:
    """One image a prompt, so that the same images are drawn, but in a batch without class images, which may round."""
    config = with_steps(make_config(method), *STEPS)
    list(execute(config, resident))
    result, events = result_of(config), told(config)
    assert [event.data["inference_steps"] for event in events] == list(STEPS)
    assert {event.step for event in events} == {0 if method == "base" else 4}
    assert [event.data for event in events] == result["inference"]
    for event in events:
        assert set(event.data) == {"inference_steps", *SUBJECT_AND_PROMPT}
    own, other = result["inference"][1], result["inference"][0]
    for name in SUBJECT_AND_PROMPT:
        expected = result["evaluation"][name]
        assert own[name] == (expected if expected is None else pytest.approx(expected, abs=1e-3))
    assert other["subject_fidelity"] != own["subject_fidelity"]


def test_no_more_than_two_images_of_a_prompt_are_drawn(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.evaluation import evaluator

    drawn, generate = [], evaluator.generate

    def spied(backbone: Any, prompts: Any, **settings: Any) -> Any:
        drawn.append((settings["num_inference_steps"], tuple(settings["seeds"])))
        return generate(backbone, prompts, **settings)

    monkeypatch.setattr(evaluator, "generate", spied)
    config = with_steps(make_config("base"), 3, 7, images_per_prompt=3)
    list(execute(config, resident))
    ((_, seeds),) = [one for one in drawn if one[0] == 3]
    assert drawn[-2:] == [(3, seeds), (7, seeds)]  # the same noise
    scores = (Path(config.output_dir) / "image_scores.csv").read_text().splitlines()
    of_result = [line.split(",") for line in scores[1:] if line.startswith("instance")]
    assert len(of_result) == 6
    assert [str(seed) for seed in seeds] == [line[4] for line in of_result if line[3] in ("0", "1")]


def test_it_counts_as_evaluation(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainables.training import meter

    now = [0.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(*_: Any) -> dict[str, float | None]:
        now[0] += 3.0
        return dict.fromkeys(SUBJECT_AND_PROMPT, 0.5)

    monkeypatch.setattr(life, "evaluate_at_steps", slow)
    config = with_steps(make_config("base"), *STEPS)
    list(execute(config, resident))
    assert result_of(config)["cost"]["evaluation_seconds"] == 9.0


@pytest.mark.parametrize(
    "steps", [[0], [4, 4], [8, 4], [1001], [4.0], [True], ["4"], 4, "4", {"4": 1}, [4, None]]
)
def test_what_is_no_list_of_increasing_numbers_is_refused(steps: Any) -> None:
    with pytest.raises(ValidationError, match="takes whole numbers from 1 to 1000 in increasing order"):
        EvaluationConfig(inference_steps=steps)


def test_a_run_without_it_keeps_its_digest(make_config: MakeConfig) -> None:
    config = make_config("base")
    document = config.model_dump(mode="json")
    before = {name: value for name, value in document["evaluation"].items() if name != "inference_steps"}
    assert config.digest() == config_digest({**document, "evaluation": before})
    assert EvaluationConfig(inference_steps=None) == EvaluationConfig()
    assert with_steps(config, 4, 8).digest() != config.digest()
    assert RunConfig.model_validate_json(with_steps(config, 4, 8).model_dump_json()) == with_steps(
        config, 4, 8
    )
