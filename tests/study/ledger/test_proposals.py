"""What a search tries: its default first, and then what depends on the order of scores and on nothing else."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from search_spaces.schema import SearchSpace
from study.spec.defaults import default_point
from study.spec.study_spec import StudySpec
from study.storage.planned_run import PlannedRun
from study.storage.run_result import RunResult
from tests.helpers.search_driver import Drive, complete, proposals, quality_of
from tests.helpers.small_studies import SPACE, small_study, storage_of

ONE_ARM = {"lora": {"method": "lora", "lr_scheduler": "cosine", "search_space": SPACE}}
GRID = {"r": SPACE["r"], "learning_rate": {"type": "categorical", "choices": [1e-4, 1e-3, 1e-2, 1e-1]}}


def study(sampler: str, trials: int = 15, **search: Any) -> StudySpec:
    arms = ONE_ARM if sampler != "grid" else {"lora": {**ONE_ARM["lora"], "search_space": GRID}}
    return small_study(
        arms=arms,
        search={"sampler": sampler, "trials": trials, "batch_size": 3, **search},
        confirm={"seeds": [100]},
    )


class Jittered:
    """Scores that differ by up to 1e-4 from run to run, as between two processors."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def __call__(self, run: PlannedRun) -> RunResult:
        return RunResult(
            "COMPLETE", evaluation={"quality": quality_of(run) + self.random.uniform(-5e-5, 5e-5)}
        )


DRIVES = {
    "another order": Drive(at_once=4, seed=1),
    "a third order": Drive(at_once=4, seed=2),
    "two at once, jittered": Drive(at_once=2, seed=3, outcome=Jittered(3)),
    "one at once, jittered": Drive(at_once=1, outcome=Jittered(4)),
    "resumed again and again": Drive(at_once=3, seed=5, outcome=Jittered(5), resume_every=2),
}


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "random", "grid"])
def test_proposals_depend_on_neither_order_nor_concurrency_nor_last_digits(
    fast_path: Path, sampler: str
) -> None:
    """Fails if values instead of ranks, or whatever has ended by then, reach the sampler."""
    spec = study(sampler)
    first = Drive().work(spec, storage_of(fast_path / "first", spec))
    scores = sorted(record.values[0] for record in first.trials("lora"))
    gaps = [b - a for a, b in itertools.pairwise(scores) if b != a]
    assert min(gaps) > 1e-4, "or jitter would change the order"
    expected = proposals(first, "lora")
    assert len({str(point) for point in expected}) > 3
    for name, drive in DRIVES.items():
        other = drive.work(spec, storage_of(fast_path / name.replace(" ", "-"), spec))
        assert proposals(other, "lora") == expected, name
        assert other.best("lora").params == first.best("lora").params  # type: ignore[union-attr]


def test_a_sampler_learns_from_the_order_of_scores(fast_path: Path) -> None:
    """Or the test above could not fail."""
    spec = study("tpe")

    def turned(run: PlannedRun) -> RunResult:
        return RunResult("COMPLETE", evaluation={"quality": 1 - quality_of(run)})

    one = proposals(Drive().work(spec, storage_of(fast_path / "one", spec)), "lora")
    other = proposals(Drive(outcome=turned).work(spec, storage_of(fast_path / "other", spec)), "lora")
    assert one[:9] == other[:9], "models of a few points are none: the default, and points drawn at random"
    assert one[9:] != other[9:]


def test_repeats_search_independently_from_the_same_default(fast_path: Path) -> None:
    spec = small_study(
        arms=ONE_ARM,
        subjects=["cat-1", "dog-1", "bird-1", "fox-1", "cat-2"],
        search={"repeats": 2, "trials": 3, "subjects": ["cat-1", "dog-1"]},
        confirm={"subjects": ["bird-1", "fox-1", "cat-2"], "seeds": [100]},
    )
    ledger = Drive(at_once=3).work(spec, storage_of(fast_path, spec))
    points = proposals(ledger, "lora")
    assert len(points) == 6
    assert points[0] == points[3] == spec.default_params("lora")
    assert points[1:3] != points[4:6]
    subjects = [{run.split("-", 1)[1] for run in record.runs} for record in ledger.trials("lora")]
    assert subjects == [{"cat-1-s0"}] * 3 + [{"dog-1-s0"}] * 3
    chosen = [ledger.best("lora", repeat) for repeat in (0, 1)]
    assert chosen[0] is not None
    assert chosen[1] is not None
    assert {record.subject: record.number for record in ledger.trials("lora", "confirm")} == {
        "bird-1": chosen[0].number,
        "fox-1": chosen[1].number,
        "cat-2": chosen[0].number,
    }
    assert chosen[1].number >= 3


@pytest.mark.parametrize("seed", range(8))
def test_random_ends_failures_prunes_and_resumes_always_come_to_an_end(fast_path: Path, seed: int) -> None:
    """No search may wait for what will never end."""
    draw = random.Random(seed)
    repeats = draw.choice([1, 2])
    spec = small_study(
        subjects=["cat-1", "dog-1", "bird-1", "fox-1"],
        search={
            "subjects": ["cat-1", "dog-1"][: draw.choice([2, repeats])],
            "repeats": repeats,
            "seeds": draw.choice([[0], [0, 1]]),
            "trials": draw.randint(1, 7),
            "sampler": draw.choice(["tpe", "random", "nsgaii"]),
            "batch_size": draw.choice([None, 1, 2, 5]),
        },
        confirm={"subjects": ["bird-1", "fox-1"], "seeds": [100]},
    )

    def outcome(run: PlannedRun) -> RunResult:
        kind = draw.random()
        if kind < 0.25:
            return RunResult("FAIL", reason="exception")
        if kind < 0.4 and run.key.phase == "search":
            return RunResult("PRUNED", reason="asha", evaluation={"quality": quality_of(run)})
        return complete(run)

    drive = Drive(draw.randint(1, 6), seed, outcome, resume_every=draw.choice([None, 1, 3]))
    ledger = drive.work(spec, storage_of(fast_path, spec))
    for arm in spec.arms:
        assert len(proposals(ledger, arm)) == spec.search.repeats * spec.trials_of(arm)
        assert all(record.ended for record in (*ledger.trials(arm), *ledger.trials(arm, "confirm")))


def test_a_repeat_without_a_complete_trial_leaves_its_subjects_out(fast_path: Path) -> None:
    spec = small_study(
        arms=ONE_ARM,
        subjects=["cat-1", "dog-1", "bird-1", "fox-1"],
        search={"repeats": 2, "trials": 2, "subjects": ["cat-1", "dog-1"]},
        confirm={"subjects": ["bird-1", "fox-1"], "seeds": [100]},
    )

    def outcome(run: PlannedRun) -> RunResult:
        return RunResult("FAIL", reason="exception") if run.key.subject == "dog-1" else complete(run)

    from study.dispatch.run_queue import RunQueue
    from study.ledger.ledger import Ledger

    storage = storage_of(fast_path, spec)
    ledger = Drive(outcome=outcome).work(spec, storage)
    assert [record.subject for record in ledger.trials("lora", "confirm")] == ["bird-1"]
    (note,) = RunQueue(spec, storage, Ledger(storage.ledger_url, spec.name)).notes
    assert note.startswith("arm 'lora', search 2 of 2: no search trial is complete")
    assert note.endswith("left out on fox-1")


# ---------------------------------------------------------------------- the default


def point(parameters: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    return default_point(SearchSpace.model_validate({"parameters": parameters}), defaults)


@pytest.mark.parametrize(
    ("dimension", "default", "expected"),
    [
        ({"type": "float", "low": 1e-4, "high": 1e-2, "log": True}, 1e-3, 1e-3),
        ({"type": "float", "low": 1e-4, "high": 1e-2, "log": True}, 1.0, 1e-2),
        ({"type": "float", "low": 1e-4, "high": 1e-2, "log": True}, None, 1e-3),
        ({"type": "float", "low": 0.0, "high": 1.0, "step": 0.25}, 0.6, 0.5),
        ({"type": "int", "low": 2, "high": 9, "step": 3}, 7, 8),
        ({"type": "int", "low": 2, "high": 9, "step": 3}, 100, 8),
        ({"type": "categorical", "choices": [4, 8, 32]}, 8, 8),
        ({"type": "categorical", "choices": [4, 8, 32]}, 16, 8),
        ({"type": "categorical", "choices": ["cosine", "constant"]}, "constant", "constant"),
        ({"type": "categorical", "choices": ["cosine", "constant"]}, "linear", "cosine"),
        ({"type": "categorical", "choices": [1, True]}, True, True),
        ({"type": "categorical", "choices": [5.0, None]}, None, None),
    ],
)
def test_the_default_is_moved_into_its_dimension(
    dimension: dict[str, Any], default: Any, expected: Any
) -> None:
    found = point({"x": dimension}, x=default)["x"]
    assert (
        found == pytest.approx(expected)
        if isinstance(expected, float)
        else found is expected or (found == expected and type(found) is type(expected))
    )


def test_conditions_follow_the_default_and_a_rate_that_is_none_is_the_other_rate() -> None:
    rate = {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}
    space = {
        "learning_rate": rate,
        "train_text_encoder": {"type": "categorical", "choices": [True, False]},
        "text_encoder_learning_rate": {**rate, "when": {"train_text_encoder": True}},
    }
    defaults = {"learning_rate": 3e-4, "text_encoder_learning_rate": None}
    with_it = point(space, train_text_encoder=True, **defaults)
    assert with_it["text_encoder_learning_rate"] == with_it["learning_rate"] == 3e-4
    assert list(point(space, train_text_encoder=False, **defaults)) == ["learning_rate", "train_text_encoder"]


def test_the_default_of_the_embedded_model_and_of_the_whole_budget() -> None:
    space = {"prior_loss_weight": {"type": "float", "low": 0.05, "high": 2.0, "log": True}}
    arms = {"db": {"method": "dreambooth", "search_space": space}}
    spec = small_study(arms=arms, budget={"max_train_steps": 90, "tuned_from": 0.25})
    default = spec.default_params("db")
    assert default["learning_rate"] == 3e-4
    assert default["prior_loss_weight"] == 0.3
    assert default["max_train_steps"] == 90, "all of the budget, whatever the method's own default is"
    real = small_study(arms=arms, model={"path": "a/b"}, subjects=["cat-1", "dog-1"])
    assert real.default_params("db")["learning_rate"] == pytest.approx(5e-6)
    assert real.default_params("db")["prior_loss_weight"] == 1.0


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "random", "grid"])
def test_every_search_begins_with_the_default(fast_path: Path, sampler: str) -> None:
    spec = study(sampler, trials=3)
    points = proposals(Drive().work(spec, storage_of(fast_path, spec)), "lora")
    assert points[0] == spec.default_params("lora")
    assert points[0]["r"] == 8, "of 2, 4, 8 the nearest to LoRA's 16"
    assert len({str(point) for point in points}) == 3
