"""In which order images come, and which stand in a batch together, where they have several sizes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from trainables.training.data_order import BucketOrder, Shuffle

SIZES = (5, 1, 8)


def order(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> BucketOrder:
    return BucketOrder(sizes, torch.Generator().manual_seed(seed))


def test_an_epoch_takes_every_image_once_into_a_batch_or_among_those_that_wait() -> None:
    """So that no image is seen more often than another; at most one batch less one of each bucket waits."""
    images = order()
    taken: Counter[tuple[int, int]] = Counter()
    for batches in range(1, 400):
        bucket, places = images.take(3)
        assert places.shape == (3,)
        assert 0 <= int(places.min()) <= int(places.max()) < SIZES[bucket]
        taken.update((bucket, place) for place in places.tolist())
        state = images.state()
        drawn = 3 * batches + len(state["order_waiting"])
        rest = drawn % sum(SIZES)
        assert len(state["order"]) == (sum(SIZES) - rest if rest else 0)
        waiting = Counter(state["order_waiting"].tolist())
        starts = (0, 5, 6)
        counts = [
            taken[bucket, place] + waiting[starts[bucket] + place]
            for bucket, size in enumerate(SIZES)
            for place in range(size)
        ]
        assert max(counts) - min(counts) <= (1 if rest else 0)


def test_batches_of_a_bucket_are_in_proportion_to_its_images() -> None:
    images, epochs = order(), 300
    total = epochs * sum(SIZES) // 3
    counts = Counter(images.take(3)[0] for _ in range(total))
    for bucket, size in enumerate(SIZES):
        assert counts[bucket] == pytest.approx(epochs * size / 3, abs=2)


def test_an_image_alone_in_its_bucket_fills_a_batch_by_itself() -> None:
    images = order((1, 7))
    alone = [places for bucket, places in (images.take(4) for _ in range(200)) if bucket == 0]
    assert len(alone) == pytest.approx(200 / 8, abs=1)
    assert all(places.tolist() == [0] * 4 for places in alone)


def test_of_one_bucket_the_order_is_that_without_buckets() -> None:
    images, plain = order((7,)), Shuffle(7, torch.Generator().manual_seed(0))
    for _ in range(20):
        bucket, places = images.take(3)
        assert bucket == 0
        assert torch.equal(places, plain.take(3))
    assert torch.equal(images.state()["order"], plain.state())
    assert list(images.state()) == ["order"]


def test_it_goes_on_from_its_state() -> None:
    generator = torch.Generator().manual_seed(0)
    images = BucketOrder(SIZES, generator)
    for _ in range(11):
        images.take(3)
    place, random = images.state(), generator.get_state()
    expected = [images.take(3) for _ in range(30)]
    again = order(seed=9)
    again._shuffle._generator.set_state(random)
    again.load_state(place)
    for bucket, places in expected:
        other, found = again.take(3)
        assert other == bucket
        assert torch.equal(found, places)


def test_another_seed_is_another_order() -> None:
    first, second, same = ([one.take(3) for _ in range(20)] for one in (order(), order(seed=1), order()))
    assert [bucket for bucket, _ in first] != [bucket for bucket, _ in second]
    assert [(bucket, places.tolist()) for bucket, places in first] == [
        (bucket, places.tolist()) for bucket, places in same
    ]
