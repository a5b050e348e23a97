"""LoRA (Hu et al. 2021, arXiv:2106.09685) and its relatives, with or without prior preservation.

`adapter` names the kind (``adapter_kinds.py``).
"""

from __future__ import annotations

from trainables.methods import adapters


class LoraTrainingConfig(adapters.AdapterConfig):
    """LoRA's fields; see `AdapterConfig`. Without prior preservation unless it is switched on."""


METHOD = adapters.AdapterMethod("lora", "LoRA", LoraTrainingConfig)
