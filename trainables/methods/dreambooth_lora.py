"""DreamBooth+LoRA: DreamBooth's loss, with its prior preservation, on low-rank adapters.

It is the method `lora` with another default: the two are one code, and train the same where their fields are equal.
"""

from __future__ import annotations

from trainables.methods import adapters


class DreamBoothLoraConfig(adapters.AdapterConfig):
    """The adapters' fields, with prior preservation unless it is switched off."""

    with_prior_preservation: bool = True


METHOD = adapters.AdapterMethod(
    "dreambooth_lora",
    "DreamBooth+LoRA",
    DreamBoothLoraConfig,
    papers=("ruiz2023dreambooth",),
    variant_of="lora",
)
