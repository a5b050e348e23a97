"""Plans: what would run, what is already done, what it would take; and the probe behind the estimates."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.tiny_models import make_tiny_model
from study.api import plan_study
from study.preflight import measuring, probe
from study.preflight.estimates import rough_bytes
from study.preflight.forecast import Forecast, forecast
from study.preflight.plan import make_plan
from study.preflight.probe import Measured, known_probe, probe_machine
from study.preflight.workload import expected_share, images_of, once_image_steps
from study.spec.loading import read_contents
from study.spec.study_spec import StudySpec
from study.storage.layout import Storage
from study.util.units import duration
from tests.helpers.study_files import study_dict
from trainables.errors import UserError

COST = Measured(
    method="",
    seconds_per_step=0.5,
    flops_per_step=10**9,
    seconds_per_image_step=0.01,
    flops_per_image_step=2 * 10**7,
    seconds_per_trained_image_step=0.02,
    latency_figures=1,
    seconds_per_image=0.05,
    preparation_seconds=1.0,
    saving_seconds=0.5,
    peak_memory_bytes=10**9,
    artifact_bytes=2 * 10**6,
    start_up_seconds=9.0,
)
BY_METHOD = {
    "base": replace(COST, method="base", peak_memory_bytes=None, artifact_bytes=0),
    "lora": replace(COST, method="lora"),
    "dreambooth": replace(COST, method="dreambooth", seconds_per_step=1.0, peak_memory_bytes=2 * 10**9),
}


def measured(study: StudySpec) -> dict[str, Measured]:
    return {name: BY_METHOD[arm.method] for name, arm in study.arms.items()}


def spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(study_dict(**changes))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path, "small")


def touch(storage: Storage, name: str, *files: str) -> None:
    folder = storage.folder / "runs" / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text("{}")


def test_counts_of_a_study_that_was_never_launched(storage: Storage) -> None:
    plan = make_plan(spec(), storage, at_once=2)
    rows = {row["arm"]: row for row in plan.rows()}
    assert (rows["base"]["trials"], rows["base"]["search_runs"], rows["base"]["confirm_runs"]) == (0, 0, 4)
    assert rows["base"]["steps"] == 0, "nothing is trained"
    assert (rows["full"]["trials"], rows["full"]["search_runs"], rows["full"]["confirm_runs"]) == (3, 3, 4)
    assert rows["full"]["steps"] == 7 * 50
    assert rows["cosine"]["searched"] == "learning_rate, r"
    assert plan.runs == spec().number_of_runs() == 18
    assert plan.progress.to_do == 18
    assert plan.seconds is None
    summary = "\n".join(plan.summary())
    assert "3 arms, 6 trials, 18 runs, 700 training steps" in summary
    assert "2 runs at once; no estimate of time without a probe" in summary
    assert "resumes" not in summary
    assert not storage.folder.exists(), "planning writes nothing"
    assert set(plan.columns()) == set(plan.rows()[0])


def test_runs_that_are_there_are_resumed(storage: Storage) -> None:
    touch(storage, "search/cosine/0000-cat-1-s0", "events.jsonl", "result.json")
    touch(storage, "search/cosine/0001-cat-1-s0", "events.jsonl")
    touch(storage, "confirm/cosine/0000-dog-1-s100", "events.jsonl", "result.json")
    touch(storage, "confirm/cosine/0000-dog-1-s999", "events.jsonl", "result.json")  # of no planned run
    touch(storage, "confirm/cosine/notes")
    plan = make_plan(spec(), storage, measured(spec()), at_once=1)
    row = next(row for row in plan.rows() if row["arm"] == "cosine")
    assert (row["finished"], row["interrupted"], row["to_do"]) == (2, 1, 4)
    assert "resumes small: 2 runs are finished, 1 interrupted ones continue, 15 are to do" in plan.summary()
    fresh = make_plan(spec(), Storage(storage.root, "other"), measured(spec()), at_once=1)
    assert plan.seconds is not None
    assert fresh.seconds is not None
    assert plan.seconds < fresh.seconds


def test_a_finished_study_takes_no_time(storage: Storage) -> None:
    small = spec(arms={"base": {"method": "base"}})
    for key in small.confirm_keys("base", 0):
        touch(storage, key.name, "events.jsonl", "result.json")
    assert make_plan(small, storage, measured(small), at_once=1).seconds == 0


def test_a_changed_study_is_announced(storage: Storage) -> None:
    storage.folder.mkdir(parents=True)
    begun = spec().with_contents(read_contents(spec()))
    (storage.folder / "study.json").write_text(json.dumps(begun.record()))
    assert make_plan(spec(), storage).changed == ()
    changed = make_plan(spec(search={"trials": 5}), storage)
    assert changed.changed == ("search.trials: 3 -> 5",)
    assert "launch would refuse" in "\n".join(changed.summary())


def test_estimates_add_up(storage: Storage) -> None:
    evaluation = {
        "at": [0.5],
        "images_between": 4,
        "search": {
            "num_prompts": 8,
            "images_per_prompt": 2,
            "num_class_images": 8,
            "num_inference_steps": 10,
        },
    }
    one = spec(
        arms={"full": {"method": "dreambooth", "with_prior_preservation": False}},
        confirm={"seeds": []},
        evaluation=evaluation,
    )
    plan = make_plan(one, storage, measured(one), at_once=1)
    images = 8 * 2 + 8 + 4 + 8  # at the end, and on the way with at least 8 class images
    drawing = images * (0.05 + 10 * 0.02) + 4 * 2 * (1 + 10) * 0.02  # and the latency's images
    drawing += (
        2 * 8 * 4 / 2 * 0.02
    )  # the held-out loss twice: eight images at four levels, half of a guided step each
    run = 0.5 + 1.0 + 50 * 1.0 + 0.5 + drawing  # between runs, preparation, steps, saving, evaluations
    assert plan.arms[0].seconds == pytest.approx(3 * run)
    # Once: the anchors of one class, and what the base model makes of its subject and seed; and the start.
    once = (8 * (8 + 1) + 8 + 8) * (0.05 + 10 * 0.01)
    assert plan.once_seconds == pytest.approx(once)
    assert plan.seconds == pytest.approx(15 + 9 + 3 * run + once)
    assert plan.memory == 2 * 10**9
    halved = make_plan(one, storage, measured(one), at_once=2)
    assert halved.seconds == pytest.approx(15 + 9 + (3 * run + once) / 2 + run / 2)
    assert halved.memory == 4 * 10**9


def test_the_phases_are_judged_on_different_images(storage: Storage) -> None:
    """Search runs on few, confirm runs on many; the base model's images count once a subject and seed."""
    evaluation = {
        "num_prompts": 16,
        "images_per_prompt": 4,
        "num_class_images": 16,
        "num_inference_steps": 20,
        "search": {
            "num_prompts": 4,
            "images_per_prompt": 2,
            "num_class_images": 8,
            "num_inference_steps": 10,
        },
    }
    one = spec(arms={"a": {"method": "lora"}}, evaluation=evaluation)
    search, confirm = images_of(one, "search"), images_of(one, "confirm")
    assert (search.final, search.steps, search.between) == (4 * 2 + 8, 10, 0)
    assert (confirm.final, confirm.steps) == (16 * 4 + 16, 20)
    assert (search.anchors, confirm.anchors) == (16 * 5, 4 * 17)
    images, image_steps = once_image_steps(one)
    # One search subject with one seed; two confirm subjects, of two classes, with two seeds.
    each = {"search": search.anchors + 4 + 8, "confirm": 2 * confirm.anchors + 4 * (16 + 16)}
    assert images == sum(each.values())
    assert image_steps == 10 * each["search"] + 20 * each["confirm"]


def test_budgets_in_other_currencies_are_estimated_from_the_cost_of_a_step(storage: Storage) -> None:
    arms = {"a": {"method": "lora"}, "b": {"method": "dreambooth"}}
    for budget, steps in (({"train_flops": 3.5e10}, [35, 22]), ({"train_seconds": 20}, [40, 13])):
        one = spec(arms=arms, budget=budget)  # 32 class images of 20 steps come out of DreamBooth's
        plan = make_plan(one, storage, measured(one))
        assert [arm.steps for arm in plan.arms] == [7 * number for number in steps]
        blind = make_plan(one, storage)
        assert [arm.steps for arm in blind.arms] == [None, None]
        assert "an unknown number of training steps" in "\n".join(blind.summary())


def test_a_tuned_length_counts_by_its_mean(storage: Storage) -> None:
    whole, tuned = (
        spec(arms={"a": {"method": "lora"}}, budget={"max_train_steps": 100, **more}, confirm={"seeds": []})
        for more in ({}, {"tuned_from": 0.25})
    )
    share = (100 - 25) / math.log(4) / 100
    assert expected_share(whole, "a") == 1
    assert expected_share(tuned, "a") == pytest.approx(share)
    seconds = [make_plan(one, storage, measured(one)).arms[0].seconds for one in (whole, tuned)]
    assert None not in seconds
    assert seconds[0] - seconds[1] == pytest.approx(3 * 0.5 * 100 * (1 - share))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("resources", "hourly"),
    [
        ({}, None),
        ({"price_per_hour": {"gpu": 3.0}}, None),  # it holds none
        ({"price_per_hour": {"cpu": 0.05}, "cpus_per_run": 2}, 0.1),
        ({"price_per_hour": {"cpu": 0.05, "gpu": 3.0}, "gpus_per_run": 0.5}, 1.55),
    ],
)
def test_dollars_only_where_prices_are_given(
    resources: dict[str, Any], hourly: float | None, storage: Storage
) -> None:
    one = spec(arms={"a": {"method": "lora"}}, resources=resources)
    plan = make_plan(one, storage, measured(one), at_once=1)
    text = "\n".join(plan.summary())
    if hourly is None:
        assert plan.dollars is None
        assert "$" not in text
    else:
        seconds = (plan.arms[0].seconds or 0) + plan.once_seconds
        assert plan.dollars == pytest.approx(hourly * seconds / 3600)
        assert f"about ${plan.dollars:.2f} at the study's prices" in text


def test_class_images_are_counted_once_for_each_class(storage: Storage) -> None:
    """They are made sixteen at a time."""

    def once(prior: bool) -> float:
        arms = {
            name: {"method": "dreambooth", "learning_rate": rate, "with_prior_preservation": prior}
            for name, rate in (("a", 1e-4), ("b", 2e-4))
        }
        arms["c"] = {"method": "dreambooth", "learning_rate": 3e-4}
        arms = arms if prior else {name: arm for name, arm in arms.items() if name != "c"}
        training = {"num_class_images": 20} if prior else {}
        one = spec(arms=arms, training=training)
        return make_plan(one, storage, measured(one)).once_seconds

    assert once(True) - once(False) == pytest.approx(3 * 32 * (0.05 + 20 * 0.01))


def test_disk_grows_with_whole_models(storage: Storage) -> None:
    adapters = rough_bytes(spec(arms={"a": {"method": "lora"}}))
    pipelines = rough_bytes(spec(arms={"a": {"method": "dreambooth"}}))
    assert 0 < adapters < pipelines / 3


def test_longest_runs_count_where_the_length_is_searched(storage: Storage) -> None:
    space = {"max_train_steps": {"type": "int", "low": 10, "high": 40}}
    plan = make_plan(spec(arms={"a": {"method": "lora", "search_space": space}}), storage)
    assert plan.arms[0].steps == 7 * 40


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5900, "98 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# ---------------------------------------------------------------------- the probe


def test_measurements_are_kept_for_the_same_machine_and_settings(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def measure(requests: Any, processes: int) -> list[Measured]:
        asked.append([request["config"]["method"] for request in requests])
        return [BY_METHOD[request["config"]["method"]] for request in requests]

    monkeypatch.setattr(probe, "_measure", measure)
    first = probe_machine(spec(), storage)
    assert first == measured(spec())
    assert probe_machine(spec(search={"trials": 9}), storage) == first
    assert asked == [["base", "lora", "dreambooth"]], (
        "a study that differs in trials alone costs the same a run"
    )
    probe_machine(spec(training={"train_batch_size": 1}), storage)
    assert len(asked) == 2
    assert not storage.folder.exists()


def test_arms_of_one_method_that_cost_differently_are_measured_apart(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def measure(requests: Any, processes: int) -> list[Measured]:
        priors = [request["config"]["training"]["with_prior_preservation"] for request in requests]
        asked.extend(priors)
        return [replace(COST, method="lora", seconds_per_step=1.0 + prior) for prior in priors]

    monkeypatch.setattr(probe, "_measure", measure)
    arms = {
        "cosine": {"method": "lora", "lr_scheduler": "cosine"},
        "constant": {"method": "lora", "lr_scheduler": "constant"},
        "prior": {"method": "lora", "with_prior_preservation": True, "prior_loss_weight": 0.2},
        "less": {"method": "lora", "with_prior_preservation": True, "prior_loss_weight": 0.1},
    }
    found = probe_machine(spec(arms=arms), storage)
    assert asked == [False, True], "a schedule and a weight of a loss cost nothing"
    assert {name: cost.seconds_per_step for name, cost in found.items()} == {
        "cosine": 1,
        "constant": 1,
        "prior": 2,
        "less": 2,
    }


def test_a_launch_says_what_was_planned_where_the_machine_was_probed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a launch never probes")

    monkeypatch.setattr(probe, "_measure", refuse)
    assert known_probe(spec(), storage) is None
    assert forecast(spec(), storage) == Forecast(18, None)
    monkeypatch.setattr(
        probe, "_measure", lambda requests, _: [BY_METHOD[one["config"]["method"]] for one in requests]
    )
    probe_machine(spec(), storage)
    monkeypatch.setattr(probe, "_measure", refuse)
    expected = forecast(spec(), storage)
    assert expected.seconds == make_plan(spec(), storage, measured(spec())).seconds
    assert forecast(spec(), storage, local=False).seconds is None, "of other machines it knows nothing"


@pytest.mark.parametrize(
    ("seconds", "took", "line"),
    [
        (
            300.0,
            280.0,
            "planned about 5 min (study plan), took 4 min 40 s; 39 runs planned, 38 done",
        ),
        (None, 59.4, "took 59 s; 39 runs planned, 38 done"),
    ],
)
def test_prediction_against_what_came(seconds: float | None, took: float, line: str) -> None:
    assert Forecast(39, seconds).against(took, 38) == line


def test_requests_are_short_and_demanding() -> None:
    request = probe._request(spec(training={"lr_warmup_steps": 40}), "cosine")
    training = request["config"]["training"]
    assert training["max_train_steps"] < 10
    assert training["r"] == 32, "the largest adapter of the space"
    assert request["config"]["subject"]["name"] == "cat-1"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd"
    make_tiny_model(folder)
    return folder


def tiny_requests(tiny: Path) -> list[dict[str, Any]]:
    small = spec(
        model=str(tiny),
        evaluation={
            "num_prompts": 2,
            "num_inference_steps": 2,
            "images_per_prompt": 1,
            "num_class_images": 2,
        },
        training={"train_batch_size": 1, "lr_warmup_steps": 0},
    )
    return [probe._request(small, arm) for arm in small.arms]


def test_the_probe_measures_every_method(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "request.json").write_text(json.dumps(tiny_requests(tiny)))
    measuring.main(str(tmp_path / "request.json"), str(tmp_path / "answer.json"))
    base, lora, full = probe._result(tmp_path)
    assert (base.method, lora.method, full.method) == ("base", "lora", "dreambooth")
    assert base.seconds_per_step == 0
    for measured in (lora, full):
        assert measured.seconds_per_step > 0
        assert measured.flops_per_step > 0
        assert measured.seconds_of_base_images(1, 1) > 0
        assert measured.seconds_per_trained_image_step > 0
        assert (measured.peak_memory_bytes or 0) > 10**6
    # Only adapters can be merged, and are timed twice.
    assert [one.latency_figures for one in (base, lora, full)] == [1, 2, 1]
    assert 0 < (lora.artifact_bytes or 0) < (full.artifact_bytes or 0)
    assert full.seconds_of_run(10, 1, 2) > base.seconds_of_run(10, 1, 2)


def test_a_method_that_fails_in_the_probe_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("trainables.training.loop.train_step", out_of_memory)
    (tmp_path / "request.json").write_text(json.dumps(tiny_requests(tiny)))
    measuring.main(str(tmp_path / "request.json"), str(tmp_path / "answer.json"))
    with pytest.raises(UserError, match="method lora failed in a short trial on this machine: out of memory"):
        probe._result(tmp_path)


def test_a_probe_that_dies_says_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("loading\nSegmentation fault\n")
    with pytest.raises(UserError, match=r"died: loading Segmentation fault; plan with --no-probe"):
        probe._result(tmp_path)


def test_means_over_processes() -> None:
    fast, slow = (
        replace(COST, seconds_per_step=1.0),
        replace(COST, seconds_per_step=3.0, peak_memory_bytes=None),
    )
    (mean,) = probe._means([[fast], [slow]])
    assert mean.seconds_per_step == 2.0
    assert mean.peak_memory_bytes == 10**9


def test_the_probe_runs_in_processes_of_its_own(tiny: Path) -> None:
    base = [request for request in tiny_requests(tiny) if request["config"]["method"] == "base"]
    (measured,) = probe._measure(base, 1)
    assert measured.method == "base"
    assert measured.start_up_seconds > 0


# ---------------------------------------------------------------------- plan_study


def test_a_plan_from_a_file_checks_first(tmp_path: Path) -> None:
    plan = plan_study(spec(), root=tmp_path / "storage", probe=False)
    assert plan.runs == 18
    assert plan.seconds is None
    with pytest.raises(UserError, match="resolution 50 does not fit"):
        plan_study(spec(training={"resolution": 50}), root=tmp_path / "storage")
    assert list(tmp_path.iterdir()) == []


def test_a_plan_with_a_probe_has_estimates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        probe,
        "_measure",
        lambda requests, _: [BY_METHOD[request["config"]["method"]] for request in requests],
    )
    plan = plan_study("quickstart", (), tmp_path)
    assert plan.seconds is not None
    assert "estimated from a probe" in "\n".join(plan.summary())
