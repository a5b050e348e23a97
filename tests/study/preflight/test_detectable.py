"""Power: what a number of subjects can show, what decides a pair, and what `plan` and `validate` say of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.spread import SHIPPED, spread
from study.cli.main import main
from study.preflight.detectable import detectable_line, detectable_notes, smallest_difference, trained_pairs
from study.report.comparisons import MARGIN
from study.spec.loading import load_study
from study.spec.sections import ReportSpec
from study.spec.study_spec import StudySpec
from study.statistics.power import (
    BETWEEN_SUBJECTS,
    MIN_SUBJECTS,
    MOST_SUBJECTS,
    power_of_difference,
    power_of_equivalence,
    smallest_effect,
    subjects_to_decide,
    typical_deviation,
)

NAMES = [f"{kind}-{k}" for kind in ("cat", "dog", "bird") for k in (1, 2, 3)]


def design(
    subjects: int, seeds: int = 2, arms: int = 2, stated: dict[str, Any] | None = None, **more: object
) -> StudySpec:
    rates = stated or {f"lora-{k}": {"method": "lora", "learning_rate": 1e-4 * (k + 1)} for k in range(arms)}
    return StudySpec.model_validate(
        {
            "name": "s",
            "subjects": ["fox-1", *NAMES],
            "arms": {"base": {"method": "base"}, **rates},
            "search": {"subjects": ["fox-1"]},
            "confirm": {"subjects": NAMES[:subjects], "seeds": list(range(100, 100 + seeds))},
            **more,
        }
    )


# ------------------------------------------------------------------ power


def test_power_of_textbooks() -> None:
    """d = .5, two-sided 5 %, 80 %: 34 pairs (Cohen 1988; G*Power gives 0.808)."""
    assert float(power_of_difference(34, 0.5)) == pytest.approx(0.808, abs=1e-3)
    assert float(power_of_difference(33, 0.5)) < 0.8
    assert subjects_to_decide(0.5, 1.0, None) == 34
    assert subjects_to_decide(-0.25, 0.5, None) == 34
    assert smallest_effect(34) == pytest.approx(0.495, abs=0.005)
    assert float(power_of_difference(10, 0.0)) == pytest.approx(0.05)


@pytest.mark.parametrize(("n", "effect", "alpha"), [(3, 2.0, 0.05), (6, 1.0, 0.01), (12, 0.7, 0.05)])
def test_power_is_that_of_simulated_studies(n: int, effect: float, alpha: float) -> None:
    from scipy import stats

    draws = np.random.default_rng(n).normal(effect, 1, (20_000, n))
    found = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < alpha)
    assert float(power_of_difference(n, effect, alpha)) == pytest.approx(found, abs=0.012)


@pytest.mark.parametrize(("n", "effect", "margin"), [(10, 0.0, 1.0), (10, 0.4, 1.5), (20, 0.2, 0.7)])
def test_power_of_equivalence_is_that_of_simulated_studies(n: int, effect: float, margin: float) -> None:
    from study.statistics.paired import equivalence_test

    draws = np.random.default_rng(n).normal(effect, 1, (20_000, n))
    found = np.mean(equivalence_test(draws, margin) < 0.05)
    assert float(power_of_equivalence(n, effect, margin)) == pytest.approx(found, abs=0.015)


def test_smallest_effect_is_found_with_80_percent_power() -> None:
    for n in (3, 5, 16, 200):
        for alpha in (0.05, 0.005):
            assert float(power_of_difference(n, smallest_effect(n, alpha), alpha)) == pytest.approx(0.8)
    assert smallest_effect(2) == math.inf


def test_small_differences_are_decided_as_equivalent_and_none_takes_for_ever() -> None:
    close = subjects_to_decide(0.0, 0.1, 0.05)
    assert close is not None
    assert (
        float(power_of_equivalence(close, 0.0, 0.5)) >= 0.8 > float(power_of_equivalence(close - 1, 0, 0.5))
    )
    assert subjects_to_decide(0.0, 0.1, None) is None
    assert subjects_to_decide(0.05, 2.0, 0.05) is None  # at the margin, and with much noise
    assert subjects_to_decide(10.0, 0.1, None) == MIN_SUBJECTS
    assert float(power_of_difference(MOST_SUBJECTS, 50.0)) == 1.0  # where scipy's tail is NaN


# ------------------------------------------------------------------ plan and validate


def test_more_subjects_find_smaller_differences() -> None:
    found = [smallest_difference(design(n)) for n in (2, 3, 5, 9)]
    assert found == sorted(found, reverse=True)
    assert found[0] == math.inf
    assert found[3] == pytest.approx(smallest_effect(9) * typical_deviation(2))
    assert smallest_difference(design(9, arms=4)) > found[3]  # six pairs share the 5 %
    assert trained_pairs(design(9, arms=4)) == 6


def test_crossed_factors_take_half_of_the_level() -> None:
    arms: dict[str, Any] = {
        f"{method}-{prior}": {"method": method, "with_prior_preservation": prior, "train_text_encoder": True}
        for method in ("lora", "dreambooth")
        for prior in (True, False)
    }
    found = smallest_difference(design(9, stated=arms))
    assert found == pytest.approx(smallest_effect(9, 0.05 / 12) * typical_deviation(2))
    arms["lora-True"] |= {"learning_rate": 1e-3}  # no longer set apart by a factor alone
    found = smallest_difference(design(9, stated=arms))
    assert found == pytest.approx(smallest_effect(9, 0.05 / 6) * typical_deviation(2))


def test_typical_spread_shrinks_with_seeds_but_not_below_that_of_subjects() -> None:
    assert typical_deviation(1) > typical_deviation(3) > typical_deviation(10_000) > BETWEEN_SUBJECTS


def test_arms_of_many_methods_are_assumed_to_vary_more() -> None:
    few: dict[str, Any] = {"a": {"method": "lora"}, "b": {"method": "dreambooth"}}
    many = {**few, "c": {"method": "textual_inversion"}}
    one, other = (
        smallest_difference(design(9, stated={"base": {"method": "base"}, **arms})) for arms in (few, many)
    )
    assert one == pytest.approx(smallest_effect(9) * typical_deviation(2))
    assert other == pytest.approx(smallest_effect(9, 0.05 / 3) * typical_deviation(2, methods=3))
    assert typical_deviation(2, methods=3) > 1.5 * typical_deviation(2)


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.parent.name)
def test_what_plans_assume_is_no_less_than_what_shipped_studies_show(folder: Path) -> None:
    found = spread(folder)
    assert found.of_means <= typical_deviation(found.seeds, found.methods), found


def test_a_line_says_what_the_design_finds() -> None:
    line = detectable_line(design(9))
    assert line is not None
    found = f"{smallest_difference(design(9)):.2f}"
    assert f"9 subjects x 2 seeds find a difference of {found} or more in quality in 80 % of studies" in line
    assert "standard deviation" in line
    assert "any of 6 pairs" in (detectable_line(design(9, arms=4)) or "")
    assert "at least 3 confirm subjects" in (detectable_line(design(1, seeds=1)) or "")
    assert (detectable_line(design(1, seeds=1)) or "").startswith("1 subject x 1 seed ")
    assert "no difference in quality reliably" in (detectable_line(design(3, arms=12)) or "")


def test_nothing_is_said_where_nothing_is_compared() -> None:
    assert detectable_line(design(9, arms=1)) is None
    assert detectable_line(design(9, seeds=0)) is None
    assert detectable_notes(design(9, arms=1)) == []


def test_designs_that_find_large_differences_only_are_noted() -> None:
    assert not [note for note in detectable_notes(design(9)) if "smaller ones" in note]
    few = detectable_notes(design(4, arms=3))[0]
    assert "smaller ones take more confirm subjects" in few
    (two,) = detectable_notes(design(2))
    assert "decide nothing" in two


def test_verdicts_on_methods_need_a_search_for_each_subject() -> None:
    (shared,) = detectable_notes(design(9))
    assert "1 search an arm for 9 confirm subjects" in shared
    assert "with search.repeats: 9" in shared
    spec = design(9)
    search = spec.search.model_copy(update={"repeats": 9})
    assert detectable_notes(spec.model_copy(update={"search": search})) == []


def test_plan_and_validate_print_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = load_study("quickstart")
    for command in (
        ["plan", "quickstart", "--no-probe", "--storage", str(tmp_path)],
        ["validate", "quickstart"],
    ):
        with pytest.raises(SystemExit) as left:
            main(command)
        assert not left.value.code
        printed = capsys.readouterr()
        assert detectable_notes(spec)
        assert f"note: {detectable_notes(spec)[0]}" in printed.err.splitlines()
        if command[0] == "plan":
            assert detectable_line(spec) in printed.out.splitlines()


# ------------------------------------------------------------------ report.margin


def test_the_margin_is_in_the_study_file_and_not_in_its_identity() -> None:
    assert ReportSpec().margin == MARGIN
    wide = design(3, report={"margin": 0.1})
    assert wide.report.margin == 0.1
    assert wide.digest() == design(3).digest()
    assert "report" not in wide.identity()
    assert wide.record()["spec"]["report"] == {"margin": 0.1}
    assert StudySpec.from_record(wide.record()) == wide


@pytest.mark.parametrize("margin", [0, -0.1, 1, "wide"])
def test_margins_are_between_0_and_1(margin: object) -> None:
    with pytest.raises(ValidationError, match="margin"):
        design(3, report={"margin": margin})
