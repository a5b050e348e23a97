"""Runs whose storage is a URL, driven without Ray."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from study.remote.run_manifest import attempt_name
from study.storage.layout import storage_at
from study.storage.run_key import RunKey
from study.worker.attempt import Attempt
from study.worker.order import Order
from tests.helpers.small_studies import RUNNER, small_study


def order(url: str, number: int = 1, driver_id: str = "driver00", *, steps: int = 8, **changes: Any) -> Order:
    spec = small_study(budget={"max_train_steps": steps})
    config = spec.run_config(RUN, {"learning_rate": 1e-3, "r": 2}, storage_at(url, spec.name))
    values: dict[str, Any] = {
        "key": NAME,
        "phase": "search",
        "group": "g",
        "config": config.model_dump_json(),
        "driver_id": driver_id,
        "runner": RUNNER,
        "resident": "",
        "cpus": 1.0,
        "gpus": 0.0,
        "study": spec.name,
        "attempt": attempt_name(number, driver_id),
        "url": url,
    }
    return Order(**{**values, **changes})


def carry_out(
    attempt: Attempt, until: Callable[[dict[str, Any]], bool] = lambda report: False
) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        report = attempt.advance(0.2)
        if report["done"] or until(report):
            return report
    raise AssertionError("the attempt did not end")


RUN = RunKey("search", "cosine", 0, "cat-1", 0)

NAME = RUN.name
