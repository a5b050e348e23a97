"""The arm to take within limits: which limits hold, which arm is named, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from study.report.analysis import analyse
from study.report.limits import parse_limits
from study.report.prepared import Rows, prepare
from study.report.within_budget import Chosen, recommend
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
    assert found.row()["peak_memory_bytes"] == 1.3e9, "the largest of its runs"
    assert (found.row()["quality"], found.row()["class_kept"]) == (pytest.approx(0.515), found.furthest[1][1])
    assert found.shown()["peak_memory_(most)"] == "1.30 GB"
    assert "class_kept_(least)" in found.shown()
    assert found.best == 1.0
    headline, better, family = found.words
    assert headline.startswith(f"{CHEAP} is best: quality 0.5")
    assert headline.endswith("It is ahead of every other arm within the limits beyond chance.")
    assert better == f"Better in quality, paired by subject and seed, than {OTHER} (+0.20)."
    assert "adjusted over all pairs of trained arms" in family


#: Quality of each arm on six subjects: that of the dear arm scatters widely.
SCATTERED = {
    CHEAP: (0.60, 0.58, 0.46, 0.52, 0.61, 0.40),
    OTHER: (0.40, 0.42, 0.45, 0.40, 0.42, 0.41),
    DEAR: (0.99, 0.20, 0.95, 0.40, 0.98, 0.30),
}


def scattered(*arms: str) -> Rows:
    """A study of these arms, on six subjects."""
    names = ("a", "b", "c", "d", "e", "f")
    study = replace(STUDY, arms=tuple(arm for arm in ARMS if arm.name in arms), subjects=names, repeats=1)
    made = make_results(study)
    frame = made.frame.copy()
    confirm = frame["phase"] == "confirm"
    pairs = list(zip(frame.loc[confirm, "arm"], frame.loc[confirm, "subject"], strict=True))
    frame.loc[confirm, "quality"] = [SCATTERED[arm][names.index(subject)] for arm, subject in pairs]
    frame.loc[confirm, "peak_memory_bytes"] = [4e9 if arm == DEAR else 1e9 for arm, _ in pairs]
    return prepare(replace(made, frame=frame))


def test_verdicts_are_those_of_the_report_s_family_and_not_of_the_arms_within() -> None:
    p = stats.ttest_rel(SCATTERED[CHEAP], SCATTERED[OTHER]).pvalue
    assert 0.05 / 3 < p < 0.05, "shown by itself, and not as one of three pairs"
    limits = parse_limits("peak_memory<2GB")
    alone = recommend(scattered(CHEAP, OTHER), limits)
    assert alone.words[0].startswith(f"{CHEAP} is best")
    assert not any("adjusted" in text for text in alone.words)

    rows = scattered(CHEAP, OTHER, DEAR)
    found = recommend(rows, limits)
    assert (found.arm, found.within) == (CHEAP, 2), (
        "of which the dear arm is none, though it has the highest mean"
    )
    (pair,) = [c for c in analyse(rows).pairs if {c.first, c.second} == {CHEAP, OTHER}]
    assert pair.p_holm == pytest.approx(3 * p)
    assert f"does not establish that it is better than {OTHER}: there are 6 subjects" in found.words[0]
    needed = f"at least about {pair.subjects_needed} subjects"
    assert (
        f"takes {needed}, since a lead that was picked as the largest is too large on average"
        in found.words[0]
    )
    assert found.words[1].endswith(f"; {needed}).")
    assert "adjusted over all pairs of trained arms, not only those within the limits" in found.words[2]
    draws = np.random.default_rng(0).integers(6, size=(20_000, 6))
    means = {arm: np.array(SCATTERED[arm])[draws].mean(axis=1) for arm in (CHEAP, OTHER)}
    assert found.best == pytest.approx(float((means[CHEAP] > means[OTHER]).mean()), abs=0.01)
    assert "Of the 2 arms within the limits it is the best in" in found.words[3]


def test_where_nothing_fits_each_arm_has_a_line_in_the_units_of_the_limits() -> None:
    dear = rows(peak_memory_bytes=lambda arm, subject: 9.004e8 if arm == DEAR else 9.02e8)
    with pytest.raises(UserError) as error:
        recommend(dear, parse_limits("peak_memory<900MB, dollars<1, energy_joules<=2, class_kept>.1"))
    assert error.value.problems == (
        "no arm of study made-up keeps all limits; loosen one of them",
        "dollars<1: no complete confirm run has a value of dollars, which `resources.price_per_hour` of the study file "
        "gives at its launch; limit total_seconds instead",
        "energy_joules<=2: no complete confirm run has a value of energy_joules; leave it out",
        f"{CHEAP}: peak_memory<900MB, and a run has 902 MB",
        f"{OTHER}: peak_memory<900MB, and a run has 902 MB",
        f"{DEAR}: peak_memory<900MB, and a run has 900.4 MB",
    )
    with pytest.raises(UserError) as error:
        recommend(dear, parse_limits("class_kept>0.999, peak_memory<1kB"))
    assert all("; peak_memory<1kB, and a run has 90" in line for line in error.value.problems[1:])
    with pytest.raises(UserError) as error:
        recommend(dear, parse_limits("energy_joules<2"))
    assert "loosen" not in error.value.problems[0]


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("peak_memory<900MB", 1.2e9, "1200 MB"),
        ("peak_memory<2e9", 3.5e8, "0.350 GB"),
        ("train_seconds<10", 16.04, "16.0 s"),
        ("train_seconds<40000", 40_001.0, "40001 s"),
        ("train_seconds<2min", 180.0, "3.00 min"),
        ("class_kept>.5", 0.4999, "0.4999"),
        ("class_kept>=.5", 0.5, "0.500"),
    ],
)
def test_values_are_told_in_the_unit_of_the_limit(limit: str, value: float, text: str) -> None:
    (found,) = parse_limits(limit)
    assert found.told(value) == text


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
    chosen = frame.set_index("run_key").loc[found.chosen.run_key]
    assert chosen["learning_rate"] == 2e-3
    assert found.chosen == Chosen(found.chosen.run_key, 3, 4)
    assert found.chosen.words()[0] == "3 of the arm's 4 searches chose it."
    assert "they hold for choosing by a search, not for this configuration" in found.lines()[-1]


def test_where_each_search_chose_another_configuration_it_is_said() -> None:
    made = rows()
    frame = made.frame.copy()
    mine = (frame["arm"] == CHEAP) & (frame["phase"] == "confirm")
    frame.loc[mine, "learning_rate"] = [1e-3 * trial for trial in frame.loc[mine, "trial"]]
    found = recommend(replace(made, frame=frame), parse_limits("peak_memory<2GB")).chosen
    assert (found.times, found.searches, found.rivals) == (1, 4, 3)
    text = " ".join(found.words())
    assert text.startswith(
        "Each of the arm's 4 searches chose another configuration: this is one of them, that of"
    )
    assert "not for this configuration" in text
    assert "and as many another one" in Chosen("run", 2, 4, 1).words()[0]
    assert Chosen("run", 4, 4).words() == ("Each of the arm's 4 searches chose it.",)
    assert Chosen("run", 1, 1).words() == ()


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
