"""Random generators of a report: one stream a question, all from one seed."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *names: str) -> np.random.Generator:
    """Returns a generator for the question called `names`.

    The stream depends on the seed and the names alone: adding an arm to a study changes no other arm's interval.
    """
    digest = hashlib.sha256("\x00".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
