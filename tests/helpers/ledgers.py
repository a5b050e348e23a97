"""Ledgers with one arm, for tests of the ledger on any database."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from search_spaces.schema import SearchSpace
from study.ledger.ledger import Ledger
from study.ledger.trial import ArmSearch
from study.spec.defaults import default_point

SPACE = SearchSpace.model_validate(
    {
        "parameters": {
            "learning_rate": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
            "r": {"type": "int", "low": 1, "high": 8},
            "snr_gamma": {"type": "categorical", "choices": [None, 5.0]},
        }
    }
)


def arm_search(**changes: Any) -> ArmSearch:
    arm = ArmSearch(
        name="lora",
        method="lora",
        space=SPACE,
        trials=6,
        objectives=("quality",),
        sampler="tpe",
        seed=3,
        default={},
    )
    arm = replace(arm, **changes)
    return replace(arm, default=default_point(arm.space, {"learning_rate": 1e-4, "r": 4, "use_ema": False}))


def opened(url: str, arm: ArmSearch) -> Ledger:
    ledger = Ledger(url, "sweep")
    ledger.open_search(arm)
    return ledger
