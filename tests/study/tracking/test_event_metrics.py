"""From events to batches: pure functions, no MLflow."""

from __future__ import annotations

import itertools
import json

from study.tracking.event_metrics import batches, corrections, curve_of, latest_metrics, milliseconds
from study.tracking.params import flat_params
from trainables.config.fields import SubjectConfig
from trainables.events import Event


def progress(number: int, step: int, **data: float | None) -> Event:
    return Event(number, 1000.0 + number, "progress", step, dict(data))


def names(found: list) -> list[tuple[str, int, float]]:
    return [(metric.name, metric.step, metric.value) for batch in found for metric in batch.metrics]


def test_events_become_points_under_their_group_with_step_and_time() -> None:
    events = [
        progress(1, 10, loss=0.5, learning_rate=1e-3),
        Event(2, 1002.5, "evaluation", 10, {"quality": 0.3, "class_kid": None, "final": False}),
        Event(3, 1003.0, "cost", 10, {"train_seconds": 4, "peak_memory_kind": "resident_set"}),
    ]
    (batch,) = batches(events, 0)
    assert names([batch]) == [
        ("train/loss", 10, 0.5),
        ("train/learning_rate", 10, 1e-3),
        ("eval/quality", 10, 0.3),
        ("cost/train_seconds", 10, 4.0),
    ]
    assert [metric.time for metric in batch.metrics] == [1001000, 1001000, 1002500, 1003000]
    assert batch.tags == {"peak_memory_kind": "resident_set"}
    assert batch.last_event == 3


def test_only_what_is_new_is_returned() -> None:
    events = [progress(number, number, loss=float(number)) for number in range(1, 6)]
    assert names(batches(events, 3)) == [("train/loss", 4, 4.0), ("train/loss", 5, 5.0)]
    assert batches(events, 5) == []


def test_repeated_steps_of_a_resumed_attempt_count_once_even_across_calls() -> None:
    events = [
        progress(1, 10, loss=1.0),
        progress(2, 20, loss=2.0),
        Event(3, 1003.0, "image", 20, {"key": "samples", "path": "samples/a.png"}),
        Event(4, 1004.0, "started", None, {"attempt": 2, "resumed_step": 10}),
        progress(5, 20, loss=2.5),
        Event(6, 1006.0, "image", 20, {"key": "samples", "path": "samples/a.png"}),
        progress(7, 30, loss=3.0),
    ]
    assert names(batches(events, 0)) == [
        ("train/loss", 10, 1.0),
        ("train/loss", 20, 2.0),
        ("train/loss", 30, 3.0),
    ]
    assert names(batches(events, 4)) == [("train/loss", 30, 3.0)]
    assert [image.number for batch in batches(events, 0) for image in batch.images] == [3]
    assert batches(events, 0)[-1].tags == {"attempt": "2"}


def test_a_long_backlog_is_cut_into_batches_that_tile_the_events() -> None:
    events = [
        progress(number, number, loss=1.0, learning_rate=0.1, gradient_norm=2.0) for number in range(1, 1001)
    ]
    found = batches(events, 0, limit=1000)
    assert max(len(batch.metrics) for batch in found) <= 1000
    assert sum(len(batch.metrics) for batch in found) == 3000
    assert [batch.last_event for batch in found] == sorted({batch.last_event for batch in found})
    assert found[-1].last_event == 1000
    for before, batch in itertools.pairwise(found):
        assert batch.metrics[0].step == before.last_event + 1


def test_batches_after_any_point_give_the_rest_exactly() -> None:
    events = [progress(number, 10 * (number // 2), loss=float(number)) for number in range(1, 40)]
    whole = names(batches(events, 0, limit=7))
    for after in range(40):
        earlier = names(batches(events[:after], 0))
        assert earlier + names(batches(events, after)) == whole


def test_the_result_has_the_last_word() -> None:
    events = [
        Event(1, 1.0, "evaluation", 50, {"quality": 0.4, "drift": 0.1}),
        Event(2, 2.0, "evaluation", 100, {"quality": 0.5, "drift": 0.1}),
        Event(3, 3.0, "cost", 100, {"train_seconds": 9.0}),
        Event(4, 4.0, "finished", None, {"state": "COMPLETE"}),
    ]
    result = {"evaluation": {"quality": 0.6, "drift": 0.1, "class_kid": None}, "cost": {"train_seconds": 9.0}}
    (correction,) = corrections(events, result)
    assert (correction.name, correction.step, correction.value) == ("eval/quality", 100, 0.6)
    assert correction.time > milliseconds(2.0)
    assert latest_metrics(events)["eval/quality"].value == 0.5
    assert corrections(events, {"evaluation": {"quality": 0.5}}) == []


def test_params_are_flat_and_keep_their_types_readable() -> None:
    document = {
        "method": "lora",
        "model": {"path": "embedded", "revision": None},
        "training": {"learning_rate": 1e-4, "r": 8, "use_ema": False, "target_modules": ["to_k", "to_q"]},
        "output_dir": "/somewhere",
        "cache_dir": "/somewhere",
        "cpu_threads": 1,
        "device": "cpu",
    }
    params = flat_params(document)
    assert params == {
        "method": "lora",
        "model.path": "embedded",
        "training.learning_rate": "0.0001",
        "training.r": "8",
        "training.use_ema": "false",
        "training.target_modules": '["to_k", "to_q"]',
    }
    assert json.loads(params["training.learning_rate"]) == 1e-4


def test_the_holdout_of_a_subject_is_no_parameter_of_a_data_set() -> None:
    def params(**subject: object) -> dict[str, str]:
        content = SubjectConfig.model_validate(subject).model_dump(mode="json")
        return flat_params({"method": "lora", "subject": content})

    assert params(name="cat-1")["subject.holdout"] == "2"
    own = params(name="mine", dataset={"path": "/pictures", "holdout": 0.25})
    assert "subject.holdout" not in own
    assert own["subject.dataset.holdout"] == "0.25"
    assert "subject.holdout" not in params(name="emoji")


def test_what_chose_a_step_is_never_among_the_results() -> None:
    """What chose and the result are two evaluations of the last step; a resumed attempt repeats the result."""
    best = {
        "best_step": 10,
        "value": 0.7,
        "end_value": 0.6,
        "metric": "quality",
        "evaluations": 2,
        "restored": True,
    }
    events = [
        Event(1, 1001.0, "evaluation", 10, {"quality": 0.7, "drift": 0.1, "final": False, "choice": "*"}),
        Event(2, 1002.0, "evaluation", 20, {"quality": 0.6, "drift": 0.2, "final": False, "choice": "*"}),
        Event(3, 1003.0, "evaluation", 20, {"quality": 0.65, "drift": None, "final": True}),
        Event(4, 1004.0, "started", None, {"attempt": 2, "resumed_step": 20}),
        Event(5, 1005.0, "evaluation", 20, {"quality": 0.65, "drift": None, "final": True}),
        Event(6, 1006.0, "best", 20, best),
    ]
    (batch,) = batches(events, 0)
    assert names([batch]) == [
        ("choice/quality", 10, 0.7),
        ("choice/drift", 10, 0.1),
        ("choice/quality", 20, 0.6),
        ("choice/drift", 20, 0.2),
        ("eval/quality", 20, 0.65),
        ("best/step", 20, 10.0),
        ("best/value", 20, 0.7),
        ("best/end_value", 20, 0.6),
        ("best/evaluations", 20, 2.0),
    ]
    assert (batch.tags["best_metric"], batch.tags["best_restored"]) == ("quality", "true")
    assert latest_metrics(events)["eval/quality"].value == 0.65
    assert corrections(events, {"evaluation": {"quality": 0.65, "drift": None}, "best": best}) == []
    loss = Event(
        1, 1001.0, "evaluation", 10, {"quality": 0.7, "held_out_loss": 0.2, "choice": "held_out_loss"}
    )
    assert names(batches([loss], 0)) == [("eval/quality", 10, 0.7), ("choice/held_out_loss", 10, 0.2)]


def test_scores_at_numbers_of_solver_steps_are_a_curve_of_their_own() -> None:
    """MLflow's step is the number of solver steps, and no name is one of the results' or of training's."""
    events = [
        Event(1, 1001.0, "evaluation", 50, {"subject_fidelity": 0.5, "final": True}),
        Event(2, 1002.0, "inference", 50, {"inference_steps": 4, "subject_fidelity": 0.2, "quality": None}),
        Event(3, 1003.0, "inference", 50, {"inference_steps": 25, "subject_fidelity": 0.6}),
        Event(4, 1004.0, "started", None, {"attempt": 2}),
        Event(5, 1005.0, "inference", 50, {"inference_steps": 4, "subject_fidelity": 0.2}),
    ]
    assert names(batches(events, 0)) == [
        ("eval/subject_fidelity", 50, 0.5),
        ("inference/subject_fidelity", 4, 0.2),
        ("inference/subject_fidelity", 25, 0.6),
    ]
    assert curve_of("inference/subject_fidelity") == "inference/subject_fidelity"
    assert latest_metrics(events)["eval/subject_fidelity"].value == 0.5
    assert corrections(events, {"evaluation": {"subject_fidelity": 0.5}}) == []
