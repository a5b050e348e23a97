"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters, without prior preservation."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from trainables.methods import adapters


class LoraTrainingConfig(adapters.AdapterConfig):
    """LoRA's fields; see `AdapterConfig`."""

    @model_validator(mode="after")
    def _without_prior(self) -> Self:
        if self.with_prior_preservation:
            raise ValueError(
                "lora has no prior preservation (with_prior_preservation: true); take method "
                "dreambooth_lora, which is LoRA with it"
            )
        return self


METHOD = adapters.AdapterMethod("lora", "LoRA", LoraTrainingConfig)
