"""Prior preservation has three levels: none, class images, and the prediction of the frozen base model."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

from study.preflight.notes import study_notes
from study.preflight.workload import class_image_steps, once_image_steps
from study.report.analysis import analyse
from study.report.factor_effects import crossed_arms
from study.report.factors import factors_of, is_idle
from study.report.prepared import Rows, prepare
from study.spec.crossing import crossed_in, prior_levels, prior_words
from study.spec.loading import load_study
from study.spec.study_spec import StudySpec
from tests.helpers.made_reports import QUICK
from tests.helpers.synthetic_results import Arm, Study, make_results
from trainables.errors import UserError

LEVELS: dict[str, dict[str, Any]] = {
    "none": {"with_prior_preservation": False},
    "images": {"with_prior_preservation": True},
    "base": {"with_prior_preservation": True, "prior_preservation_target": "base"},
}
GAINS = {"none": 0.3, "images": 0.5, "base": 0.7}
NAMES = [f"{method}-{level}" for method, level in product(("lora", "dreambooth"), LEVELS)]


def stated(names: list[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {"method": name.split("-")[0], "train_text_encoder": False, **LEVELS[name.split("-")[1]]}
        for name in names
    }


def spec(folder: Path, arms: dict[str, Any], **sections: Any) -> StudySpec:
    path = folder / "study.yaml"
    content = {"name": "levels", "subjects": ["cat-1", "dog-1"], "arms": arms, **sections}
    path.write_text(yaml.safe_dump(content))
    return load_study(path)


def rows(names: list[str]) -> Rows:
    arms = tuple(Arm(name, name.split("-")[0], "constant", gain=GAINS[name.split("-")[1]]) for name in names)
    results = make_results(
        Study(arms=arms, subjects=("dog-1", "cat-2", "cow-1", "owl-1"), trials=1, failing=())
    )
    for name, fields in stated(names).items():
        results.meta["spec"]["arms"][name] |= {**fields, "lr_scheduler": "constant"}
    own = results.frame["arm"].map(lambda name: "none" if name not in names else name.split("-")[1])
    columns = {
        "param.with_prior_preservation": own != "none",
        "param.prior_preservation_target": own.map(lambda level: "base" if level == "base" else "images"),
        "param.train_text_encoder": False,
    }
    return prepare(replace(results, frame=results.frame.assign(**columns)))


def test_a_report_calls_the_levels_by_their_names() -> None:
    found = {one.arm: one.prior for one in factors_of(rows(NAMES))}
    words = {"none": "no", "images": "class images", "base": "frozen base"}
    assert found == {name: words[name.split("-")[1]] for name in NAMES}


def test_studies_of_two_levels_read_as_before() -> None:
    two = [name for name in NAMES if not name.endswith("base")]
    assert {one.arm: one.prior for one in factors_of(rows(two))} == {
        name: "yes" if name.endswith("images") else "no" for name in two
    }
    records = rows(two)  # and so do records of versions that did not know the field
    old = replace(records, frame=records.frame.drop(columns="param.prior_preservation_target"))
    assert factors_of(old) == factors_of(records)
    (one,) = [one for one in crossed_arms(old) if one.factor == "prior"]
    assert (one.first, one.second) == ("yes", "no")


def test_each_pair_of_levels_is_a_question_of_its_own(tmp_path: Path) -> None:
    three = rows(NAMES)
    found = [one for one in crossed_arms(three) if one.factor == "prior"]
    assert [(one.first, one.second) for one in found] == [
        ("class images", "frozen base"),
        ("class images", "no"),
        ("frozen base", "no"),
    ]
    assert found[2].arms == (("lora-base", "lora-none"), ("dreambooth-base", "dreambooth-none"))
    planned = crossed_in(spec(tmp_path, stated(NAMES)))
    assert [
        (one.factor, one.first, one.second, set(one.arms)) for one in planned if one.factor == "prior"
    ] == [(one.factor, one.first, one.second, set(one.arms)) for one in found]
    effects = [one for one in analyse(three, QUICK).factor_effects if one.factor == "Prior preservation"]
    means = three.confirm.groupby("arm")["quality"].mean()
    for effect, (high, low) in zip(
        effects, (("images", "base"), ("images", "none"), ("base", "none")), strict=True
    ):
        expected = sum(means[f"{m}-{high}"] - means[f"{m}-{low}"] for m in ("lora", "dreambooth")) / 2
        assert effect.comparisons["quality"].difference.value == pytest.approx(expected)
        assert not {"prior preservation target", "with prior preservation"} & set(effect.differs)


def test_levels_whose_arms_lack_a_partner_are_left_out(tmp_path: Path) -> None:
    found = crossed_in(spec(tmp_path, stated([name for name in NAMES if name != "dreambooth-base"])))
    assert [(one.factor, one.first, one.second) for one in found] == [("prior", "class images", "no")]


def test_values_that_are_searched_are_all_levels() -> None:
    assert prior_levels([True, False], ["images", "base"]) == ("images", "base", "no")
    assert prior_levels([True], []) == ("images",)
    assert prior_levels([], ["base"]) == ()
    assert prior_words([("images",), ("no",)])["images"] == "yes"
    assert prior_words([("images",), ("no", "base")])["images"] == "class images"


def test_numbers_of_class_images_say_nothing_of_an_arm_without_any() -> None:
    three = rows(NAMES)
    idle = {name: is_idle(three, name, "num_class_images") for name in NAMES}
    assert idle == {name: not name.endswith("images") for name in NAMES}
    assert not is_idle(three, "lora-base", "prior_loss_weight")
    assert is_idle(three, "lora-none", "prior_preservation_target")


def test_a_plan_counts_no_class_images_of_the_frozen_base(tmp_path: Path) -> None:
    every = spec(tmp_path, stated(NAMES), training={"num_class_images": 16, "class_num_inference_steps": 5})
    counts = {name: class_image_steps(every, name) for name in NAMES}
    assert counts == {name: 80 if name.endswith("images") else 0 for name in NAMES}
    without = spec(tmp_path, stated([name for name in NAMES if not name.endswith("images")]))
    none = spec(tmp_path, stated([name for name in NAMES if name.endswith("none")]))
    assert once_image_steps(without) == once_image_steps(none)


@pytest.mark.parametrize(
    ("arm", "sections", "message"),
    [
        (
            {"prior_preservation_target": "base"},
            {},
            "arms.a.prior_preservation_target: has no effect in this arm: it needs with_prior_preservation: true, but "
            "with_prior_preservation is false; remove it",
        ),
        (
            {**LEVELS["base"], "num_class_images": 8},
            {},
            "arms.a.num_class_images: has no effect in this arm: it needs prior_preservation_target: images, but "
            "prior_preservation_target is base; remove it",
        ),
        (
            {"with_prior_preservation": True, "prior_preservation_target": "pictures"},
            {},
            "arms.a.prior_preservation_target: ",
        ),
        (
            LEVELS["base"],
            {"resources": {"num_workers": 2, "parallel_strategy": "fsdp"}},
            "resources.parallel_strategy: is fsdp, but arm 'a' has prior_preservation_target: base, for which",
        ),
        (
            {"method": "textual_inversion", "prior_preservation_target": "base"},
            {},
            "arms.a.prior_preservation_target: has no effect in this arm: the method textual_inversion does not read",
        ),
    ],
)
def test_what_says_nothing_or_cannot_be_is_refused(
    arm: dict[str, Any], sections: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        spec(tmp_path, {"a": {"method": "lora", **arm}, "b": {"method": "lora", "r": 2}}, **sections)
    assert message in "\n".join(refused.value.problems)


def test_arms_that_differ_in_the_target_alone_are_two(tmp_path: Path) -> None:
    both = {name: {"method": "lora", **LEVELS[name]} for name in ("images", "base")}
    assert sorted(spec(tmp_path, both).arms) == ["base", "images"]
    both["again"] = {**both["images"], "prior_preservation_target": "images"}
    with pytest.raises(UserError, match="again"):
        spec(tmp_path, both)


def test_methods_with_targets_of_their_own_are_confounded(tmp_path: Path) -> None:
    apart = stated(["lora-images", "dreambooth-base"])
    (note,) = [note for note in study_notes(spec(tmp_path, apart)) if "prior_preservation_target" in note]
    assert "base in every arm of dreambooth and images in every arm of lora" in note
    crossed = study_notes(spec(tmp_path, stated(NAMES)))
    assert not [note for note in crossed if "prior_preservation" in note]
