"""What a plan says of hypotheses: how each was read, and whether the study can decide it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from study.preflight.detectable import assumed_spread
from study.preflight.hypotheses import hypothesis_lines
from study.preflight.plan import make_plan
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from study.statistics.power import power_of_difference, power_of_equivalence, smallest_effect
from study.storage.layout import Storage

ARMS: dict[str, Any] = {
    "base": {"method": "base"},
    "a": {"method": "lora", "r": 2},
    "b": {"method": "lora", "r": 4},
    "c": {"method": "lora", "r": 8},
}
NAMES = [f"{kind}-{k}" for kind in ("cat", "dog", "bird", "bear") for k in (1, 2)]


def study(hypotheses: dict[str, Any], subjects: int = 8) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "h",
            "subjects": ["fox-1", *NAMES],
            "arms": ARMS,
            "search": {"trials": 2, "subjects": ["fox-1"]},
            "confirm": {"subjects": NAMES[:subjects], "seeds": [100]},
            "hypotheses": {name: {"claim": "It is so.", **fields} for name, fields in hypotheses.items()},
        }
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"difference": ["a", "b"], "expect": {"more_than": 0}}, "quality of a less b is more than 0"),
        ({"difference": [["b", "a"], "base"], "expect": {"less_than": 0.1}, "margin": 0.05},
         "quality of the mean of (a, b) less base is less than 0.1 (within 0.05 as good as equal)"),
        ({"difference": ["a", {"each_of": ["c", "b"]}], "expect": {"more_than": 0}},
         "quality of a less each of (b, c) is more than 0"),
        ({"value": {"where": {"method": "lora"}}, "expect": {"between": [0.2, "1/2"]}},
         "quality of the mean of (a, b, c) is between 0.2 and 0.5"),
        ({"ratio": ["a", {"predicted": "16 * 10,000"}], "measure": "trainable_parameters",
          "expect": {"equal_to": 1}, "margin": 0.01}, "trainable_parameters of a over 160000 is 1 within 0.01"),
        ({"measure": None, "arithmetic": "8 * 3", "expect": {"equal_to": 24}, "margin": 0},
         "arithmetic, 24 is 24"),
    ],
)  # fmt: skip
def test_each_is_told_as_it_was_read(fields: dict[str, Any], words: str) -> None:
    given = {name: value for name, value in {"measure": "quality", **fields}.items() if value is not None}
    assert hypothesis_lines(study({"h": given}))[1] == f"  h: {words}"


def test_what_the_subjects_decide_is_what_they_have_the_power_for() -> None:
    """Two hypotheses that runs decide have half of the level each."""
    stated = {
        "one": {"measure": "quality", "difference": ["a", "b"], "expect": {"more_than": 0}},
        "other": {"measure": "quality", "difference": ["a", "c"], "expect": {"equal_to": 0}, "margin": 0.05},
        "sum": {"arithmetic": "1 + 1", "expect": {"equal_to": 2}, "margin": 0},
    }
    spec = study(stated)
    spread = assumed_spread(spec)
    lines = hypothesis_lines(spec)
    assert lines[0] == "3 hypotheses, which are judged together:"
    found = smallest_effect(8, 0.05 / 2)
    assert float(power_of_difference(8, found, 0.05 / 2)) == pytest.approx(0.8, abs=1e-3)
    assert (
        f"8 subjects decide in 80 % of studies what is {found * spread:.2f} or more of quality" in lines[-2]
    )
    needed = int(re.findall(r"takes about (\d+) subjects", lines[-1])[0])
    powers = [float(power_of_equivalence(n, 0.0, 0.05 / spread, 0.05 / 4)) for n in (needed - 1, needed)]
    assert powers[0] < 0.8 <= powers[1]
    assert "decide none of them" in hypothesis_lines(study(stated, subjects=2))[-1]


def test_a_plan_shows_them_and_names_arms_that_search_the_same_once(tmp_path: Path) -> None:
    spec = load_study("adapters")
    summary = make_plan(spec, Storage(tmp_path, spec.name), at_once=2).summary()
    assert [line for line in summary if line.startswith("lora, rslora, dora search learning_rate ")]
    assert "7 hypotheses, which are judged together:" in summary
    assert make_plan(study({}), Storage(tmp_path, "h"), at_once=2).hypotheses == ()
