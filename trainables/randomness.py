"""Random numbers of a run: one seed and one subject, and from them a stream of its own for each purpose.

Streams depend on seed, subject and their name alone, never on method or configuration: two arms with one seed
start from the same data order, noise and timesteps on a subject, which makes their difference less noisy
(common random numbers). On another subject the same seed gives other numbers: a lucky draw that all subjects
shared would be taken for an effect (see `python -m benchmarks.statistics`, crossed seeds). Draws for class
images have streams of their own, so that prior preservation shifts nothing in the others. All streams are drawn
on the CPU, so that a GPU's numbers are the CPU's, and all are saved with every checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

STREAMS = (
    "initialisation",
    "dropout",
    "order",
    "flip",
    "latents",
    "noise",
    "noise_offset",
    "timesteps",
    "captions",
    "caption_dropout",
    "prior_order",
    "prior_flip",
    "prior_latents",
    "prior_noise",
    "prior_noise_offset",
    "prior_timesteps",
    "prior_captions",
)


def stream_seed(seed: int, name: str) -> int:
    """Returns the 63-bit seed of a named stream."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1


def subject_seed(seed: int, subject: str) -> int:
    """Returns the 63-bit seed of a run's streams, from its own seed and the name of what it is taught."""
    return stream_seed(seed, f"subject/{subject}")


class Streams:
    """The random streams of a run, by name.

    Args:
        seed: Of them all.
        names: Of the streams; those of a diffusion run where nothing is said.
    """

    def __init__(self, seed: int, names: Sequence[str] = STREAMS) -> None:
        self._generators = {name: torch.Generator().manual_seed(stream_seed(seed, name)) for name in names}

    def __getitem__(self, name: str) -> torch.Generator:
        return self._generators[name]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the state of every stream as bytes."""
        return {name: generator.get_state() for name, generator in self._generators.items()}

    def load_state_dict(self, states: dict[str, torch.Tensor]) -> None:
        """Sets every stream to a state that `state_dict` returned.

        A stream that an earlier version did not have yet is left at its beginning.
        """
        for name, state in states.items():
            self._generators[name].set_state(state)


def draw_seed(generator: torch.Generator) -> int:
    """Draws a 63-bit seed from a stream."""
    return int(torch.randint(2**63 - 1, (), generator=generator))


@contextmanager
def global_seed(generator: torch.Generator) -> Iterator[None]:
    """Seeds torch's global generators from a stream, for libraries that know no other, and puts them back."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(draw_seed(generator))
        yield
