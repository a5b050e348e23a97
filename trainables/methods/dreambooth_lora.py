"""DreamBooth+LoRA: DreamBooth's loss, with its prior preservation, on low-rank adapters."""

from __future__ import annotations

from typing import Any, ClassVar

from trainables.methods import adapters


class DreamBoothLoraConfig(adapters.AdapterConfig):
    """The adapters' fields, with prior preservation on."""

    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {"learning_rate": 2e-3, "prior_loss_weight": 0.3}

    with_prior_preservation: bool = True


METHOD = adapters.AdapterMethod("dreambooth_lora", "DreamBooth+LoRA", DreamBoothLoraConfig)
