"""Which images are drawn: shares of sources and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pytest
import torch

from tests.helpers.labelled_images import some_data
from trainables.classifiers.sampling import Draws

MANY = 20_000
FAR = 5  # standard errors


def draws(
    train: Sequence[int],
    generated: Sequence[int] | None = None,
    chance: float = 0.0,
    sampling: Literal["natural", "balanced"] = "natural",
    seed: int = 0,
) -> Draws:
    return Draws(some_data(train, generated), chance, sampling, torch.Generator().manual_seed(seed))


def off(share: float, expected: float) -> float:
    """How many standard errors an observed share is from the expected one."""
    return abs(share - expected) / max((expected * (1 - expected) / MANY) ** 0.5, 1e-9)


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_the_share_of_generated_draws_is_what_was_asked(
    chance: float, sampling: Literal["natural", "balanced"]
) -> None:
    drawn = draws([3, 2, 1], [1, 2, 20], chance, sampling).take(MANY)
    assert off(drawn.generated.double().mean().item(), chance) < FAR


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 0), (1.0, MANY)])
def test_all_or_nothing_is_exact(chance: float, expected: int) -> None:
    assert int(draws([3, 2, 1], [1, 2, 2], chance).take(MANY).generated.sum()) == expected


@pytest.mark.parametrize(
    ("train", "generated", "chance", "sampling", "shares"),
    [
        ([6, 3, 1], None, 0.0, "natural", [0.6, 0.3, 0.1]),
        ([6, 3, 1], None, 0.0, "balanced", [1 / 3] * 3),
        ([6, 3, 1], [0, 1, 1], 0.5, "natural", [0.3, 0.4, 0.3]),
        ([6, 3, 1], [0, 1, 1], 0.5, "balanced", [1 / 3] * 3),
        ([6, 3, 1], [0, 3, 9], 2 / 3, "balanced", [1 / 3] * 3),
        ([6, 0, 0], [1, 2, 1], 1.0, "natural", [0.25, 0.5, 0.25]),
        ([6, 0, 0], [1, 2, 1], 1.0, "balanced", [1 / 3] * 3),
    ],
)
def test_shares_of_classes(
    train: list[int],
    generated: list[int] | None,
    chance: float,
    sampling: Literal["natural", "balanced"],
    shares: list[float],
) -> None:
    source = draws(train, generated, chance, sampling)
    assert source.class_shares == pytest.approx(shares)
    found = torch.bincount(source.take(MANY).labels, minlength=3) / MANY
    assert all(off(one, other) < FAR for one, other in zip(found.tolist(), shares, strict=True))


def test_labels_are_those_of_the_images_and_all_images_are_drawn_alike() -> None:
    data = some_data([5, 2, 1], [2, 2, 4])
    drawn = Draws(data, 0.5, "natural", torch.Generator().manual_seed(0)).take(MANY)
    assert data.generated is not None
    for source, chosen, count in ((data.train, ~drawn.generated, 8), (data.generated, drawn.generated, 8)):
        assert torch.equal(source.labels[drawn.indices[chosen]], drawn.labels[chosen])
        shares = torch.bincount(drawn.indices[chosen], minlength=count) / MANY
        assert all(off(share, 1 / 16) < FAR for share in shares.tolist())


def test_labels_in_any_order() -> None:
    data = some_data([3, 3, 3])
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    data.train.labels[:] = data.train.labels[order]
    drawn = Draws(data, 0.0, "balanced", torch.Generator().manual_seed(0)).take(200)
    assert torch.equal(data.train.labels[drawn.indices], drawn.labels)


def test_arms_with_one_seed_draw_the_same_real_images() -> None:
    alone, beside = draws([3, 2, 1]).take(100), draws([3, 2, 1], [4, 4, 4], 0.5).take(100)
    assert bool(beside.generated.any())
    assert torch.equal(alone.indices[~beside.generated], beside.indices[~beside.generated])


def test_batches_do_not_change_the_draws() -> None:
    one, other = draws([3, 2, 1]), draws([3, 2, 1])
    parts = torch.cat([other.take(7).indices, other.take(13).indices])
    assert torch.equal(one.take(20).indices, parts)
