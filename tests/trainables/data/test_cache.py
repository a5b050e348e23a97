"""The cache: computed once, by anyone, and never half."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from trainables.data.cache import Cache, Tensors


def test_an_entry_is_computed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute() -> Tensors:
        calls.append(1)
        return {"x": torch.arange(6).reshape(2, 3).T}

    first = Cache(tmp_path).tensors("kind", {"a": 1}, compute)
    again = Cache(tmp_path).tensors("kind", {"a": 1}, compute)
    assert torch.equal(first["x"], again["x"])
    assert len(calls) == 1
    Cache(tmp_path).tensors("kind", {"a": 2}, compute)
    Cache(tmp_path).tensors("other", {"a": 1}, compute)
    assert len(calls) == 3


@pytest.mark.parametrize("damage", [b"", b"\xff" * 100, None])
def test_a_damaged_entry_is_computed_anew(tmp_path: Path, damage: bytes | None) -> None:
    cache = Cache(tmp_path)
    value = {"x": torch.ones(1000)}
    cache.tensors("kind", {}, lambda: value)
    path = cache.path("kind", {})
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    assert torch.equal(cache.tensors("kind", {}, lambda: value)["x"], value["x"])
    assert torch.equal(cache.tensors("kind", {}, dict)["x"], value["x"])


def test_two_that_need_an_entry_at_once_compute_it_once(tmp_path: Path) -> None:
    calls: list[int] = []
    results: list[Tensors] = []

    def compute() -> Tensors:
        calls.append(1)
        time.sleep(0.2)
        return {"x": torch.ones(3)}

    def need() -> None:
        results.append(Cache(tmp_path).tensors("kind", {}, compute))

    threads = [threading.Thread(target=need) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(results) == 4


def test_a_failed_computation_leaves_nothing_and_holds_no_lock(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cache.tensors("kind", {}, lambda: {"x": torch.ones(1) * (1 // 0)})
    assert not list(tmp_path.rglob("*.safetensors*"))
    assert torch.equal(cache.tensors("kind", {}, lambda: {"x": torch.zeros(1)})["x"], torch.zeros(1))
