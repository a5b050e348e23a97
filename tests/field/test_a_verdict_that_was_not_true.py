"""What made verdicts false before, a test for each finding that no narrower test holds; the others are named here.

- default never tried, order of completion, last digits: tests/study/ledger/test_proposals.py
- class destroyed: tests/trainables/evaluation/test_quality.py, tests/study/report/test_choice.py
- evaluation noise, anchors: tests/trainables/evaluation/test_evaluator.py; shared by search and confirm:
  tests/study/spec/test_separation.py
- "ahead of base", false verdicts, intervals: tests/study/report/test_calibration.py
- cost: tests/trainables/training/test_class_images.py, test_latency.py; precision: tests/trainables/run/test_execute.py
- memorisation, diversity, KID: tests/trainables/evaluation/test_copies.py, test_perceptual.py, test_metrics.py
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import embedded_model
from search_spaces.loader import load_space, space_names
from study.spec.loading import preset_path, study_of
from study.spec.sections import BASE
from study.spec.study_spec import StudySpec
from trainables.config.yaml_reader import load_document
from trainables.methods.registry import method_config_class

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS = ("quickstart", "lora-vs-dreambooth", "stable-diffusion")


def preset(name: str) -> StudySpec:
    return study_of(load_document(preset_path(name)), Path.cwd())


@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("method", space_names())
def test_the_default_of_every_dimension_can_be_searched(method: str, embedded: bool) -> None:
    """The search never could have found DreamBooth's default: prior weights below .1 were out of reach."""
    fields = method_config_class(method)
    space = load_space(method, embedded).parameters
    for prior in (True, False):
        stated = {"with_prior_preservation": prior}
        defaults = fields().model_dump() | fields.defaults_beside(stated, embedded=embedded)
        for name, dimension in space.items():
            value = defaults[name]
            if value is None:  # the text encoder's rate follows the other one
                continue
            ends = dimension.probes()
            assert value in ends or min(ends) <= value <= max(ends), (name, value)
    if "method" not in fields.needs_of("prior_loss_weight"):  # some have no class to hold
        assert space["prior_loss_weight"].probes()[0] <= 0.05
    if fields.needs_of("train_text_encoder") == {}:  # some train no text encoder
        assert space["text_encoder_learning_rate"].when == {"train_text_encoder": (True,)}


@pytest.mark.parametrize("name", COMPARISONS[:2])
def test_all_weights_of_the_embedded_model_train_at_4e_4_at_most(name: str) -> None:
    """Ranges went up to 1e-3, where a configuration came out up to .08 apart in quality on two processors. How far it
    comes apart below is measured by `python -m benchmarks.embedded_processors`, and not here.
    """
    assert max(load_space("dreambooth", embedded=True).parameters["learning_rate"].probes()) <= 4e-4
    spec = preset(name)
    full = [arm for arm, content in spec.arms.items() if content.method == "dreambooth"]
    assert len(full) >= 3
    for arm in full:  # an arm may have a range, or a rate, of its own
        dimension = spec.space(arm).parameters.get("learning_rate")
        rates = dimension.probes() if dimension else (spec.method_fields(arm)["learning_rate"],)
        assert max(rates) <= 4e-4, arm


@pytest.mark.parametrize("name", COMPARISONS)
def test_presets_hold_the_text_encoder_and_the_warm_up_equal(name: str) -> None:
    """It trained in one method and not in the other, so that a comparison of methods was one of text encoders."""
    spec = preset(name)
    trained = [arm for arm, content in spec.arms.items() if content.method != BASE]
    configs = [
        method_config_class(spec.arms[arm].method).model_validate(spec.method_config(arm, {}))
        for arm in trained
    ]
    assert len({(config.train_text_encoder, config.lr_warmup_steps) for config in configs}) == 1
    assert len({spec.trials_of(arm) for arm in trained}) == 1
    assert not set(spec.search.subjects or ()) & set(spec.confirm.subjects or ())


@pytest.mark.parametrize("name", COMPARISONS[1:])
def test_presets_that_compare_methods_cross_them_with_the_prior(name: str) -> None:
    spec = preset(name)
    cells = {
        (arm.method, _prior(spec, arm_name), arm.fixed["lr_scheduler"])
        for arm_name, arm in spec.arms.items()
        if arm.method != BASE
    }
    assert cells == {
        (method, prior, schedule)
        for method in ("lora", "dreambooth")
        for prior in (False, True)
        for schedule in ("cosine", "constant")
    }


def _prior(spec: StudySpec, arm: str) -> bool:
    fields = method_config_class(spec.arms[arm].method)
    return fields.model_validate(spec.method_config(arm, {})).with_prior_preservation


def test_the_study_that_decides_has_a_search_for_each_subject() -> None:
    """With one search, intervals held nothing of the search's chance (tests/study/report/test_calibration.py)."""
    spec = preset("lora-vs-dreambooth")
    assert len(spec.confirm.subjects or ()) == spec.search.repeats >= 8
    assert spec.evaluation.of_phase("confirm").images_per_prompt * 16 >= 64


def figures(kept: float, drift: float) -> dict[str, float]:
    """What a made-up run of the fine-tuning benchmark reports; all else reaches its bar."""
    return {
        "subject_fidelity_scaled": 0.9,
        "prompt_fidelity_scaled": kept,
        "prior_preservation": drift,
        "train_seconds": 10.0,
    }


def test_what_misses_the_bars_of_the_first_day_is_printed_as_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar for prior preservation had been moved from .5 to .7, and the one on prompts kept was dropped where an arm
    is no default: .6 of the drift and .7 of the prompts passed in silence.
    """
    made = {
        "LoRA": figures(kept=0.85, drift=0.5),
        "DreamBooth": figures(kept=0.81, drift=0.3),
        "DreamBooth without prior": figures(kept=0.7, drift=0.5),
    }

    def fine_tune(settings: object, arm: embedded_model.Arm, *others: object) -> dict[str, float]:
        return made[arm.name]

    monkeypatch.setattr(embedded_model, "fine_tune", fine_tune)
    lines = embedded_model.measure_fine_tuning(embedded_model.Settings(subjects=2, seeds=1))
    missed = {line.what: str(line) for line in lines if not line.reached}
    assert set(missed) == {"DreamBooth without prior: prompts kept", "class drift left by prior preservation"}
    assert ">= 0.8" in missed["DreamBooth without prior: prompts kept"]
    assert "<= 0.5" in missed["class drift left by prior preservation"]
    assert all("MISS by 0.1" in text for text in missed.values())
    assert sum("MISS" in str(line) for line in lines) == 2


_SHARES = re.compile(r"\d\s*(?:-|–|to)\s*\d+(?:\.\d+)?\s*%")  # e.g. "62-78 %", "94.6 to 95.4 %"
_COMMAND = re.compile(r"benchmarks\.([a-z_]+)")


def shares_without_a_command(text: str) -> list[str]:
    """Lines with a measured range of shares in sections that name no benchmark of this project."""
    found = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        commands = [
            name for name in _COMMAND.findall(section) if (ROOT / "benchmarks" / f"{name}.py").exists()
        ]
        if not commands:
            found += [line for line in section.splitlines() if _SHARES.search(line)]
    return found


def test_a_document_that_states_measured_shares_names_the_benchmark_that_measures_them() -> None:
    """Concepts once said how often few runs order two configurations like many, and nothing computed it."""
    old = (
        "## Seeds\n\nSubjects vary more than seeds. One\n"
        "seed orders two configurations like the full average in 62-78 % of cases; five subjects with three seeds in "
        "89-98 %.\n\n## Held to it\n\n`python -m benchmarks.statistics` finds 94 to 96 %.\n"
    )
    assert [line[:4] for line in shares_without_a_command(old)] == ["seed"]
    assert len(shares_without_a_command("1 to 2 %: `python -m benchmarks.never_written`")) == 1
    documents = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "study" / "presets").glob("*.yaml"),
    ]
    texts = {path.name: path.read_text(encoding="utf-8") for path in documents}
    assert {name: lines for name, text in texts.items() if (lines := shares_without_a_command(text))} == {}
    assert any(_SHARES.search(text) for text in texts.values())
