"""What a run's order says of the processes that train it."""

from __future__ import annotations

from pathlib import Path

from study.dispatch.dispatcher import Dispatcher
from study.dispatch.run_queue import RunQueue
from study.ledger.open_ledger import open_ledger
from tests.helpers.small_studies import small_study, storage_of


def test_the_base_model_needs_no_worker_group(fast_path: Path) -> None:
    """There is nothing to train together."""
    arms = {"base": {"method": "base"}, "lora": {"method": "lora", "search_space": "fixed"}}
    spec = small_study(
        arms=arms, search={"trials": 1, "subjects": ["cat-1"], "seeds": [0]}, resources={"num_workers": 2}
    )
    storage = storage_of(fast_path, spec)
    dispatcher = Dispatcher(
        RunQueue(spec, storage, open_ledger(spec, storage)),
        spec.resources,
        runner="",
        resident="",
        max_concurrent=9,
        on_start=lambda run: None,
        note=lambda text: None,
        study=spec.name,
        preempted=(),
    )
    orders = [order for number in range(4) if (order := dispatcher.next_order(str(number)))]
    assert {(order.key.split("/")[1], order.workers) for order in orders} == {("base", 1), ("lora", 2)}
