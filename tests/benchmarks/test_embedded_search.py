"""The search for the embedded model's defaults: what it begins with and chooses, and that it can be stopped."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import embedded_search, methods
from benchmarks.embedded_search import Search, Trial
from benchmarks.support.casts import CASTS
from benchmarks.support.finished_runs import FinishedRuns
from benchmarks.support.single_run import fields_of
from search_spaces.loader import load_space
from search_spaces.schema import SearchSpace
from study.spec.loading import load_study, preset_names
from trainables.methods.registry import method_config_class, method_names

SUBJECTS = ("dog-1", "bird-1")
_SPACE = SearchSpace.model_validate(
    {
        "parameters": {
            "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
            "r": {"type": "categorical", "choices": [4, 8, 16]},
            "max_train_steps": {"type": "int", "low": 10, "high": 90, "when": {"r": 8}},
        }
    }
)


def _runs(path: Path) -> FinishedRuns:
    return FinishedRuns(path, embedded_search._KEY)


def _hill(params: Mapping[str, Any]) -> float:
    """A quality with its peak at 1e-3, the same everywhere."""
    return 1 - abs(math.log10(params["learning_rate"]) + 3) / 3


def _measure(seen: list[Any], stop_at: int | None = None, failing: str | None = None) -> Any:
    def measure(jobs: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for job in jobs:
            if len(seen) == stop_at:
                raise KeyboardInterrupt
            seen.append((job["trial"], job["subject"], job["seed"]))
            ended: dict[str, Any] = {"state": "COMPLETE", "quality": _hill(job["params"])}
            if job["subject"] == failing:
                ended = {"state": "FAIL", "reason": "nan_loss"}
            yield {"params": job["params"], "seconds": 2.0, **ended}

    return measure


def _searched(path: Path, seen: list[Any], **measure: Any) -> str:
    return embedded_search.searched(
        _runs(path), "textual_inversion", 12, 100, SUBJECTS, _measure(seen, **measure)
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_search_that_was_stopped_goes_on_with_the_same_proposals(tmp_path: Path) -> None:
    unbroken, broken, seen = tmp_path / "a.jsonl", tmp_path / "b.jsonl", []  # type: ignore[var-annotated]
    row = _searched(unbroken, [])
    for stop_at in (0, 7, 21):  # before the first run, in the middle of a trial, at the end of the search
        with pytest.raises(KeyboardInterrupt):
            _searched(broken, seen, stop_at=stop_at)
    assert _searched(broken, seen) == row
    assert _lines(broken) == _lines(unbroken)
    trials = [(trial, subject, 0) for trial in range(12) for subject in SUBJECTS]
    assert seen == trials + [(again, subject, 1) for again in ("default", "median") for subject in SUBJECTS]
    assert _searched(broken, seen, stop_at=len(seen)) == row  # nothing is left to do


def test_the_first_trial_is_the_default_and_others_find_the_peak(tmp_path: Path) -> None:
    _searched(tmp_path / "a.jsonl", [])
    by_trial = {line["trial"]: line["params"] for line in _lines(tmp_path / "a.jsonl")[1:]}
    assert by_trial[0] == {"learning_rate": 2e-1, "num_vectors": 4, "lr_scheduler": "constant"}
    assert by_trial["default"] == by_trial[0]
    best = sorted((_hill(by_trial[trial]) for trial in range(12)), reverse=True)[:5]
    assert best[-1] <= _hill(by_trial["median"]) <= best[0]
    assert _hill(by_trial["median"]) > _hill(by_trial[0])


def test_a_failed_run_counts_nothing_in_the_mean(tmp_path: Path) -> None:
    row = _searched(tmp_path / "a.jsonl", [], failing="bird-1")
    cells = row.split(" | ")
    assert cells[2] == f"{_hill({'learning_rate': 2e-1}) / 2:.3f}"
    assert cells[-2] == "14"  # one of each of twelve trials, and of the two that are judged once more
    assert cells[-1] == "56 |"


def test_what_was_begun_does_not_notice_other_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _runs(tmp_path / "a.jsonl")
    begun = embedded_search.begun_search(runs, "lora", 100, SUBJECTS)
    monkeypatch.setitem(method_config_class("lora").EMBEDDED_WITHOUT_PRIOR, "learning_rate", 2e-3)
    again = embedded_search.begun_search(_runs(tmp_path / "a.jsonl"), "lora", 100, SUBJECTS)
    assert again == begun
    assert embedded_search.new_search("lora", 100).default["learning_rate"] == 2e-3
    with pytest.raises(SystemExit, match="was begun with"):
        embedded_search.begun_search(runs, "lora", 50, SUBJECTS)


@pytest.mark.parametrize("name", embedded_search.NAMES)
def test_every_space_is_the_shipped_one_with_wider_rates_and_its_values_are_sound(name: str) -> None:
    search = embedded_search.new_search(name, 100)
    fields = method_config_class(search.method)
    assert search.training["max_train_steps"] == 100
    assert search.training["with_prior_preservation"] == name.endswith("+prior")
    assert search.training.get("trains") == {"text_to_image": "adapter", "text_to_image+full": "full"}.get(
        name
    )
    fixed = {"trains": "full"} if name.endswith("+full") else {"adapter": name}
    whole = load_space(search.method, embedded=True, fixed=fixed).parameters
    assert set(search.shipped.parameters) <= set(whole)
    assert list(search.space.parameters) == list(search.shipped.parameters)
    full = (name.startswith("dreambooth") and "lora" not in name) or name.endswith("+full")
    for field, wide in search.space.parameters.items():
        shipped: Any = search.shipped.parameters[field]
        if field.endswith("learning_rate"):
            assert wide.low == pytest.approx(shipped.low / 3, rel=1e-2)  # type: ignore[union-attr]
            ends = full and field.startswith("text_encoder")
            assert wide.high == pytest.approx(shipped.high * (1 if ends else 3), rel=1e-2)  # type: ignore[union-attr]
        else:
            assert wide == shipped
        for value in wide.probes():
            fields.model_validate({**search.training, **search.default, field: value})


def test_no_subject_serves_two_purposes() -> None:
    of_presets = {subject.name for name in preset_names() for subject in load_study(name).subjects}
    assert {"cat-5", "dog-6"} <= of_presets
    used = [of_presets, set(embedded_search.SUBJECTS), set(methods.SUBJECTS)]
    assert [one & other for one, other in itertools.combinations(used, 2)] == [set()] * 3
    for subjects in used[1:]:
        assert len({name.split("-")[0] for name in subjects}) == len(subjects) >= 4


def test_captions_are_searched_on_casts_and_all_else_on_subjects() -> None:
    casts = tuple(CASTS)
    assert embedded_search.scope_of("lora", None, ()) == (100, embedded_search.SUBJECTS)
    assert embedded_search.scope_of("text_to_image+full", None, ()) == (200, casts)
    asked = ("cast-2", "dog-1")
    assert embedded_search.scope_of("lora", 7, asked) == (7, ("dog-1",))
    assert embedded_search.scope_of("text_to_image", 7, asked) == (7, ("cast-2",))
    assert embedded_search.scope_of("text_to_image", 7, ("dog-1",)) == (7, casts)


def test_every_method_that_trains_is_searched() -> None:
    searched = {fields_of(name, 100)[0] for name in embedded_search.NAMES}
    assert searched == set(method_names()) - {"base"}


def _trials(*points: tuple[float, dict[str, Any]]) -> list[Trial]:
    return [Trial(params, quality, 0, 1.0) for quality, params in points]


def test_the_middle_is_taken_field_by_field_of_those_that_have_it() -> None:
    best = _trials(
        (0.9, {"learning_rate": 4e-3, "r": 16}),
        (0.8, {"learning_rate": 1e-3, "r": 8, "max_train_steps": 70}),
        (0.7, {"learning_rate": 2e-3, "r": 8, "max_train_steps": 20}),
        (0.6, {"learning_rate": 9e-3, "r": 4}),
        (0.5, {"learning_rate": 5e-3, "r": 8, "max_train_steps": 30}),
    )
    assert embedded_search.middle(_SPACE, best) == {"learning_rate": 4e-3, "r": 8, "max_train_steps": 30}
    # Of two choices that as many have, the better trial's; then its condition does not hold.
    assert embedded_search.middle(_SPACE, best[:2]) == {"learning_rate": 1e-3, "r": 16}


def test_the_best_are_five_and_the_earlier_of_equals() -> None:
    trials = _trials(
        *((quality, {"r": number}) for number, quality in enumerate((0.1, 0.5, 0.5, 0.9, 0.2, 0.3)))
    )
    assert [trial.params["r"] for trial in embedded_search.best_of(trials)] == [3, 1, 2, 5, 4]


def test_it_says_what_lies_at_an_end_and_beyond_the_shipped_range() -> None:
    search = Search("lora", "lora", {}, _SPACE, embedded_search.wider(_SPACE), {})
    inside = _trials((1.0, {"learning_rate": 2e-4, "r": 8}), (0.5, {"learning_rate": 9e-3, "r": 8}))
    assert embedded_search.where(search, inside) == "learning_rate 0.0002 .. 0.009"
    outside = _trials((1.0, {"learning_rate": 1.5e-2, "r": 8}), (0.5, {"learning_rate": 2.9e-2, "r": 8}))
    said = "learning_rate 0.015 .. 0.029, 2 beyond 0.0001 .. 0.01, 1 at an end"
    assert embedded_search.where(search, outside) == said


def test_the_table_of_complete_searches_needs_no_run_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    row = _searched(path, [])
    embedded_search.begun_search(_runs(path), "lora", 100, SUBJECTS)
    held = path.read_bytes()
    names = ["--methods", "textual_inversion", "lora", "hra", "--subjects", *SUBJECTS, "--trials", "12"]
    embedded_search.main(["--out", str(path), "--table", *names])
    said = capsys.readouterr()
    assert said.out.splitlines()[2:] == [row]
    assert said.out.count("|") == 3 * row.count("|")
    for name in ("lora", "hra"):
        assert f"{name}: the search is not complete" in said.err
    assert path.read_bytes() == held
