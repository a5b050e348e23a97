"""The quality rule: anchors, clipping, and no number where there is no scale."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trainables.evaluation import metrics
from trainables.evaluation.anchors import AnchorTable, make_anchors
from trainables.evaluation.quality import (
    FAILED_PROMPT,
    FAILED_SUBJECT,
    RULE,
    SMALLEST_SPAN,
    AnchorErrors,
    Anchors,
    compute_quality,
    has_failed,
    rescale,
)

ANCHORS = Anchors(subject_base=0.2, subject_real=0.9, prompt_base=0.30, prompt_floor=0.10, class_base=0.25)
KEPT = 0.25  # similarity of class images where the class is the base model's


def test_base_model_is_zero_and_perfection_is_one() -> None:
    assert compute_quality(0.2, 0.30, KEPT, ANCHORS).quality == 0
    assert compute_quality(0.9, 0.30, KEPT, ANCHORS).quality == pytest.approx(1)


def test_product_of_the_scaled_fidelities_and_of_the_class_kept() -> None:
    result = compute_quality(0.55, 0.20, KEPT + 0.13, ANCHORS)
    assert result.subject_fidelity_scaled == pytest.approx(0.5)
    assert result.prompt_fidelity_scaled == pytest.approx(0.5)
    assert result.class_kept == pytest.approx(0.8)
    assert result.quality_subject_prompt == pytest.approx(0.25)
    assert result.quality == pytest.approx(0.2)


def test_a_class_that_has_become_the_subject_is_no_success() -> None:
    """The old rule was blind to it: LoRA without prior made "a bird" the subject and came first."""
    perfect = compute_quality(0.9, 0.30, 0.9, ANCHORS)
    assert perfect.quality_subject_prompt == pytest.approx(1)
    assert (perfect.class_kept, perfect.quality) == (pytest.approx(0), pytest.approx(0))
    worse = compute_quality(0.9, 0.30, 0.95, ANCHORS)
    assert worse.class_kept == pytest.approx(-0.05 / 0.65)  # reported as it is
    assert worse.quality == 0
    better = compute_quality(0.9, 0.30, 0.1, ANCHORS)
    assert better.class_kept == pytest.approx(0.8 / 0.65)
    assert better.quality == pytest.approx(1)


def test_two_failures_are_no_success() -> None:
    result = compute_quality(0.1, 0.05, KEPT, ANCHORS)
    assert result.quality == result.quality_subject_prompt == 0
    assert result.subject_fidelity_scaled == pytest.approx(-1 / 7)  # reported as it is
    assert result.prompt_fidelity_scaled == pytest.approx(-0.25)


def test_nothing_is_gained_above_one() -> None:
    copied = compute_quality(0.99, 0.25, KEPT, ANCHORS)
    assert copied.subject_fidelity_scaled == pytest.approx(0.79 / 0.7)
    assert copied.quality == pytest.approx(0.75)
    assert compute_quality(0.55, 0.40, KEPT, ANCHORS).quality == pytest.approx(0.5)


@pytest.mark.parametrize(
    "missing", ["subject_base", "subject_real", "prompt_base", "prompt_floor", "class_base"]
)
def test_missing_anchor_gives_none(missing: str) -> None:
    values = {**ANCHORS.__dict__, missing: None}
    result = compute_quality(0.5, 0.2, KEPT, Anchors(**values))
    assert result.quality is None
    assert (result.quality_subject_prompt is None) == (missing != "class_base")


def test_coinciding_anchors_give_none() -> None:
    assert rescale(0.5, 0.4, 0.4) is None
    assert rescale(0.5, 0.4, 0.405) is None
    assert rescale(0.5, 0.6, 0.4) is None  # the base model is nearer to the subject than its photographs
    assert rescale(None, 0.1, 0.4) is None
    degenerate = replace(ANCHORS, subject_base=0.9)
    assert compute_quality(0.95, 0.3, KEPT, degenerate).quality is None
    assert compute_quality(0.95, 0.3, KEPT, degenerate).prompt_fidelity_scaled == pytest.approx(1)
    no_class = replace(ANCHORS, class_base=0.895)
    assert compute_quality(0.9, 0.3, KEPT, no_class).class_kept is None
    assert compute_quality(0.9, 0.3, KEPT, no_class).quality_subject_prompt == pytest.approx(1)


def test_little_is_not_nothing() -> None:
    assert compute_quality(0.2 + 3e-7, 0.30, KEPT, ANCHORS).quality == pytest.approx(3e-7 / 0.7)


def test_the_rule_that_reports_print_is_the_rule() -> None:
    """RULE is read by people; computed from its own words it gives what the code gives."""
    where = {
        "S": "(s - s_base) / (s_real - s_base)",
        "P": "(p - p_floor) / (p_base - p_floor)",
        "C": "(s_real - c) / (s_real - c_base)",
    }
    assert all(f"{name} = {text}" in RULE for name, text in where.items())
    names = {
        "s": 0.55, "p": 0.22, "c": 0.4, "s_base": 0.2, "s_real": 0.9, "p_base": 0.30, "p_floor": 0.10, "c_base": 0.25,
    }  # fmt: skip
    factors = {name: eval(text, {}, names) for name, text in where.items()}
    clip = lambda value, low, high: min(high, max(low, value))  # noqa: E731
    result = compute_quality(0.55, 0.22, 0.4, ANCHORS)
    for name, end in (("quality", ", where"), ("quality_subject_prompt", ". Undefined")):
        formula = RULE.split(f"{name} = ")[1].split(end)[0].replace(" x ", " * ")
        told = eval(formula, {"clip": clip}, factors)
        assert getattr(result, name) == pytest.approx(told)
    assert f"below {SMALLEST_SPAN}" in RULE


def table(subject: list[float], prompt: list[float], floor: list[float]) -> AnchorTable:
    return AnchorTable(tuple(subject), tuple(prompt), tuple(floor), 0.9, 0.02, 64)


def test_anchors_weigh_prompts_as_the_images_that_are_measured() -> None:
    found = table([0.4, 0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.0, 0.1, 0.2])
    whole = found.of([0, 0, 1, 1, 2, 2], [0, 1, 2, 3])
    assert (whole.subject_base, whole.prompt_base, whole.prompt_floor) == pytest.approx((0.2, 0.6, 0.1))
    assert whole.class_base == pytest.approx(0.25)
    part = found.of([0, 1], [0, 0, 1])
    assert (part.subject_base, part.prompt_base, part.prompt_floor) == pytest.approx((0.15, 0.55, 0.05))
    assert part.class_base == pytest.approx(0.3)


def test_errors_of_anchors_are_those_of_the_prompts_that_are_measured() -> None:
    found = table([0.4, 0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.0, 0.1, 0.2])
    whole = found.errors([0, 0, 1, 1, 2, 2], [0, 1, 2, 3])
    each = 0.1 / 3**0.5
    assert (whole.subject_base, whole.prompt_base, whole.prompt_floor) == pytest.approx((each, each, each))
    assert whole.subject_real == 0.02
    assert whole.class_base == pytest.approx(np.std([0.4, 0.1, 0.2, 0.3], ddof=1) / 2)
    part = found.errors([0, 1], [0, 0, 1])
    assert part.subject_base == pytest.approx(np.std([0.1, 0.2], ddof=1) / 2**0.5)
    # Two thirds and a third: the variance of a weighted mean.
    assert part.class_base == pytest.approx(np.std([0.4, 0.1], ddof=1) * (4 / 9 + 1 / 9) ** 0.5)


ERRORS = AnchorErrors(0.03, 0.04, 0.02, 0.01, 0.05)


@pytest.mark.parametrize("scaled", [0.0, 0.4, 1.0, 1.3])
def test_both_ends_of_a_scale_count_by_where_a_run_stands(scaled: float) -> None:
    def expected(zero: float, one: float, span: float) -> float:
        return float((((1 - scaled) * zero) ** 2 + (scaled * one) ** 2) ** 0.5 / span)

    assert ERRORS.of_subject(scaled, ANCHORS) == pytest.approx(expected(0.03, 0.04, 0.7))
    assert ERRORS.of_prompt(scaled, ANCHORS) == pytest.approx(expected(0.01, 0.02, 0.2))
    assert ERRORS.of_class(scaled, ANCHORS) == pytest.approx(expected(0.04, 0.05, 0.65))


def test_the_error_of_a_score_is_how_it_scatters_with_its_anchors() -> None:
    """Drawn anew by their errors, the anchors move each scaled score by what is stated."""
    rng = np.random.default_rng(0)
    scores = []
    fields = {name: value for name, value in ANCHORS.__dict__.items() if value is not None}
    for _ in range(4000):
        moved = {name: rng.normal(value, 0.1 * ERRORS.__dict__[name]) for name, value in fields.items()}
        scores.append(compute_quality(0.55, 0.22, 0.4, Anchors(**moved)))
    told = compute_quality(0.55, 0.22, 0.4, ANCHORS)
    for name, error in (
        ("subject_fidelity_scaled", ERRORS.of_subject(told.subject_fidelity_scaled, ANCHORS)),
        ("prompt_fidelity_scaled", ERRORS.of_prompt(told.prompt_fidelity_scaled, ANCHORS)),
        ("class_kept", ERRORS.of_class(told.class_kept, ANCHORS)),
    ):
        assert 10 * np.std([getattr(score, name) for score in scores]) == pytest.approx(error, rel=0.05)


@pytest.mark.parametrize(
    "missing", ["subject_base", "subject_real", "prompt_base", "prompt_floor", "class_base"]
)
def test_an_error_of_which_a_part_is_missing_is_missing(missing: str) -> None:
    errors = replace(ERRORS, **{missing: None})
    found = errors.of_subject(0.5, ANCHORS), errors.of_prompt(0.5, ANCHORS), errors.of_class(0.5, ANCHORS)
    gone = {"subject_real": (0, 2), "subject_base": (0,), "class_base": (2,)}.get(missing, (1,))
    assert tuple(index for index, value in enumerate(found) if value is None) == gone
    assert ERRORS.of_subject(None, ANCHORS) is None
    assert ERRORS.of_subject(0.5, replace(ANCHORS, subject_base=0.895)) is None


def test_the_error_of_an_anchor_is_that_of_its_repetition() -> None:
    """Prompts are clusters: with prompts drawn anew the zero scatters by the error that is stated, not by a third."""
    rng = np.random.default_rng(0)
    found, stated = [], []
    for _ in range(400):
        prompts = rng.normal(0.2, 0.08, 16)  # images of a prompt are alike
        means = rng.normal(prompts[:, None], 0.05, (16, 4)).mean(axis=1)
        one = table([0.2, *means], list(means), [0.0] * 16)
        stated.append(one.errors(range(16), [0]).subject_base or 0)
        found.append(means.mean())
    assert np.mean(stated) == pytest.approx(np.std(found), rel=0.1)


def test_anchors_without_enough_prompts_have_no_error() -> None:
    one = table([0.4, 0.1], [0.5], [])
    errors = one.errors([0], [0])
    assert (errors.subject_base, errors.prompt_base, errors.prompt_floor, errors.class_base) == (None,) * 4
    assert one.of([0], [0]).prompt_floor is None


def test_anchors_from_embeddings() -> None:
    rng = np.random.default_rng(0)
    features, clip_features = rng.normal(size=(6, 8)), rng.normal(size=(6, 5))
    texts, references = rng.normal(size=(2, 5)), rng.normal(size=(4, 8))
    groups = [0, 0, 1, 1, 2, 2]
    found = make_anchors(features, clip_features, groups, texts, references, 0.9, 0.02)
    assert found.subject[0] == pytest.approx(metrics.subject_fidelity(features[:2], references))
    anchors = found.of([0, 1], [0, 1, 2])
    assert anchors.subject_base == pytest.approx(metrics.subject_fidelity(features[2:], references))
    assert anchors.class_base == pytest.approx(metrics.subject_fidelity(features, references))
    assert anchors.prompt_base == pytest.approx(metrics.paired_cosine(clip_features[2:], texts[[0, 0, 1, 1]]))
    floor = metrics.mismatched_prompt_fidelity(clip_features[2:], texts, [0, 0, 1, 1])
    assert anchors.prompt_floor == pytest.approx(floor)
    assert (found.images, found.real, found.real_error) == (4, 0.9, 0.02)


def test_a_failed_image_misses_the_subject_or_the_prompt() -> None:
    assert has_failed(1.0, 1.0) is False
    assert has_failed(FAILED_SUBJECT - 0.01, 1.0) is True
    assert has_failed(1.0, FAILED_PROMPT - 0.01) is True
    assert has_failed(None, FAILED_PROMPT - 0.01) is True
    assert has_failed(1.0, None) is None
