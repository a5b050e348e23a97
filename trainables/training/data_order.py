"""In which order a run sees its images: epochs without end, and batches of one size where images have several.

The order comes from one random stream of the data and from nothing else, so that arms with one seed see the same images
in the same batches, whatever they train.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Shuffle:
    """Indices of `length` things for ever: each epoch a new permutation from the generator.

    Batches run over the ends of epochs, so that none is short.
    """

    def __init__(self, length: int, generator: torch.Generator) -> None:
        self._length = length
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.int64)

    def take(self, count: int) -> torch.Tensor:
        """Returns the next `count` indices, [count]."""
        while len(self._order) < count:
            epoch = torch.randperm(self._length, generator=self._generator)
            self._order = torch.cat([self._order, epoch])
        taken, self._order = self._order[:count], self._order[count:]
        return taken

    def state(self) -> torch.Tensor:
        """Returns the rest of the present epoch; with the generator's state it determines what follows."""
        return self._order.clone()

    def load_state(self, order: torch.Tensor) -> None:
        """Goes on with the rest of an epoch."""
        self._order = order.clone()


class BucketOrder:
    """Images of several buckets for ever, one batch of one bucket at a time.

    Each epoch is a permutation of all images, as without buckets. An image waits until its bucket has as many as a
    batch takes; those that still wait when an epoch ends, fewer than a batch of each bucket, are filled up by the next
    one. So no batch is short, and an epoch takes every image once, into a batch or among those that wait: none is drawn
    more often than another, and a bucket's batches are in proportion to its images. Of a bucket with fewer images than
    a batch an image stands in a batch several times, with noise of its own each time.

    Args:
        sizes: Images in each bucket, at least 1. Images are numbered through, bucket after bucket.
        generator: Of the permutations, and of nothing else.
    """

    def __init__(self, sizes: Sequence[int], generator: torch.Generator) -> None:
        ends = torch.tensor(sizes).cumsum(0)
        self._starts = [0, *ends[:-1].tolist()]
        self._bucket_of = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)).tolist()
        self._shuffle = Shuffle(int(ends[-1]), generator)
        self._waiting: list[list[int]] = [[] for _ in sizes]

    def take(self, count: int) -> tuple[int, torch.Tensor]:
        """Returns the number of a bucket, and the places of `count` of its images in it, [count]."""
        if len(self._waiting) == 1:
            return 0, self._shuffle.take(count)
        while True:
            image = int(self._shuffle.take(1))
            bucket = self._bucket_of[image]
            self._waiting[bucket].append(image)
            if len(self._waiting[bucket]) >= count:
                taken, self._waiting[bucket] = self._waiting[bucket][:count], self._waiting[bucket][count:]
                return bucket, torch.tensor(taken) - self._starts[bucket]

    def state(self) -> dict[str, torch.Tensor]:
        """Returns the rest of the present epoch and, of several buckets, the images that wait, in their order."""
        state = {"order": self._shuffle.state()}
        if len(self._waiting) > 1:
            waiting = [image for images in self._waiting for image in images]
            state["order_waiting"] = torch.tensor(waiting, dtype=torch.int64)
        return state

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Goes on from what `state` returned."""
        self._shuffle.load_state(state["order"])
        self._waiting = [[] for _ in self._waiting]
        for image in state.get("order_waiting", torch.empty(0)).tolist():
            self._waiting[self._bucket_of[image]].append(image)
