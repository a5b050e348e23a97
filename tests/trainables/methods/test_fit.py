"""Which method and which fields fit which family, before anything is loaded; the page on methods has the same table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from study.preflight.checks import check_study
from study.spec.study_spec import StudySpec
from tests.helpers.tiny_families import make_tiny
from trainables.config.fields import ModelConfig
from trainables.methods import registry
from trainables.methods.base import Base
from trainables.methods.fit import REASONS, check_fit, families_of, matrix, obstacle
from trainables.methods.registry import get_method, method_names
from trainables.models.families import FAMILIES

PAGE = Path(__file__).parents[3] / "docs" / "methods.md"


@dataclass(frozen=True)
class NeedsCrossAttention(Base):
    """A method like hypernetworks, for these tests."""

    name: str = "crossing"
    title: str = "Crossing"
    trains: bool = True
    what_trains: str = "nothing"
    needs: tuple[str, ...] = ("cross_attention",)


METHOD = NeedsCrossAttention()


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("sd3", tmp_path_factory.mktemp("fit") / "sd3")


def messages(model: Path, method: str = "lora", **fields: Any) -> str:
    chosen = get_method(method)
    config = chosen.config_class.model_validate(fields)
    return "\n".join(check_fit(chosen, config, ModelConfig(path=str(model))))


def test_methods_of_the_catalogue_run_on_every_family() -> None:
    table = matrix()
    assert tuple(table) == method_names()
    for name in ("base", "lora", "dreambooth", "dreambooth_lora", "text_to_image"):
        assert table[name] == {family.title: None for family in FAMILIES.values()}
    assert len({family.title for family in FAMILIES.values()}) == len(FAMILIES) == 4


def test_a_feature_that_a_family_states_is_one_that_a_method_can_need() -> None:
    assert {feature for family in FAMILIES.values() for feature in family.features} == set(REASONS)


def test_embeddings_are_learnt_where_the_stock_pipeline_loads_them() -> None:
    carries = {
        title: against is None for title, against in families_of(get_method("textual_inversion")).items()
    }
    assert carries == {
        family.title: hasattr(family.stock_pipeline(), "load_textual_inversion")
        for family in FAMILIES.values()
    }


def test_a_family_without_what_a_method_needs_cannot_carry_it() -> None:
    found = families_of(METHOD)
    assert found["Stable Diffusion XL"] is None
    assert found["FLUX.1"] is not None
    assert found["FLUX.1"].startswith("Crossing does not run on FLUX.1: its denoiser has no cross-attention")
    assert obstacle(METHOD, FAMILIES["StableDiffusionPipeline"]) is None


def test_a_study_is_told_why(sd3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._MODULES, "crossing", __name__)
    assert "Crossing does not run on Stable Diffusion 3" in messages(sd3, "crossing")
    spec = StudySpec.model_validate(
        {
            "name": "flow",
            "model": str(sd3),
            "subjects": ["cat-1", "dog-1", "bird-1", "fox-1"],
            "training": {"resolution": 16, "snr_gamma": 5.0},
            "arms": {"lora": {"method": "lora"}, "base": {"method": "base"}},
            "confirm": {"seeds": [1]},
        }
    )
    found = "\n".join(check_study(spec))
    assert "arm 'lora': snr_gamma has no effect on Stable Diffusion 3" in found
    assert "arm 'base'" not in found


@pytest.mark.parametrize(
    "fields", [{"shift": 2.0}, {"timestep_sampling": "uniform"}, {"logit_mean": 0.5}, {"logit_std": 2.0}]
)
def test_fields_of_flow_matching_are_refused_elsewhere(
    fields: dict[str, Any], models: Path, sd3: Path
) -> None:
    (name,) = fields
    assert messages(sd3, **fields) == ""
    text = messages(models / "model", **fields)
    assert text.startswith(
        f"{name} has no effect on Stable Diffusion 1.x, 2.x, which is trained by diffusion"
    )
    assert messages(models / "model", snr_gamma=5.0) == ""


def test_the_mean_of_a_uniform_draw_is_refused() -> None:
    config = get_method("lora").config_class.model_validate({"timestep_sampling": "uniform"})
    (problem,) = config.without_effect(["logit_mean"])
    assert problem == "logit_mean has no effect without timestep_sampling: logit_normal"


def test_the_page_on_methods_has_the_table() -> None:
    titles = [family.title for family in FAMILIES.values()]
    lines = [f"| method | {' | '.join(titles)} |", f"|{'---|' * (len(titles) + 1)}"]
    lines += [
        f"| `{name}` | {' | '.join('no' if against else 'yes' for against in found.values())} |"
        for name, found in matrix().items()
    ]
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- families -->", "<!-- /families -->"
    assert text[text.index(begin) + len(begin) : text.index(end)].strip() == "\n".join(lines)
