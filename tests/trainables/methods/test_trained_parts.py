"""Which parts of a model each method says that it trains; the conformance suite holds the methods to it."""

from __future__ import annotations

import pytest

from trainables.methods.registry import get_method
from trainables.models.families import FAMILIES, Part


@pytest.mark.parametrize("method", ["lora", "dreambooth", "dreambooth_lora", "text_to_image"])
def test_the_denoiser_and_the_text_encoders_that_are_asked_for(method: str) -> None:
    family, chosen = FAMILIES["StableDiffusionPipeline"], get_method(method)
    alone, together = (chosen.config_class(train_text_encoder=each) for each in (False, True))
    assert chosen.trained_parts(family, alone) == ("unet",)
    assert chosen.trained_parts(family, together) == ("unet", "text_encoder")


def test_the_base_model_trains_nothing() -> None:
    family, base = FAMILIES["StableDiffusionPipeline"], get_method("base")
    assert base.trained_parts(family, base.config_class(train_text_encoder=True)) == ()


def test_a_family_names_its_parts_in_one_entry() -> None:
    family = FAMILIES["StableDiffusionPipeline"]
    assert [part.name for part in family.modules] == ["unet", "vae", "text_encoder"]
    assert family.parts == ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    assert family.texts == ("text_encoder", "tokenizer")
    assert family.load_options == {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    assert all(isinstance(part, Part) and part.title for part in family.trainable(text_encoders=True))
