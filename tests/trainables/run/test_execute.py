"""The life of a run: how it ends, what it leaves, how it goes on after it was killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.run_files import wait_for, write_yaml
from tests.helpers.training_runs import MakeConfig
from trainables.errors import UserError
from trainables.events import EVALUATION_FILE, IMAGE_SCORES, Event, EventLog, read_events
from trainables.models.backbone import Backbone
from trainables.run import execute as run
from trainables.run.contents import sealed
from trainables.run.execute import execute
from trainables.run.outcomes import is_out_of_memory
from trainables.run.resident import Resident
from trainables.run_config import RunConfig
from trainables.training import loop

ROOT = Path(__file__).parents[3]


def result_of(config: RunConfig) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(config.output_dir) / "result.json").read_text())
    return content


def base_digest(resident: Resident, config: RunConfig) -> str:
    backbone: Backbone = resident.backbone(config.model, torch.device("cpu"))
    return backbone.parameter_digest()


def test_a_run_leaves_events_weights_samples_and_a_result(
    make_config: MakeConfig, resident: Resident
) -> None:
    config = make_config("lora", at=(0.5,))
    folder = Path(config.output_dir)
    yielded = list(execute(config, resident))
    assert yielded == read_events(folder)
    assert [event.number for event in yielded] == list(range(1, len(yielded) + 1))
    assert yielded[0].kind == "started"
    assert yielded[-1].kind == "finished"
    assert yielded[-1].data["state"] == "COMPLETE"
    evaluations = [event for event in yielded if event.kind == "evaluation"]
    assert [(event.step, event.data["final"]) for event in evaluations] == [(2, False), (4, True)]
    progress = [event for event in yielded if event.kind == "progress"]
    assert [event.step for event in progress] == [1, 2, 3, 4]
    assert all(event.data["loss"] > 0 and event.data["steps_per_second"] > 0 for event in progress)
    for event in yielded:
        if event.kind == "image":
            assert (folder / event.data["path"]).is_file()

    result = result_of(config)
    assert result["state"] == "COMPLETE"
    assert result["reason"] is None
    assert result["weights"] == "weights"
    assert result["attempts"] == 1
    assert result["config_digest"] == sealed(config).digest()
    assert "final" not in result["evaluation"]
    assert result["evaluation"]["subject_fidelity"] == evaluations[1].data["subject_fidelity"]
    cost = result["cost"]
    for name in (
        "train_seconds",
        "device_seconds",
        "preparation_seconds",
        "evaluation_seconds",
        "train_flops",
    ):
        assert cost[name] > 0
    assert cost["lost_seconds"] == 0
    assert cost["peak_memory_bytes"] > 10**7
    assert cost["peak_memory_kind"] == "resident_set"
    assert cost["artifact_bytes"] == (folder / "weights" / "pytorch_lora_weights.safetensors").stat().st_size
    assert cost["image_latency_seconds"] > 0
    assert RunConfig.model_validate_json((folder / "run.json").read_text()) == sealed(config)
    assert not (folder / "checkpoint").exists()


def test_a_finished_run_is_not_run_again(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("base")
    list(execute(config, resident))
    before = {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*")}
    assert list(execute(config, resident)) == []
    assert {path: path.stat().st_mtime_ns for path in Path(config.output_dir).rglob("*")} == before


def test_the_base_model_is_evaluated_and_not_trained(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("base")
    events = list(execute(config, resident))
    result = result_of(config)
    assert result["state"] == "COMPLETE"
    assert result["weights"] is None
    assert result["evaluation"]["drift"] == pytest.approx(0, abs=1e-6)
    assert result["cost"]["train_seconds"] == result["cost"]["train_flops"] == 0
    assert result["cost"]["trainable_parameters"] == 0
    assert "progress" not in {event.kind for event in events}


def test_two_runs_with_one_seed_are_identical_and_another_seed_is_not(
    make_config: MakeConfig, resident: Resident
) -> None:
    def weights(folder: str, seed: int) -> bytes:
        config = make_config("lora", folder, seed=seed)
        list(execute(config, resident))
        return (Path(config.output_dir) / "weights" / "pytorch_lora_weights.safetensors").read_bytes()

    assert weights("a", 0) == weights("b", 0)
    assert weights("c", 1) != weights("a", 0)


def break_step(monkeypatch: pytest.MonkeyPatch, at: int, action: Any) -> None:
    """Makes step `at` of a training do something else."""
    original = loop.batch_loss

    def batch_loss(trainer: loop.Trainer, batch: Any) -> torch.Tensor:
        if trainer.step == at:
            return torch.as_tensor(action(original(trainer, batch)))
        return original(trainer, batch)

    monkeypatch.setattr(loop, "batch_loss", batch_loss)


def raising(error: BaseException) -> Any:
    def action(_: torch.Tensor) -> torch.Tensor:
        raise error

    return action


@pytest.mark.parametrize(
    ("action", "reason", "message"),
    [
        (lambda loss: loss * float("nan"), "nan_loss", "learning rate"),
        (lambda loss: loss * float("inf"), "nan_loss", "steps 3 to 3"),
        (raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")), "out_of_memory", "CUDA"),
        (raising(MemoryError()), "out_of_memory", "MemoryError"),
        (
            raising(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")),
            "out_of_memory",
            "allocate",
        ),
        (raising(ZeroDivisionError("bad luck")), "exception", "bad luck"),
    ],
)
def test_a_run_that_cannot_go_on_is_a_failure_with_its_reason(
    action: Any,
    reason: str,
    message: str,
    make_config: MakeConfig,
    resident: Resident,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config("dreambooth")
    before = base_digest(resident, config)
    break_step(monkeypatch, 2, action)
    events = list(execute(config, resident))
    result = result_of(config)
    assert (result["state"], result["reason"]) == ("FAIL", reason)
    assert message in result["message"]
    assert "Traceback" in result["traceback"]
    assert events[-1].data["state"] == "FAIL"
    assert result["cost"]["train_seconds"] > 0
    assert result["weights"] is None
    assert base_digest(resident, config) == before
    assert list(execute(config, resident)) == []


def test_a_users_mistake_is_told_as_such(make_config: MakeConfig, resident: Resident, tmp_path: Path) -> None:
    config = make_config("lora")
    missing = config.subject.model_copy(update={"images": str(tmp_path / "nowhere")})
    list(execute(config.model_copy(update={"subject": missing}), resident))
    assert result_of(config)["reason"] == "user_error"
    assert "nowhere" in result_of(config)["message"]


def test_out_of_memory_is_not_seen_where_it_is_not() -> None:
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_closing_the_generator_prunes_the_run(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("dreambooth_lora", max_train_steps=6, at=(0.5,))
    before = base_digest(resident, config)
    events = execute(config, resident)
    for event in events:
        if event.kind == "evaluation":
            break
    events.close()
    result = result_of(config)
    assert result["state"] == "PRUNED"
    assert result["evaluation"]["subject_fidelity"] == event.data["subject_fidelity"]
    assert result["cost"]["train_seconds"] > 0
    assert read_events(Path(config.output_dir))[-1].data["state"] == "PRUNED"
    assert base_digest(resident, config) == before
    assert result["cost"]["train_flops"] > 0
    assert list(execute(config, resident)) == []


def test_an_interrupted_run_is_not_ended_and_its_lost_work_is_counted(
    make_config: MakeConfig, resident: Resident, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("lora", max_train_steps=8, checkpointing_steps=4)
    original = loop.train_step

    def slow_step(trainer: loop.Trainer) -> Any:
        time.sleep(0.05)
        return original(trainer)

    monkeypatch.setattr(loop, "train_step", slow_step)
    events = execute(config, resident)
    for event in events:
        if event.kind == "progress" and event.step == 7:
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert not (Path(config.output_dir) / "result.json").exists()
    assert read_events(Path(config.output_dir))[-1].kind != "finished"

    again = list(execute(config, resident))
    assert again[0].data["attempt"] == 2
    assert again[0].data["resumed_step"] == 4
    # Steps 5 to 7 are done again and reported once.
    steps = [event.step for event in read_events(Path(config.output_dir)) if event.kind == "progress"]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]
    result = result_of(config)
    assert result["attempts"] == 2
    assert result["cost"]["lost_seconds"] > 3 * 0.05
    assert result["cost"]["train_seconds"] > 8 * 0.05
    whole = make_config("lora", "whole", max_train_steps=8, checkpointing_steps=4)
    list(execute(whole, resident))
    assert result["cost"]["train_flops"] == result_of(whole)["cost"]["train_flops"]


def test_a_run_killed_between_its_last_event_and_its_result_gets_the_result(
    make_config: MakeConfig, resident: Resident
) -> None:
    config = make_config("base")
    list(execute(config, resident))
    path = Path(config.output_dir) / "result.json"
    content = path.read_text()
    path.unlink()
    assert list(execute(config, resident)) == []
    assert path.read_text() == content


def test_a_folder_belongs_to_one_configuration(make_config: MakeConfig, resident: Resident) -> None:
    first = make_config("base")
    events = execute(first, resident)
    next(events)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    with pytest.raises(UserError, match="another configuration"):
        next(execute(make_config("lora"), resident))


def test_two_processes_do_not_train_one_run(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("base")
    first = execute(config, resident)
    next(first)
    with pytest.raises(RuntimeError, match="another process"):
        next(execute(config, Resident()))
    list(first)
    assert result_of(config)["state"] == "COMPLETE"


def test_event_log_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append("progress", 3, loss=1.0)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"number": 2, "ti')
    again = EventLog(tmp_path)
    assert again.append("progress", 2, loss=0.5).number == 2
    assert again.last_step("progress") == 3
    assert again.last_step("evaluation") == -1
    assert [event.number for event in read_events(tmp_path)] == [1, 2]
    with pytest.raises(ValueError, match="JSON"):
        again.append("progress", 4, loss=float("nan"))


def test_killed_by_the_system_and_resumed_is_bit_identical(
    make_config: MakeConfig, resident: Resident, tmp_path: Path
) -> None:
    fields = {"max_train_steps": 60, "checkpointing_steps": 3, "lr_scheduler": "cosine", "lora_dropout": 0.1}
    whole, broken = (
        make_config("dreambooth_lora", "whole", **fields),
        make_config("dreambooth_lora", "broken", **fields),
    )
    list(execute(whole, resident))
    command = [sys.executable, "-m", "trainables", str(write_yaml(broken, tmp_path / "broken.yaml"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_for(Path(broken.output_dir), "progress", 10, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (Path(broken.output_dir) / "result.json").exists()
    resumed = list(execute(broken, resident))
    assert 9 <= resumed[0].data["resumed_step"] < 60
    weights = [
        (Path(config.output_dir) / "weights" / "pytorch_lora_weights.safetensors").read_bytes()
        for config in (whole, broken)
    ]
    assert weights[0] == weights[1]
    assert result_of(broken)["evaluation"] == result_of(whole)["evaluation"]
    assert result_of(broken)["attempts"] == 2


def test_a_damaged_newest_checkpoint_costs_steps_not_the_run(
    make_config: MakeConfig, resident: Resident
) -> None:
    config = make_config("lora", max_train_steps=6)
    events = execute(config, resident)
    for event in events:
        if event.kind == "checkpoint" and event.step == 4:
            break
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    newest = Path(config.output_dir) / event.data["path"] / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    again = list(execute(config, resident))
    assert again[0].data["resumed_step"] == 2
    assert result_of(config)["state"] == "COMPLETE"


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_evaluations_on_the_way_have_the_precision_of_the_last(
    method: str, make_config: MakeConfig, resident: Resident
) -> None:
    """With weights that training does not change, bf16 gave other numbers on the way than at the end."""
    still = {"learning_rate": 1e-30, "adam_weight_decay": 0.0, "mixed_precision": "bf16"}
    config = make_config(method, at=(0.5,), **still)
    between, last = (event.data for event in execute(config, resident) if event.kind == "evaluation")
    assert (between.pop("final"), last.pop("final")) == (False, True)
    assert between == last
    assert last["subject_fidelity"] is not None


@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_evaluations_on_the_way_change_nothing_of_training(
    method: str, make_config: MakeConfig, resident: Resident
) -> None:
    fields = {"mixed_precision": "bf16", "use_ema": True, "lora_dropout": 0.1} if method == "lora" else {
        "mixed_precision": "bf16", "train_text_encoder": True,
    }  # fmt: skip
    weights, losses = [], []
    for folder, at in (("with", (0.25, 0.5, 0.75)), ("without", ())):
        config = make_config(method, folder, at=at, **fields)
        events = list(execute(config, resident))
        losses.append([event.data["loss"] for event in events if event.kind == "progress"])
        files = sorted((Path(config.output_dir) / "weights").rglob("*.safetensors"))
        weights.append([file.read_bytes() for file in files])
        assert len([event for event in events if event.kind == "evaluation"]) == len(at) + 1
    assert losses[0] == losses[1]
    assert weights[0] == weights[1]
    assert weights[0]


def test_an_evaluation_that_broke_off_is_made_by_the_next_attempt(
    make_config: MakeConfig, resident: Resident
) -> None:
    """The checkpoint of its step is there before it begins, so that nothing of that step is trained again."""
    found = []
    for folder, broken in (("whole", False), ("broken", True)):
        config = make_config("lora", folder, at=(0.5,), checkpointing_steps=2)
        run = execute(config, resident)
        for event in run if broken else ():
            if event.kind == "phase" and event.data["name"] == "evaluate" and event.step == 2:
                with pytest.raises(KeyboardInterrupt):
                    run.throw(KeyboardInterrupt())
                break
        list(execute(config, resident) if broken else run)
        events = [event for event in read_events(Path(config.output_dir)) if event.kind == "evaluation"]
        found.append([(event.step, event.data) for event in events])
    assert [step for step, _ in found[0]] == [2, 4]
    assert found[1] == found[0]


def test_a_run_leaves_the_scores_of_its_images(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("lora", at=(0.5,))
    events = list(execute(config, resident))
    (artifact,) = (event for event in events if event.kind == "artifact" and event.data["role"] == "scores")
    path = Path(config.output_dir) / IMAGE_SCORES
    assert artifact.data == {"path": IMAGE_SCORES, "role": "scores", "bytes": path.stat().st_size}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["instance"] * 2 + ["class"] * 2
    assert {row["copy"] for row in rows[:2]} <= {"0", "1"}
    provenance = json.loads((Path(config.output_dir) / EVALUATION_FILE).read_text())
    assert provenance["anchors"]["images"] == 2  # of two templates, as the settings of these tests say
    errors = [f"{name}_error" for name in ("subject_real", "subject_base", "prompt_floor", "class_base")]
    assert set(errors) < set(provenance["anchors"])
    similarity = sum(float(row["subject_similarity"]) for row in rows[:2]) / 2
    assert result_of(config)["evaluation"]["subject_fidelity"] == pytest.approx(similarity)


def test_the_event_is_on_disk_before_it_is_yielded(make_config: MakeConfig, resident: Resident) -> None:
    config = make_config("base")

    def newest() -> Event:
        return read_events(Path(config.output_dir))[-1]

    assert all(newest() == event for event in execute(config, resident))


def test_names_that_others_import() -> None:
    assert run.Resident is Resident
