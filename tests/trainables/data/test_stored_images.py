"""Images of large data sets in a file: the same bits, the same runs, and no more of them in memory than is allowed."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.image_folders import picture, write_lines
from trainables.config.fields import ModelConfig, SubjectConfig
from trainables.data import stored_images
from trainables.data.buckets import buckets_of
from trainables.data.cache import Cache
from trainables.data.stored_images import ImageStore, StoredImages, picked, sizes_of
from trainables.data.subjects import Subject, resolve_subject
from trainables.errors import UserError
from trainables.evaluation.copies import copies
from trainables.models.loading import load_backbone
from trainables.training.encoded import by_size
from trainables.training.encoding import encode_images


def noise(count: int, side: int = 16, mode: str = "RGB") -> list[Image.Image]:
    draw = np.random.default_rng(3)
    shape = (side, side + 8, 3) if mode == "RGB" else (side, side + 8)
    return [Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8), mode) for _ in range(count)]


@pytest.mark.parametrize("limit", [0, 16 * 24 * 3 * 4, 1 << 30])
def test_what_is_kept_comes_back_bit_for_bit(limit: int) -> None:
    images = [*noise(6), *noise(2, 20, "L")]
    store = ImageStore(limit)
    kept = StoredImages(map(store.keep, images))
    assert [(image.mode, image.size, image.tobytes()) for image in kept] == [
        (image.mode, image.size, image.tobytes()) for image in images
    ]
    assert sizes_of(kept) == sizes_of(images) == tuple(image.size for image in images)
    assert kept[-1].tobytes() == images[-1].tobytes()
    assert [image.tobytes() for image in kept[2:5]] == [image.tobytes() for image in images[2:5]]
    for some in (picked(kept, [4, 1]), picked(images, [4, 1])):
        assert [image.tobytes() for image in some] == [images[4].tobytes(), images[1].tobytes()]
    in_memory = sum(image is other for image, other in zip(kept, images, strict=True))
    assert in_memory == {0: 0, 16 * 24 * 3 * 4: 4, 1 << 30: 8}[limit]


def test_several_threads_read_at_once() -> None:
    images = noise(20)
    store = ImageStore(0)
    kept = StoredImages(map(store.keep, images))
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(n for n in range(20) for _ in range(10) if kept[n].tobytes() != images[n].tobytes())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_disk_that_is_full_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ImageStore(0)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="set TMPDIR to a folder on a larger disk"):
        store.keep(noise(1)[0])


def loaded(folder: Path, buckets: bool) -> Subject:
    config = SubjectConfig.model_validate(
        {"name": "mine", "dataset": {"path": str(folder), "holdout": 0.25, "trigger": "sks"}}
    )
    return resolve_subject(config, 64, "files", buckets=buckets_of(64, 16) if buckets else ())


@pytest.mark.parametrize("buckets", [True, False])
def test_a_data_set_in_a_file_is_the_same_to_a_run(
    buckets: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    sizes = [(80, 80), (120, 60), (60, 120), (90, 70)] * 3
    for number, size in enumerate(sizes):
        picture(number, size).save(folder / f"{number:02}.png")
    write_lines(folder, [{"file_name": f"{n:02}.png", "text": f"a {n}"} for n in range(len(sizes))])
    plain = loaded(folder, buckets)
    monkeypatch.setattr(stored_images, "IN_MEMORY_BYTES", 2 * 64 * 64 * 3)
    stored = loaded(folder, buckets)
    assert stored.images[5] is not stored.images[5], "it lies in the file"
    assert plain.images[5] is plain.images[5]
    assert stored.digest == plain.digest
    assert stored.geometry == plain.geometry
    assert [one.tobytes() for one in stored.squares] == [one.tobytes() for one in plain.squares]
    assert by_size(stored.images) == by_size(plain.images)
    assert len(by_size(stored.images)) > 1 or not buckets
    assert (copies(stored.references, stored.images) == copies(plain.references, plain.images)).all()
    backbone = load_backbone(ModelConfig())
    for numbers in by_size(stored.images):
        ours, theirs = (
            encode_images(
                backbone, Cache(tmp_path / name), picked(one.images, numbers), True, each_alone=True
            )
            for name, one in (("stored", stored), ("plain", plain))
        )
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))
