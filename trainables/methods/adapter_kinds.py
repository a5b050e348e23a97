"""The kinds of adapters: what each trains, which layers take it, how PEFT is asked for it, and who loads its file.

Which layers a kind fits was tried on the installed PEFT, and a test holds it (``test_adapter_kinds.py``): on each kind
of layer it begins as the base model, its gradients flow, and merged it gives what it gives unmerged. Nothing here needs
torch to be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: Beginnings of LoRA that move a part of the base weight into the adapter, so that the base weight changes.
ALTER_BASE = ("pissa", "pissa_niter_16", "olora")
#: Beginnings that PEFT has for linear layers alone.
LINEAR_STARTS = (*ALTER_BASE, "orthogonal")

Fits = Literal["convolutions", "1x1 convolutions", "linear layers"]
_MLP_OUTPUTS = r"(.*\.)?(ff\.net\.2|ff_context\.net\.2|fc2)"  # (IA)^3 scales what goes into these


@dataclass(frozen=True)
class AdapterKind:
    """A kind of adapter.

    Attributes:
        title: For tables, figures and messages.
        papers: Where it comes from: keys of ``study/report/templates/references.bib``.
        config_class: Of PEFT.
        arguments: The fields that PEFT's configuration takes, but target modules, from an `AdapterConfig`.
        fits: The most that it can be put on: all convolutions, those with kernels of one pixel, or linear layers alone.
        ranked: It has a rank `r` that must not be above a layer's width.
        scaled: It has an alpha, so that what it adds is multiplied with alpha / r.
        loader: Who loads them again: "diffusers" (``load_lora_weights``) or "peft" (``PeftModel.from_pretrained``); or
            PEFT those of text encoders, and diffusers those of the denoiser: by ``load_lora_weights`` ("diffusers
            denoiser") or by the denoiser's own ``load_lora_adapter`` ("diffusers module").
        block: The field that holds the size of its blocks, which must divide a layer's inputs.
        by_rows: PEFT views a convolution's weight as rows, which a channels-last weight does not allow.
        defaults: Of fields where they are not LoRA's, for Stable Diffusion.
        embedded: The same for the embedded model.
    """

    title: str
    config_class: str
    arguments: Callable[[Any], dict[str, Any]]
    fits: Fits = "convolutions"
    ranked: bool = False
    scaled: bool = False
    loader: Literal["diffusers", "diffusers denoiser", "diffusers module", "peft"] = "peft"
    block: str | None = None
    by_rows: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    embedded: Mapping[str, Any] = field(default_factory=dict)
    papers: tuple[str, ...] = ()


def _alpha(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _ranks(config: Any, alpha: str) -> dict[str, Any]:
    """Rank, alpha and their patterns; where no alpha is given, each layer's alpha is its rank."""
    ranks = dict(config.rank_pattern)
    alphas: dict[str, float] = dict(config.alpha_pattern)
    if config.lora_alpha is None:
        alphas |= {key: rank for key, rank in ranks.items() if key not in alphas}
    return {
        "r": config.r,
        alpha: _alpha(config.r if config.lora_alpha is None else config.lora_alpha),
        "rank_pattern": ranks,
        "alpha_pattern": {key: _alpha(value) for key, value in alphas.items()},
    }


def _lora(config: Any) -> dict[str, Any]:
    return {
        **_ranks(config, "lora_alpha"),
        "lora_dropout": config.lora_dropout,
        "init_lora_weights": config.init_lora_weights,
        "use_rslora": config.rank_stabilized,
        "use_dora": config.adapter == "dora",
    }


def _loha(config: Any) -> dict[str, Any]:
    return {**_ranks(config, "alpha"), "use_effective_conv2d": config.use_effective_conv2d}


def _lokr(config: Any) -> dict[str, Any]:
    return {
        **_loha(config),
        "decompose_factor": config.decompose_factor,
        "decompose_both": config.decompose_both,
        "init_weights": config.init_weights,
    }


def _oft(config: Any) -> dict[str, Any]:
    return {
        "r": 0,
        "oft_block_size": config.oft_block_size,
        "use_cayley_neumann": config.use_cayley_neumann,
        "module_dropout": 0.0,
    }


def _boft(config: Any) -> dict[str, Any]:
    # Without its CUDA extension PEFT computes one butterfly factor, whatever is asked for.
    return {"boft_block_size": config.boft_block_size, "boft_block_num": 0, "boft_n_butterfly_factor": 1}


def _hra(config: Any) -> dict[str, Any]:
    return {"r": config.r}


def _ia3(config: Any) -> dict[str, Any]:
    return {"feedforward_modules": _MLP_OUTPUTS}


_LORA: dict[str, Any] = {"config_class": "LoraConfig", "arguments": _lora, "ranked": True, "scaled": True}

KINDS: dict[str, AdapterKind] = {
    "lora": AdapterKind("LoRA", **_LORA, loader="diffusers", papers=("hu2022lora",)),
    "rslora": AdapterKind("rsLoRA", **_LORA, loader="diffusers", papers=("kalajdzievski2023rslora",)),
    # Of text encoders diffusers loads A and B without the magnitudes, and says nothing.
    "dora": AdapterKind("DoRA", **_LORA, loader="diffusers denoiser", papers=("liu2024dora",)),
    "loha": AdapterKind(
        "LoHa",
        "LoHaConfig",
        _loha,
        ranked=True,
        scaled=True,
        defaults={"learning_rate": 5e-4, "r": 8},
        embedded={"learning_rate": 1e-2, "text_encoder_learning_rate": 3e-3, "r": 8},
        papers=("hyeonwoo2022fedpara", "yeh2024lycoris"),
    ),
    "lokr": AdapterKind(
        "LoKr",
        "LoKrConfig",
        _lokr,
        scaled=True,
        loader="diffusers module",
        defaults={"learning_rate": 1e-3},
        embedded={"learning_rate": 1e-2, "text_encoder_learning_rate": 3e-3},
        papers=("yeh2024lycoris",),
    ),
    "oft": AdapterKind(
        "OFT",
        "OFTConfig",
        _oft,
        fits="1x1 convolutions",
        block="oft_block_size",
        embedded={"learning_rate": 5e-4, "text_encoder_learning_rate": 4e-4, "oft_block_size": 16},
        papers=("qiu2023oft",),
    ),
    "boft": AdapterKind(
        "BOFT",
        "BOFTConfig",
        _boft,
        block="boft_block_size",
        by_rows=True,
        embedded={"learning_rate": 3e-3, "text_encoder_learning_rate": 3e-3},
        papers=("liu2024boft",),
    ),
    "hra": AdapterKind(
        "HRA",
        "HRAConfig",
        _hra,
        ranked=True,
        by_rows=True,
        defaults={"r": 8},
        embedded={"learning_rate": 3e-3, "text_encoder_learning_rate": 3e-3, "r": 8},
        papers=("yuan2024hra",),
    ),
    "ia3": AdapterKind(
        "(IA)^3",
        "IA3Config",
        _ia3,
        defaults={"learning_rate": 1e-3},
        embedded={"learning_rate": 3e-2, "text_encoder_learning_rate": 1e-2},
        papers=("liu2022ia3",),
    ),
}

#: Names of the kinds that are LoRA with a variation, and of those with a scale.
LORAS = tuple(name for name, kind in KINDS.items() if kind.config_class == "LoraConfig")
SCALED = tuple(name for name, kind in KINDS.items() if kind.scaled)
WITH_RANK = tuple(name for name, kind in KINDS.items() if kind.scaled or kind.ranked)
#: PEFT's other kinds that fit some layers here, as somebody might name them. Which fit which: docs/methods.md.
NOT_OFFERED = (
    "adalora", "adamss", "beft", "c3a", "deft", "delora", "fourierft", "frod", "glora", "gralora", "hira", "lily",
    "ln_tuning", "miss", "osf", "peanut", "psoft", "pvera", "randlora", "road", "shira", "supertuning", "tinylora",
    "unilora", "vblora", "vera", "waveft",
)  # fmt: skip
