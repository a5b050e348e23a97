"""Entries in packs: each computed once, by anyone, whatever else is asked for; few files, none half written."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
import torch

from trainables.data import packs
from trainables.data.cache import Cache, Tensors
from trainables.data.cache_backend import register_backend
from trainables.data.packs import packed


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


class Maker:
    """Asks for the entries of some numbers, which are the numbers themselves, and notes what it had to compute."""

    def __init__(self, folder: Path, seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.cache = Cache(folder)
        self.computed: list[int] = []
        self.seconds = seconds
        self.fails_at = fails_at

    def ask(self, *numbers: int, identity: str = "one") -> list[int]:
        def compute(place: int) -> Tensors:
            if numbers[place] == self.fails_at:
                raise ZeroDivisionError
            time.sleep(self.seconds)
            self.computed.append(numbers[place])
            return {"a": torch.tensor(float(numbers[place])), "b": torch.full((2, 3), numbers[place]).T}

        found = packed(self.cache, "kind", {"of": identity}, [key(number) for number in numbers], compute)
        assert all(torch.equal(entry["b"], entry["a"].long().expand(3, 2)) for entry in found)
        return [int(entry["a"]) for entry in found]


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def test_what_is_missing_alone_is_computed_and_order_is_that_of_the_keys(tmp_path: Path) -> None:
    first, second = Maker(tmp_path), Maker(tmp_path)
    assert first.ask(3, 1, 2, 1) == [3, 1, 2, 1]
    assert sorted(first.computed) == [1, 2, 3]
    assert second.ask(2, 9, 3) == [2, 9, 3]
    assert second.computed == [9]
    assert second.ask(9, 2, identity="two") == [9, 2]
    assert sorted(second.computed[1:]) == [2, 9]


def test_files_are_few_and_never_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "PACK_ENTRIES", 10)
    maker = Maker(tmp_path)
    maker.ask(*range(35))
    before = {path: path.read_bytes() for path in files(tmp_path)}
    assert len(before) == 4
    maker.ask(*range(36))
    assert len(files(tmp_path)) == 5
    assert all(path.read_bytes() == content for path, content in before.items())
    monkeypatch.setattr(packs, "PACK_BYTES", 150)  # of entries of 52 bytes each
    maker.ask(*range(100, 106))
    assert len(files(tmp_path)) == 7


def test_a_computation_that_stops_half_way_keeps_the_packs_that_it_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "PACK_ENTRIES", 2)
    last = sorted(range(5), key=key)[4]
    maker = Maker(tmp_path, fails_at=last)
    with pytest.raises(ZeroDivisionError):
        maker.ask(*range(5))
    assert not list(tmp_path.rglob("*.partial"))
    again = Maker(tmp_path)
    assert again.ask(*range(5)) == [0, 1, 2, 3, 4]
    assert again.computed == [last]


def test_a_damaged_pack_is_computed_anew(tmp_path: Path) -> None:
    Maker(tmp_path).ask(1, 2)
    Maker(tmp_path).ask(1, 2, 3)
    both, one = sorted(files(tmp_path), key=lambda path: -path.stat().st_size)
    both.write_bytes(both.read_bytes()[:-5])
    maker = Maker(tmp_path)
    assert maker.ask(1, 2, 3) == [1, 2, 3]
    assert sorted(maker.computed) == [1, 2]
    assert maker.ask(1, 2, 3) == [1, 2, 3]
    assert len(maker.computed) == 2
    assert files(tmp_path) == sorted([both, one])


def test_several_that_need_overlapping_entries_at_once_compute_each_once(tmp_path: Path) -> None:
    makers = [Maker(tmp_path, seconds=0.01) for _ in range(4)]
    threads = [
        threading.Thread(target=maker.ask, args=range(start, start + 10))
        for start, maker in enumerate(makers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for maker in makers for number in maker.computed) == list(range(13))


class Shelf:
    """A farther place in memory."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def fetch(self, name: str, path: Path) -> bool:
        self.fetched.append(name)
        path.write_bytes(self.content[name])
        return True

    def keep(self, name: str, path: Path) -> None:
        self.content[name] = path.read_bytes()

    def names(self, folder: str) -> list[str]:
        return [name for name in self.content if name.startswith(f"{folder}/")]


def test_packs_of_other_nodes_are_fetched_before_anything_is_computed(tmp_path: Path) -> None:
    shelf = Shelf()
    for node in ("one", "two"):
        register_backend(tmp_path / node, shelf)
    one, two = Maker(tmp_path / "one"), Maker(tmp_path / "two")
    one.ask(1, 2, 3)
    assert len(shelf.content) == 1
    (name,) = shelf.content
    shelf.content[f"{name.rpartition('/')[0]}/../outside.safetensors"] = b"no pack"
    assert two.ask(4, 2) == [4, 2]
    assert two.computed == [4]
    assert shelf.fetched == [name], "nothing else, since no other name is one of a pack"
    assert len(shelf.content) == 3
    assert one.ask(1, 4) == [1, 4]
    assert len(one.computed) == 3
