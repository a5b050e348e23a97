"""The arm to take within limits: which limits hold, which arm is named, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from study.report.prepared import Rows, prepare
from study.report.within_budget import parse_limits, recommend
from tests.helpers.synthetic_results import ARMS, Study, make_results
from trainables.errors import UserError

SUBJECTS = ("a", "b", "c", "d")
STUDY = Study(arms=ARMS[:4], trials=2, subjects=SUBJECTS, repeats=4, modern=True, failing=(), pruned=())
CHEAP, OTHER, DEAR = "lora-cosine", "lora-constant", "dreambooth-cosine"


def rows(**columns: Any) -> Rows:
    """A made-up study in which the dearest arm is the best; columns by (arm, subject)."""
    made = make_results(STUDY)
    frame = made.frame.copy()
    given = {
        "quality": lambda arm, subject: (
            {CHEAP: 0.5, OTHER: 0.3, DEAR: 0.7}.get(arm, 0.0) + 0.01 * SUBJECTS.index(subject)
        ),
        "peak_memory_bytes": lambda arm, subject: 4e9 if arm == DEAR else 1e9 + 1e8 * SUBJECTS.index(subject),
        **columns,
    }
    confirm = frame["phase"] == "confirm"
    for name, value in given.items():
        pairs = zip(frame.loc[confirm, "arm"], frame.loc[confirm, "subject"], strict=True)
        frame.loc[confirm, name] = [value(arm, subject) for arm, subject in pairs]
    return prepare(replace(made, frame=frame))


def test_the_best_arm_within_the_limits_is_named() -> None:
    assert recommend(rows(), parse_limits("peak_memory<8GB")).arm == DEAR
    found = recommend(rows(), parse_limits("peak_memory<2GB, class_kept>0"))
    assert (found.arm, found.within) == (CHEAP, 2)
    assert found.beyond == {DEAR: "peak_memory<2GB, and a run has 4.00 GB"}
    assert found.estimate.value == pytest.approx(0.515)
    assert found.costs["peak_memory_bytes"] == 1.3e9, "the largest of its runs"
    assert found.best == 1.0
    assert (
        found.words[0]
        == "Of the 2 arms within the limits it is the best in 100 % of resamples of its 4 subjects."
    )
    assert found.words[1] == f"It is better than {OTHER}, beyond chance."


def test_a_limit_holds_for_every_run_and_not_for_their_mean() -> None:
    limits = parse_limits("peak_memory<1.25GB")
    with pytest.raises(UserError, match="keeps all limits"):
        recommend(rows(), limits)
    unknown = rows(energy_joules=lambda arm, subject: 1.0 if arm == OTHER or subject != "a" else float("nan"))
    found = recommend(unknown, parse_limits("energy_joules<2"))
    assert found.arm == OTHER
    assert found.beyond[CHEAP] == "energy_joules<2 is not known of all its runs"
    assert found.words == ("It is the only arm within the limits, on 4 subjects.",)


def test_the_configuration_is_the_one_that_most_searches_chose() -> None:
    made = rows()
    frame = made.frame.copy()
    mine = (frame["arm"] == CHEAP) & (frame["phase"] == "confirm")
    frame.loc[mine, "learning_rate"] = [
        1e-3 if subject == "c" else 2e-3 for subject in frame.loc[mine, "subject"]
    ]
    for column in [column for column in frame.columns if column.startswith("param.")]:
        frame.loc[mine, column] = frame.loc[mine, column].iloc[0]
    frame.loc[mine, ["lr_scheduler", "max_train_steps"]] = ["cosine", 100]
    found = recommend(replace(made, frame=frame), parse_limits("peak_memory<2GB"))
    chosen = frame.set_index("run_key").loc[found.run_key]
    assert chosen["learning_rate"] == 2e-3
    assert found.chosen == (3, 4)


@pytest.mark.parametrize(
    ("text", "measure", "value", "below"),
    [
        ("peak_memory<8GB", "peak_memory_bytes", 8e9, True),
        ("train_seconds <= 10 min", "train_seconds", 600.0, True),
        ("dollars<1", "dollars", 1.0, True),
        ("train_flops<0.5PFLOP", "train_flops", 5e14, True),
        ("trainable_parameters<2M", "trainable_parameters", 2e6, True),
        ("subject_fidelity_scaled>0.5", "subject_fidelity_scaled", 0.5, False),
        ("class_kept>=.5", "class_kept", 0.5, False),
    ],
)
def test_limits_are_read_with_their_units(text: str, measure: str, value: float, below: bool) -> None:
    (limit,) = parse_limits(text)
    assert (limit.measure, limit.value, limit.below) == (measure, pytest.approx(value), below)
    assert limit.strict == ("=" not in text)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as error:
        parse_limits("peak_memry<8GB, train_seconds<6GB, foo, class_kept>1s, dollars<1.2.3")
    assert [problem.split(": ", 1)[1][:30] for problem in error.value.problems] == [
        "no measure is called 'peak_mem",
        "'GB' is no unit of train_secon",
        "is no limit; write a measure, ",
        "'s' is no unit of class_kept; ",
        "'1.2.3' is no number",
    ]
    with pytest.raises(UserError, match="is empty"):
        parse_limits(" , ")
