"""Methods that train something else than adapters or whole models, by two processes: the same weights as by one.

Embeddings beside a table, a network beside the projections, and projections with a hook: in each a part of what trains
is not where the exchange of gradients, or the dealing out of a model, looks first. Pivotal tuning, which has stages, is
in ``test_stages_in_worker_groups.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.rounding import ORDERS, Yardstick
from tests.helpers.training_runs import MakeConfig
from tests.helpers.worker_jobs import do, job, result
from trainables.run.execute import execute
from trainables.run.resident import Resident

COMMON: dict[str, Any] = {
    "train_batch_size": 3,  # one process has two images of it, the other one
    "max_train_steps": 6,
    "checkpointing_steps": 6,
    # Gradients that are zero but for rounding would be blown up to whole steps by Adam.
    "adam_epsilon": 1e-5,
}
METHODS: dict[str, dict[str, Any]] = {
    "textual_inversion": {"num_vectors": 2, "learning_rate": 1e-2, "preserve_norm": True},
    "hypernetwork": {"learning_rate": 1e-3, "activation_func": "relu", "add_layer_norm": True},
    "custom_diffusion": {
        "num_vectors": 2,
        "learning_rate": 1e-3,
        "embedding_learning_rate": 1e-2,
        "freeze_model": "crossattn",
        "gradient_accumulation_steps": 2,
    },
}


def compare(make_config: MakeConfig, folder: Path, method: str, *, sharded: tuple[bool, ...]) -> None:
    """Trains a method by one process and by worker groups of two, and compares weights, losses and what it cost."""
    resident = Resident()
    fields = COMMON | METHODS[method]
    alone = make_config(method, "alone", **fields)
    worker_groups = [
        make_config(method, f"worker_group-{number}", **fields) for number in range(len(sharded))
    ]
    list(execute(alone, resident))
    assert result(alone)["state"] == "COMPLETE", result(alone)
    ends = do(
        folder,
        [job(worker_group, 2, sharded=one) for worker_group, one in zip(worker_groups, sharded, strict=True)],
    )
    assert [end and end.endswith("events") for end in ends[0]] == [True] * len(worker_groups), ends
    assert ends[1] == ["0 events"] * len(worker_groups)  # one leads, and alone has the run's folder
    yardstick = Yardstick(alone, 2, resident)
    for worker_group in worker_groups:
        assert result(worker_group)["state"] == "COMPLETE"
        yardstick.assert_same(worker_group)
        for name in ("train_flops", "trainable_parameters", "inference_bytes", "inference_fused_bytes"):
            assert result(worker_group)["cost"][name] == result(alone)["cost"][name]


@pytest.mark.slow
@pytest.mark.nightly  # by day pivotal tuning, whose first stage trains embeddings too
def test_embeddings_that_two_processes_train_are_those_of_one(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """The short one of the series below."""
    compare(make_config, tmp_path, "textual_inversion", sharded=(False,))


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("method", METHODS)
def test_exchanged_gradients_and_a_shared_model_give_the_same_weights(
    method: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    """DDP and FSDP."""
    compare(make_config, tmp_path, method, sharded=(False, True))


@pytest.mark.slow
@pytest.mark.nightly
def test_a_fault_of_one_percent_in_the_exchange_of_embeddings_is_seen(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """What the comparison is worth where so few numbers train."""
    resident = Resident()
    fields = COMMON | METHODS["textual_inversion"]
    alone, faulty = (make_config("textual_inversion", name, **fields) for name in ("alone", "faulty"))
    list(execute(alone, resident))
    ends = do(tmp_path, [job(faulty, 2, factors={1: 1.01})])
    assert [end and end.endswith("events") for end in ends[0]] == [True], ends
    assert Yardstick(alone, 2, resident).distance(faulty) > 10 * ORDERS
