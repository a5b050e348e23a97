"""The fields of the methods that train adapters, by PEFT's names, and what they come to."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from trainables.config.fields import TrainingConfig
from trainables.methods.adapter_kinds import (
    ALTER_BASE,
    KINDS,
    LINEAR_STARTS,
    LORAS,
    NOT_OFFERED,
    SCALED,
    WITH_RANK,
    AdapterKind,
)

#: The preset that needs a family with the feature of the same name.
CROSS_ATTENTION = "cross_attention"
#: Fields that name the modules which get adapters: of the denoiser, and of the text encoders.
MODULES, TEXT_MODULES = "target_modules", "text_encoder_target_modules"

_ATTENTION = ("to_k", "to_q", "to_v", "to_out.0")
_MLP = ("ff.net.0.proj", "ff.net.2")
_AROUND = r"proj_in|proj_out|time_emb_proj|conv1|conv2|conv_shortcut|(down|up)samplers\.\d+\.conv"
#: Short names for common choices of target modules; anything else is a list of suffixes or a regular
# expression.
TARGET_PRESETS: dict[str, str | tuple[str, ...]] = {
    CROSS_ATTENTION: r".*\.attn2\.to_(k|q|v|out\.0)",
    "attention": _ATTENTION,
    "attention_mlp": (*_ATTENTION, *_MLP),
    # What LyCORIS calls "full", and sd-scripts trains where it is given a `conv_dim`.
    "attention_mlp_conv": rf".*\.(to_k|to_q|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|{_AROUND})",
}


def _pairs(value: Any) -> Any:
    """A mapping as pairs, in its order: the first key that matches a layer counts."""
    if isinstance(value, list | tuple):  # as they are recorded
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"maps ends of modules' names to numbers, such as {{to_q: 4}}; got {value!r}")
    return tuple(value.items())


_Ranks = Annotated[tuple[tuple[str, Annotated[int, Field(ge=1, le=4096)]], ...], BeforeValidator(_pairs)]
_Alphas = Annotated[tuple[tuple[str, Annotated[float, Field(gt=0)]], ...], BeforeValidator(_pairs)]


class AdapterConfig(TrainingConfig):
    """Fields of PEFT's configurations, under their names.

    Attributes:
        adapter: The kind, one of `KINDS`; "rslora" is "lora" with `use_rslora`.
        r: Rank; of HRA the number of reflections, an even one.
        lora_alpha: None takes `r`, so that the scale is 1 as in diffusers' scripts. The scale that multiplies
            the adapter is lora_alpha / r, or lora_alpha / sqrt(r) with `use_rslora`; see `scaling`. PEFT calls it
            `alpha` for LoHa and LoKr.
        rank_pattern: Ends of modules' names, or regular expressions for such ends -> another rank; the first that
            matches a layer counts. `alpha_pattern` likewise; where `lora_alpha` is None, alpha follows each rank.
        lora_dropout: Probability with which inputs of the adapters are zeroed in training.
        target_modules: One of `TARGET_PRESETS`, a list of module name suffixes, or a regular expression.
        init_lora_weights: True: A Kaiming uniform; "gaussian": A normal with deviation 1/r; B zero in both.
            "orthogonal" as in PEFT. "pissa", "pissa_niter_16" and "olora" take a part of the base weight out into the
            adapter; what is saved is the difference to the base model, a LoRA of twice the rank.
        loraplus_lr_ratio: LoRA+: rate of B over that of A (Hayou et al. 2024, arXiv 2402.12354).
        use_effective_conv2d: Tucker decomposition of convolutions with kernels above one pixel.
        decompose_factor: LoKr: about how large the first factor of the Kronecker product is; -1: near the square root.
        decompose_both: LoKr: both factors are of low rank, where that is smaller.
        init_weights: LoKr: True zeroes the first factor, "lycoris" the second.
        oft_block_size: Side of OFT's rotations; `boft_block_size` of BOFT's.
        use_cayley_neumann: OFT: a series of five terms in place of Cayley's inverse; the two turn in opposite
            directions.
        text_encoder_target_modules: The same for the text encoders, where `train_text_encoder` is set.
    """

    # The text encoder's rate and the prior's weight have an effect where an arm switches those on.
    EMBEDDED_DEFAULTS: ClassVar[dict[str, Any]] = {
        "learning_rate": 3e-3,
        "text_encoder_learning_rate": 4e-3,
        "prior_loss_weight": 0.4,
    }
    EMBEDDED_WITHOUT_PRIOR: ClassVar[dict[str, Any]] = {
        "learning_rate": 5e-4,
        "text_encoder_learning_rate": 3e-4,
    }
    NEEDS: ClassVar[dict[str, dict[str, tuple[Any, ...]]]] = {
        **TrainingConfig.NEEDS,
        "text_encoder_target_modules": {"train_text_encoder": (True,)},
        "r": {"adapter": WITH_RANK},
        "lora_alpha": {"adapter": SCALED},
        "rank_pattern": {"adapter": SCALED},
        "alpha_pattern": {"adapter": SCALED},
        "lora_dropout": {"adapter": LORAS},
        "init_lora_weights": {"adapter": LORAS},
        "use_rslora": {"adapter": ("lora", "dora")},
        "loraplus_lr_ratio": {"adapter": LORAS},
        "use_effective_conv2d": {"adapter": ("loha", "lokr")},
        "decompose_factor": {"adapter": ("lokr",)},
        "decompose_both": {"adapter": ("lokr",)},
        "init_weights": {"adapter": ("lokr",)},
        "oft_block_size": {"adapter": ("oft",)},
        "use_cayley_neumann": {"adapter": ("oft",)},
        "boft_block_size": {"adapter": ("boft",)},
    }

    learning_rate: float = Field(default=1e-4, gt=0, le=10)
    adapter: Literal["lora", "rslora", "dora", "loha", "lokr", "oft", "boft", "hra", "ia3"] = "lora"
    r: int = Field(default=16, ge=1, le=4096)
    lora_alpha: float | None = Field(default=None, gt=0)
    rank_pattern: _Ranks = ()
    alpha_pattern: _Alphas = ()
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "attention_mlp"
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "pissa", "pissa_niter_16", "olora"] = (
        "gaussian"
    )
    use_rslora: bool = False
    loraplus_lr_ratio: float | None = Field(default=None, ge=1)
    use_effective_conv2d: bool = False
    decompose_factor: int = -1
    decompose_both: bool = False
    init_weights: Literal[True, "lycoris"] = True
    oft_block_size: int = Field(default=32, ge=2)
    use_cayley_neumann: bool = True
    boft_block_size: int = Field(default=4, ge=2)
    text_encoder_target_modules: str | tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj")

    @field_validator("adapter", mode="before")
    @classmethod
    def _is_offered(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in NOT_OFFERED:
            raise ValueError(
                f"must be one of {', '.join(KINDS)}; {value!r} is another kind of PEFT's, which is not offered here "
                "(docs/methods.md says what each fits)"
            )
        return value

    @field_validator("init_lora_weights")
    @classmethod
    def _starts_as_the_base_model(cls, value: bool | str) -> bool | str:
        if value is False:
            raise ValueError(
                "init_lora_weights: False starts with random weights added to the base model; "
                "take true, gaussian, orthogonal, pissa or olora"
            )
        return value

    @field_validator("decompose_factor")
    @classmethod
    def _divides_something(cls, value: int) -> int:
        if value != -1 and value < 2:
            raise ValueError(f"decompose_factor must be -1 (near the square root) or at least 2, got {value}")
        return value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_patterns(cls, value: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
        for key, _ in value:
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(
                    f"{key!r} is neither the end of a module's name nor a regular expression ({error})"
                ) from None
        return value

    @field_validator("target_modules", "text_encoder_target_modules")
    @classmethod
    def _names_something(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not value or (isinstance(value, tuple) and not all(value)):
            raise ValueError("target modules must name at least one module, e.g. [to_q, to_v]")
        if isinstance(value, str) and value not in TARGET_PRESETS:
            try:
                re.compile(value)
            except re.error as error:
                presets = ", ".join(TARGET_PRESETS)
                raise ValueError(
                    f"target modules {value!r} are neither one of {presets}, nor a list, nor a regular "
                    f"expression ({error})"
                ) from None
        return value

    @model_validator(mode="after")
    def _begins_as_it_can(self) -> Self:
        ranks = {self.r, *(rank for _, rank in self.rank_pattern)}
        odd = ", ".join(str(rank) for rank in sorted(ranks) if rank % 2)
        if self.adapter == "hra" and self.r % 2:
            raise ValueError(
                f"adapter: hra begins as the base model with pairs of reflections and needs an even r, got {self.r}"
            )
        if self.adapter not in LORAS:
            return self
        if self.init_lora_weights == "orthogonal" and odd:
            raise ValueError(f"init_lora_weights: orthogonal needs an even r, got {odd}")
        if self.adapter == "dora" and self.init_lora_weights in LINEAR_STARTS:
            raise ValueError(
                f"init_lora_weights: {self.init_lora_weights} does not go with adapter: dora, whose magnitudes are "
                "those of the base weights; take gaussian or true"
            )
        return self

    @model_validator(mode="after")
    def _one_rate_for_prodigy(self) -> Self:
        if self.loraplus_lr_ratio is not None and self.optimizer == "prodigy":
            raise ValueError(
                "loraplus_lr_ratio gives A and B rates of their own, and optimizer: prodigy estimates one for all; "
                "take optimizer: adamw, or remove loraplus_lr_ratio"
            )
        return self

    @classmethod
    def defaults_beside(cls, stated: Mapping[str, Any], *, embedded: bool) -> dict[str, Any]:
        """See `TrainingConfig`; the kind of adapter has its own."""
        kind = KINDS.get(str(stated.get("adapter", "lora")))
        own = {} if kind is None else dict(kind.embedded if embedded else kind.defaults)
        return {**super().defaults_beside(stated, embedded=embedded), **own}

    @property
    def kind(self) -> AdapterKind:
        """The kind of adapter."""
        return KINDS[self.adapter]

    @property
    def rank_stabilized(self) -> bool:
        """Whether alpha is divided by the root of the rank."""
        return self.adapter == "rslora" or (self.use_rslora and self.adapter in ("lora", "dora"))

    @property
    def ratio_of_rates(self) -> float | None:
        """LoRA+'s ratio; None where all numbers have one rate."""
        return self.loraplus_lr_ratio if self.adapter in LORAS else None

    @property
    def alters_base(self) -> bool:
        """Whether the base weights change when the adapters are put on."""
        return self.adapter in LORAS and self.init_lora_weights in ALTER_BASE

    @property
    def linear_layers_only(self) -> bool:
        """Whether the beginning of the adapters is made for linear layers alone."""
        return self.adapter in LORAS and self.init_lora_weights in LINEAR_STARTS

    def preset(self, name: str) -> bool:
        """Whether a field of target modules holds one of the short names."""
        value = getattr(self, name)
        return isinstance(value, str) and value in TARGET_PRESETS

    def modules(self, name: str) -> str | tuple[str, ...]:
        """Returns a field of target modules with short names written out: a regular expression or names."""
        value: str | tuple[str, ...] = getattr(self, name)
        return TARGET_PRESETS.get(value, value) if isinstance(value, str) else value

    def rank_of(self, module: str) -> int:
        """Returns the rank of a module's adapter, by the rule of `peft.utils.other.get_pattern_key`."""
        return next((rank for key, rank in self.rank_pattern if matches_pattern(key, module)), self.r)

    def effective(self, varied: Collection[str] = ()) -> dict[str, Any]:
        """See `TrainingConfig`; modules stand there by their names, and alpha as the scale that it gives."""
        content = super().effective(varied)
        for name in (MODULES, TEXT_MODULES):
            if name in content:
                modules = self.modules(name)
                content[name] = modules if isinstance(modules, str) else tuple(sorted(set(modules)))
        if "adapter" in varied:
            return content
        if self.adapter == "rslora":  # the same as LoRA with `use_rslora`
            content |= {"adapter": "lora", "use_rslora": True}
        patterns = self.rank_pattern or self.alpha_pattern
        if self.kind.scaled and not patterns and not {"r", "lora_alpha", "use_rslora"} & set(varied):
            content.pop("lora_alpha", None)
            content.pop("use_rslora", None)
            content["scaling"] = self.scaling
        return content

    @property
    def scaling(self) -> float:
        """What the adapter's product is multiplied with, where no pattern says otherwise."""
        alpha = self.r if self.lora_alpha is None else self.lora_alpha
        return alpha / (math.sqrt(self.r) if self.rank_stabilized else self.r)


def matches_pattern(key: str, module: str) -> bool:
    """Whether a key of `rank_pattern` or `alpha_pattern` means a module."""
    return re.match(rf"(.*\.)?({key})$", module) is not None
