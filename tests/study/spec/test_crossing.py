"""Which factors a study crosses where a method of its own stands in it: by what the method says of itself."""

from __future__ import annotations

from typing import Any

import pytest

from study.spec.crossing import crossed_in, what_is_trained
from study.spec.sections import code_of
from study.spec.study_spec import StudySpec
from trainables.methods import registry
from trainables.methods.adapters import AdapterConfig, AdapterMethod


class MineConfig(AdapterConfig):
    """Adapters with another default."""

    r: int = 2


METHOD = AdapterMethod("mine", "Mine", MineConfig, variant_of="lora")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MODULES, METHOD.name, __name__)


def factors(arms: dict[str, Any]) -> dict[str, set[str]]:
    arms = {name: {"search_space": "fixed", **arm} for name, arm in arms.items()}
    spec = StudySpec.model_validate({"name": "s", "subjects": ["cat-1", "dog-1"], "arms": arms})
    return {one.factor: {one.first, one.second} for one in crossed_in(spec)}


def test_a_new_method_on_adapters_crosses_with_other_kinds_of_adapters() -> None:
    arms = {
        f"{method}-{prior}": {"method": method, "adapter": kind, "with_prior_preservation": prior}
        for method, kind in (("mine", "dora"), ("lora", "lora"))
        for prior in (True, False)
    }
    assert factors(arms) == {
        "trains": {"an adapter (LoRA)", "an adapter (DoRA)"},
        "prior": {"yes", "no"},
    }


def test_a_new_method_on_adapters_is_the_other_half_of_a_question_about_something_else() -> None:
    arms = {
        f"{method}-{schedule}": {"method": method, "with_prior_preservation": prior, "lr_scheduler": schedule}
        for method, prior in (("mine", True), ("lora", False))
        for schedule in ("constant", "cosine")
    }
    assert factors(arms) == {"prior": {"yes", "no"}, "schedule": {"constant", "cosine"}}


def test_a_variant_counts_as_the_method_that_it_is_a_variant_of() -> None:
    assert [code_of(name) for name in ("mine", "dreambooth_lora", "lora", "dreambooth")] == [
        "lora",
        "lora",
        "lora",
        "dreambooth",
    ]


def test_records_may_name_a_method_of_another_version() -> None:
    assert (code_of("gone"), what_is_trained("gone", list)) == ("gone", "gone")


def test_what_every_method_of_the_catalogue_trains() -> None:
    found = {name: what_is_trained(name, lambda: ["full"]) for name in registry.method_names()}
    assert found == {
        "base": "nothing",
        "lora": "an adapter",
        "dreambooth": "all weights",
        "dreambooth_lora": "an adapter",
        "hypernetwork": "networks before keys and values",
        "textual_inversion": "embeddings of a new word",
        "custom_diffusion": "keys and values of the text, and embeddings of a new word",
        "pivotal_tuning": "embeddings of a new word, then an adapter",
        "text_to_image": "all weights",
        "mine": "an adapter",
    }
    assert what_is_trained("text_to_image", lambda: ["adapter"]) == "an adapter"
    assert what_is_trained("text_to_image", lambda: ["adapter", "full"]) == "--"
