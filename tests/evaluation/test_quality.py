"""The quality rule: anchors, clipping, and no number where there is no scale."""

from __future__ import annotations

import pytest

from trainables.evaluation.quality import RULE, Anchors, compute_quality, rescale

ANCHORS = Anchors(subject_base=0.2, subject_real=0.9, prompt_base=0.30, prompt_floor=0.10)


def test_base_model_is_zero_and_perfection_is_one() -> None:
    assert compute_quality(0.2, 0.30, ANCHORS).quality == 0
    assert compute_quality(0.9, 0.30, ANCHORS).quality == pytest.approx(1)


def test_product_of_the_scaled_fidelities() -> None:
    result = compute_quality(0.55, 0.20, ANCHORS)
    assert result.subject_fidelity_scaled == pytest.approx(0.5)
    assert result.prompt_fidelity_scaled == pytest.approx(0.5)
    assert result.quality == pytest.approx(0.25)


def test_two_failures_are_no_success() -> None:
    result = compute_quality(0.1, 0.05, ANCHORS)
    assert result.quality == 0
    assert result.subject_fidelity_scaled == pytest.approx(-1 / 7)  # reported as it is
    assert result.prompt_fidelity_scaled == pytest.approx(-0.25)


def test_nothing_is_gained_above_one() -> None:
    copied = compute_quality(0.99, 0.25, ANCHORS)
    assert copied.subject_fidelity_scaled == pytest.approx(0.79 / 0.7)
    assert copied.quality == pytest.approx(0.75)
    assert compute_quality(0.55, 0.40, ANCHORS).quality == pytest.approx(0.5)


@pytest.mark.parametrize("missing", ["subject_base", "subject_real", "prompt_base", "prompt_floor"])
def test_missing_anchor_gives_none(missing: str) -> None:
    values = {**ANCHORS.__dict__, missing: None}
    assert compute_quality(0.5, 0.2, Anchors(**values)).quality is None


def test_coinciding_anchors_give_none() -> None:
    assert rescale(0.5, 0.4, 0.4) is None
    assert rescale(0.5, 0.4, 0.405) is None
    assert rescale(0.5, 0.6, 0.4) is None  # the base model is nearer to the subject than its photographs
    assert rescale(None, 0.1, 0.4) is None
    degenerate = Anchors(subject_base=0.9, subject_real=0.9, prompt_base=0.3, prompt_floor=0.1)
    assert compute_quality(0.95, 0.3, degenerate).quality is None
    assert compute_quality(0.95, 0.3, degenerate).prompt_fidelity_scaled == pytest.approx(1)


def test_the_base_model_measured_again_is_exactly_zero_and_one() -> None:
    """Its images are drawn in other batches, so that float32 cosines differ in their last bits."""
    dust = compute_quality(0.2 + 3e-7, 0.30 - 3e-7, ANCHORS)
    assert (dust.subject_fidelity_scaled, dust.prompt_fidelity_scaled, dust.quality) == (0.0, 1.0, 0.0)
    assert compute_quality(0.2 + 1e-5, 0.30, ANCHORS).quality == pytest.approx(
        1e-5 / 0.7
    )  # little is not nothing


def test_the_rule_that_reports_print_is_the_rule() -> None:
    """RULE is read by people; computed from its own words it gives what the code gives."""
    formula = RULE.split("quality = ")[1].split(", where")[0].replace(" x ", " * ")
    where = {"S": "(s - s_base) / (s_real - s_base)", "P": "(p - p_floor) / (p_base - p_floor)"}
    assert all(f"{name} = {text}" in RULE for name, text in where.items())
    names = {"s": 0.55, "p": 0.22, "s_base": 0.2, "s_real": 0.9, "p_base": 0.30, "p_floor": 0.10}
    factors = {name: eval(text, {}, names) for name, text in where.items()}
    clip = lambda value, low, high: min(high, max(low, value))  # noqa: E731
    told = eval(formula, {"clip": clip}, factors)
    assert compute_quality(0.55, 0.22, ANCHORS).quality == pytest.approx(told)
