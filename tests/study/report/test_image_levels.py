"""Single images as levels: components of variance against simulation, scores by prompt, ceilings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from study.report.comparisons import Settings
from study.report.image_levels import (
    CLASS_RAW,
    balanced,
    class_images,
    class_sample,
    components,
    components_of,
    instance_images,
    prompt_scores,
)
from study.report.image_tables import ceiling_words, ceilings_table, components_table
from study.report.latex import to_latex
from study.report.prepared import prepare
from study.report.sections import compose
from study.report.tables import to_csv, to_html
from study.statistics.paired import Floats
from tests.helpers.made_reports import edited
from tests.helpers.synthetic_results import ARMS, CLASS_IMAGES, CLASS_SPREAD, Study, make_results

QUICK = Settings(resamples=300)
STUDY = Study(arms=ARMS[:2], trials=1, subjects=("a", "b", "c", "d"), modern=True, failing=(), pruned=())
TRUE = {"subject": 0.04, "seed": 0.01, "prompt": 0.02, "prompt by run": 0.015, "image": 0.05}


def drawn(rng: np.random.Generator, shape: tuple[int, int, int, int], true: dict[str, float]) -> Floats:
    subjects, seeds, prompts, images = shape
    parts = {
        "subject": (subjects, 1, 1, 1),
        "seed": (subjects, seeds, 1, 1),
        "prompt": (1, 1, prompts, 1),
        "prompt by run": (subjects, seeds, prompts, 1),
        "image": (subjects, seeds, prompts, images),
    }
    total = np.zeros(shape)
    for name, size in parts.items():
        total = total + rng.normal(0, true[name] ** 0.5, size)
    return total


def test_components_are_those_that_were_drawn() -> None:
    """Means over 200 simulated arms: unbiased, but for estimates below 0, which count as 0."""
    rng = np.random.default_rng(0)
    found = [components_of(drawn(rng, (8, 3, 12, 3), TRUE)).variances for _ in range(200)]
    for name, true in TRUE.items():
        values = np.array([variances[name] for variances in found], dtype=float)
        error = values.std(ddof=1) / len(values) ** 0.5
        assert values.mean() == pytest.approx(true, abs=max(4 * error, 0.02 * true)), name


def test_the_standard_error_is_that_of_means_over_fresh_draws() -> None:
    rng = np.random.default_rng(1)
    shape = (4, 2, 6, 2)
    means = [drawn(rng, shape, TRUE).mean() for _ in range(4000)]
    known = replace(components_of(drawn(rng, shape, TRUE)), variances=dict(TRUE))
    assert known.error == pytest.approx(np.std(means), rel=0.05)
    doubled = [drawn(rng, (8, 2, 6, 2), TRUE).mean() for _ in range(4000)]
    assert known.error_with("subjects") == pytest.approx(np.std(doubled), rel=0.05)
    assert known.error_with("images") < known.error
    assert known.error_with("images") > known.error_with("subjects")


def test_what_a_design_cannot_tell_is_missing() -> None:
    rng = np.random.default_rng(2)
    one_seed = components_of(drawn(rng, (6, 1, 5, 2), TRUE))
    assert one_seed.variances["seed"] is None
    assert one_seed.variances["subject"] is not None
    one_image = components_of(drawn(rng, (6, 2, 5, 1), TRUE))
    assert one_image.variances["image"] is None
    text = to_csv(components_table([one_seed, one_image]))
    assert "--" not in text.splitlines()[1]  # an empty cell in the CSV, dashes on the page
    assert "--" in to_html(components_table([one_seed]))


def test_equal_scores_vary_by_nothing() -> None:
    found = components_of(np.full((3, 2, 4, 2), 0.7))
    assert set(found.variances.values()) == {0.0}
    assert found.error == 0.0


def test_a_prompt_that_a_run_lacks_is_left_out() -> None:
    rows = prepare(make_results(STUDY))
    own = instance_images(rows, "lora-cosine")
    whole = balanced(own, "subject_scaled")
    assert whole is not None
    assert whole.shape == (4, 2, 6, 2)
    first = own["run_key"].iloc[0]
    gone = own[~((own["run_key"] == first) & (own["prompt"] == 3))]
    fewer = balanced(gone, "subject_scaled")
    assert fewer is not None
    assert fewer.shape == (4, 2, 5, 2)
    one = own[own["subject"] == "a"]
    assert balanced(one, "subject_scaled") is None


def test_prompts_have_the_means_over_subjects() -> None:
    rows = prepare(make_results(STUDY))
    found = [row for row in prompt_scores(rows) if row.arm == "lora-cosine"]
    assert [row.prompt for row in found] == list(range(6))
    own = instance_images(rows, "lora-cosine")
    third = own[own["prompt"] == 2]
    assert found[2].subject == pytest.approx(third.groupby("subject")["subject_scaled"].mean().mean())
    assert found[2].failed == pytest.approx(third.groupby("subject")["failed"].mean().mean())
    assert found[2].images == 16  # four subjects, two seeds, two images
    assert found[2].template == "a subject in the snow at night"


def test_class_images_are_no_images_of_the_subject() -> None:
    rows = prepare(make_results(STUDY))
    assert (rows.image_scores["kind"] == "class").any()
    assert (instance_images(rows, "lora-cosine")["kind"] == "instance").all()


def test_all_factors_of_every_arm_have_components() -> None:
    found = components(prepare(make_results(STUDY)))
    assert [(c.arm, c.factor) for c in found] == [
        (arm, factor) for arm in ("base", "lora-cosine") for factor in ("subject", "prompt", "class")
    ]


# ------------------------------------------------------------------ class kept


def test_class_kept_of_single_images_is_on_the_scale_of_their_runs() -> None:
    rows = prepare(make_results(STUDY))
    images, scaled = class_images(rows)
    assert scaled
    means = images.groupby("run_key")["class_kept"].mean()
    assert means.to_numpy() == pytest.approx(
        rows.confirm.set_index("run_key")["class_kept"][means.index].to_numpy()
    )
    found = next(c for c in components(rows) if (c.arm, c.factor) == ("lora-cosine", "class"))
    assert (found.subjects, found.seeds, found.prompts, found.images) == (4, 2, *CLASS_IMAGES)
    assert (found.variances["image"] or 0) ** 0.5 == pytest.approx(CLASS_SPREAD, rel=0.3)


def test_class_images_without_a_scale_are_not_called_class_kept() -> None:
    results = make_results(STUDY)
    rows = prepare(edited(results, prior_preservation=np.nan))
    kinds = {c.factor for c in components(rows)}
    assert kinds == {"subject", "prompt", CLASS_RAW}
    assert "not rescaled to class kept" in " ".join(components_table(components(rows)).notes)
    sample = class_sample(rows)
    assert sample is not None
    assert sample.error is None
    broken = results.frame["class_kept"].where(results.frame["seed"] != 100, 0.5)
    assert not class_images(prepare(edited(results, class_kept=broken)))[1]


def test_the_main_table_says_on_how_many_class_images_class_kept_rests() -> None:
    results = make_results(STUDY)
    rows = prepare(results)
    sample = class_sample(rows)
    assert sample is not None
    assert (sample.smallest, sample.largest) == (12, 12)
    assert sample.error == pytest.approx(CLASS_SPREAD / 12**0.5, rel=0.3)
    arms = next(table for table in compose(results, QUICK).tables if table.key == "arms")
    assert "Class kept rests on 12 class images a run (standard error of a run's value" in " ".join(
        arms.notes
    )
    old = next(
        t for t in compose(make_results(replace(STUDY, modern=False)), QUICK).tables if t.key == "arms"
    )
    assert "class images" not in " ".join(old.notes)


def test_two_subjects_do_not_tell_how_subjects_vary() -> None:
    rng = np.random.default_rng(3)
    two, four = (components_of(drawn(rng, (n, 2, 5, 2), TRUE)) for n in (2, 4))
    table = components_table([two, four])
    keys = [column.key for column in table.columns]
    for name in ("sd_subject", "subject_freedom", "error", "error_twice_subjects", "error_twice_images"):
        assert table.rows[0][keys.index(name)].text == "--"
        assert table.rows[1][keys.index(name)].text != "--"
    assert table.rows[1][keys.index("subject_freedom")].value == 3
    assert table.rows[0][keys.index("sd_seed")].text != "--"


def test_ceilings_by_subject_and_what_a_perfect_method_would_reach() -> None:
    rows = prepare(make_results(STUDY))
    table = ceilings_table(rows)
    assert table is not None
    assert [row[0].text for row in table.rows] == ["a", "b", "c", "d"]
    means = rows.confirm.groupby("subject")["ceiling_quality"].mean()
    assert table.rows[1][1].value == pytest.approx(means["b"])
    (text,) = ceiling_words(rows, 0.5)
    assert text.startswith("A perfect method would reach quality 0.9")
    assert "best arm's mean quality is 0.50" in text
    results = make_results(STUDY)
    unknown = dict.fromkeys(("ceiling_subject", "ceiling_prompt", "ceiling_quality"), float("nan"))
    frame = results.frame.assign(**unknown, subject_anchor_error=0.02)
    errors = prepare(replace(results, frame=frame))
    table = ceilings_table(errors)
    assert table is not None
    assert "eiling" not in " ".join((table.caption, *table.notes)), "as of data sets, there are none"
    assert ceiling_words(errors, 0.5) == ()
    bare = prepare(make_results(replace(STUDY, modern=False)))
    assert ceilings_table(bare) is None
    assert ceiling_words(bare, 0.5) == ()


def test_templates_are_escaped_on_every_page() -> None:
    results = make_results(STUDY)
    evil = "<img src=x> {} & 100%_$"
    scores = results.image_scores.assign(template=evil)
    report = compose(replace(results, image_scores=scores), QUICK)
    table = next(table for table in report.tables if table.key == "prompts")
    assert "<img" not in to_html(table)
    assert r"\{\} \& 100\%\_\$" in to_latex(table)
