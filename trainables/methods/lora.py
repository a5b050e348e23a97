"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters, with or without prior preservation."""

from __future__ import annotations

from trainables.methods import adapters


class LoraTrainingConfig(adapters.AdapterConfig):
    """LoRA's fields; see `AdapterConfig`. Without prior preservation unless it is switched on."""


METHOD = adapters.AdapterMethod("lora", "LoRA", LoraTrainingConfig)
