"""Aspect-ratio buckets against kohya's rule, brute force and closed forms."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from PIL import Image

from trainables.data.buckets import (
    bucket_sizes,
    buckets_of,
    cover_box,
    cut,
    enlargement,
    geometry_in,
    nearest_bucket,
)
from trainables.data.images import geometry_of, square


def kohyas(resolution: int, step: int, smallest: int, largest: int) -> set[tuple[int, int]]:
    """``make_bucket_resolutions`` of kohya's sd-scripts (library/model_util.py), said again."""
    side = int(math.sqrt(resolution * resolution) // step) * step
    found = {(side, side)}
    width = smallest
    while width <= largest:
        height = min(largest, int((resolution * resolution // width) // step) * step)
        if height >= smallest:
            found |= {(width, height), (height, width)}
        width += step
    return found


@pytest.mark.parametrize(
    ("resolution", "step", "smallest", "largest"),
    [(512, 64, 256, 1024), (1024, 64, 512, 2048), (768, 32, 384, 1536), (64, 16, 32, 128), (96, 8, 40, 200)],
)
def test_buckets_are_those_of_kohya(resolution: int, step: int, smallest: int, largest: int) -> None:
    found = bucket_sizes(resolution, step, smallest, largest)
    assert set(found) == kohyas(resolution, step, smallest, largest)
    assert len(set(found)) == len(found)
    assert found[0] == (resolution // step * step,) * 2
    assert set(found) == {(height, width) for width, height in found}
    for width, height in found:
        assert width * height <= resolution * resolution
        assert width % step == height % step == 0
        assert min(width, height) >= smallest
        assert max(width, height) <= largest


def test_buckets_of_the_embedded_model() -> None:
    assert buckets_of(64, 16)[0] == (64, 64)
    assert {(80, 48), (48, 80), (128, 32), (32, 128)} <= set(buckets_of(64, 16))


@pytest.mark.parametrize("numbers", [(8, 16, 8, 32), (64, 0, 8, 32), (64, 16, 0, 32), (64, 16, 8, 0)])
def test_senseless_buckets_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        bucket_sizes(*numbers)


def test_the_nearest_bucket_is_that_of_the_least_log_ratio() -> None:
    draw = random.Random(5)
    buckets = buckets_of(512, 64)
    for _ in range(300):
        size = draw.randint(20, 4000), draw.randint(20, 4000)
        distances = [abs(math.log(size[0] / size[1]) - math.log(w / h)) for w, h in buckets]
        chosen = nearest_bucket(size, buckets)
        assert distances[buckets.index(chosen)] == pytest.approx(min(distances), abs=1e-12)
        turned = nearest_bucket((size[1], size[0]), buckets)
        assert turned[0] * turned[1] == chosen[0] * chosen[1]


def test_wide_and_tall_are_measured_alike() -> None:
    # By the difference of ratios (kohya's own) 10:7 (1.43) is nearer to 1 than to 2; by the log it is farther.
    assert nearest_bucket((143, 100), [(1, 1), (2, 1)]) == (2, 1)
    assert nearest_bucket((100, 143), [(1, 1), (1, 2)]) == (1, 2)


@pytest.mark.parametrize("ratio", [2, 3, 5, 7, 49])
def test_of_equally_near_buckets_the_first_is_taken(ratio: int) -> None:
    tall, wide = (16, 16 * ratio), (16 * ratio, 16)
    assert nearest_bucket((100, 100), [tall, wide]) == tall
    assert nearest_bucket((100, 100), [wide, tall]) == wide


def test_no_image_is_enlarged_more_than_to_the_square() -> None:
    draw = random.Random(6)
    for resolution, step in ((64, 16), (512, 64), (96, 8), (500, 64), (600, 64), (72, 16)):
        buckets = buckets_of(resolution, step)
        for _ in range(400):
            size = draw.randint(4, 900), draw.randint(4, 900)
            width, height = nearest_bucket(size, buckets)
            factor = max(width / size[0], height / size[1])
            assert enlargement(size, (width, height)) == factor
            assert factor <= resolution / min(size) + 1e-9, (size, (width, height))


def test_beside_a_square_that_is_smaller_than_the_resolution_a_nearer_bucket_may_enlarge_more() -> None:
    buckets, size = buckets_of(500, 64), (110, 100)
    assert buckets[0] == (448, 448)
    assert nearest_bucket(size, buckets) == (512, 448)
    assert enlargement(size, buckets[0]) < enlargement(size, (512, 448)) < 500 / 100


@pytest.mark.parametrize(("size", "scaled"), [((40, 24), True), ((80, 48), False), ((79, 60), True)])
def test_an_image_below_its_bucket_is_enlarged_to_cover_it(size: tuple[int, int], scaled: bool) -> None:
    image = Image.fromarray(np.random.default_rng(9).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    assert cut(image, (80, 48)).size == (80, 48)
    assert (enlargement(size, (80, 48)) > 1) == scaled


def test_a_cut_covers_the_bucket_with_the_middle_of_the_image() -> None:
    draw = random.Random(7)
    for _ in range(300):
        size = draw.randint(16, 700), draw.randint(16, 700)
        bucket = draw.choice(buckets_of(64, 16))
        left, top, right, bottom = cover_box(size, bucket)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        assert right - left == size[0] or bottom - top == size[1]  # nothing more is lost than must be
        assert abs((size[0] - right) - left) <= 1
        assert abs((size[1] - bottom) - top) <= 1
        exact = (right - left) * bucket[1] / bucket[0]
        other = (bottom - top) * bucket[0] / bucket[1]
        assert abs(exact - (bottom - top)) <= 0.51 or abs(other - (right - left)) <= 0.51


def test_a_square_bucket_is_the_square() -> None:
    draw = np.random.default_rng(8)
    for size in ((90, 61), (61, 90), (64, 64), (33, 200)):
        image = Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        assert cut(image, (64, 64)).tobytes() == square(image, 64).tobytes()
        assert geometry_in(size, (64, 64)) == geometry_of(size, 64)


def test_a_wide_image_keeps_what_a_square_loses() -> None:
    image = Image.new("RGB", (200, 100), "red")
    image.paste("blue", (0, 0, 20, 100))
    bucket = nearest_bucket(image.size, buckets_of(64, 16))
    assert bucket == (80, 48)
    kept = np.asarray(cut(image, bucket))
    assert kept.shape == (48, 80, 3)
    assert (
        kept[:, 0, 2].min() > 200
    )  # the box is 167 of 200 pixels wide, 16 are lost on the left of 20 blue ones
    assert kept[:, 10:, 2].max() < 30
    assert np.asarray(square(image, 64))[..., 2].max() < 30
    assert geometry_in((200, 100), bucket) == (100, 200, 0, round(16 * 80 / 167), 48, 80)
