"""The meaning of somebody else's columns, from a file and from options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from study.results.mapping import ResultMapping, mapping_of
from trainables.errors import UserError

FILE = """\
arm: adapter
quality: [fid, clip]
cost: train_seconds
lower_is_better: [fid]
metrics:
  fid: {title: FID, description: Of 100 images.}
  train_seconds: {title: Training}
  drift:
"""


def mapping(tmp_path: Path, text: str, **options: Any) -> ResultMapping:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    return mapping_of(path, options)


def problems(tmp_path: Path, text: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        mapping(tmp_path, text, **options)
    return caught.value.problems


def test_a_file_says_titles_units_and_directions(tmp_path: Path) -> None:
    found = mapping(tmp_path, FILE)
    assert found.shown == ("fid", "clip", "train_seconds", "drift")
    assert [found.role(name) for name in found.shown] == ["quality", "quality", "cost", "other"]
    assert [found.direction(name) for name in found.shown] == ["min", "max", "min", "none"]
    assert [found.title(name) for name in found.shown] == ["FID", "clip", "Training", "drift"]
    assert (found.unit("train_seconds"), found.unit("fid")) == ("s", "")
    assert found.description("fid") == "Of 100 images."


def test_options_win_over_the_file(tmp_path: Path) -> None:
    found = mapping(tmp_path, FILE, arm=["method"], metrics=["steps"], margin=0.5, cost=[], seed=None)
    assert (found.arm, found.cost, found.margin, found.seed) == (("method",), ("train_seconds",), 0.5, ())
    assert found.shown == ("fid", "clip", "train_seconds", "steps", "drift")
    assert found.title("fid") == "FID"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    said = problems(tmp_path, "arms: x\nquality: 3\nmetrics:\n  fid: {better: bigger}\nmargin: -1\n")
    assert said == (
        "m.yaml:1 arms: unknown key 'arms'; did you mean 'arm'? Keys here: arm, cost, lower_is_better, margin, "
        "metrics, name, quality, seed, subject",
        "m.yaml:2 quality: must be a list, such as [a, b], got 3",
        "m.yaml:4 metrics.fid.better: must be one of higher, lower, none; got 'bigger'; did you mean 'higher'?",
        "m.yaml:5 margin: must be above 0, got -1",
    )


def test_what_does_not_go_together_is_told_at_once(tmp_path: Path) -> None:
    text = FILE.replace("cost: train_seconds", "cost: [clip, s, s]").replace("[fid]", "[fid, clp]")
    text = text.replace("Of 100 images.}", "Of 100 images., better: higher}")
    said = problems(tmp_path, text)
    assert [line.partition(": ")[2] for line in said] == [
        "s stands there twice; leave one out",
        "clip cannot be a quality and a cost; leave it out of one",
        "'clp' is no quality, cost or metric of this mapping; did you mean 'clip'? known: fid, clip, s, train_seconds, "
        "drift",
        "'fid' is in `lower_is_better`, too; remove one",
    ]
    assert said[0].startswith("m.yaml:3 cost")


def test_arm_and_quality_are_needed() -> None:
    with pytest.raises(UserError) as caught:
        mapping_of(None, {"cost": ["s"]})
    assert len(caught.value.problems) == 2
    assert "--arm" in caught.value.problems[0]
    assert "--quality" in caught.value.problems[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margin": 0.0}, "margin: must be above 0, got 0.0"),
        (
            {"quality": ["fid", "clip"], "lower_is_better": True},
            "there are several qualities (fid, clip); name those",
        ),
        ({"quality": ["fid", "fid"]}, "fid stands there twice"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        mapping_of(None, {"arm": ["a"], "quality": ["fid"], **options})
    assert said in " ".join(caught.value.problems)


@pytest.mark.parametrize("text", ["", "[arm]", "arm"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    assert "must be a mapping with the keys" in problems(tmp_path, text)[0]


def test_the_first_quality_needs_a_direction(tmp_path: Path) -> None:
    said = problems(tmp_path, "arm: a\nquality: x\nmetrics: {x: {better: none}}\n")
    assert said == ("m.yaml:3 metrics.x.better: arms are ranked by the first quality; say higher or lower",)
