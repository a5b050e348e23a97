"""How many different images a set of images amounts to: the Vendi score (Friedman & Dieng 2023, arXiv 2210.02410)."""

from __future__ import annotations

import numpy as np

from trainables.evaluation.metrics import Array, normalised


def vendi_score(embeddings: Array) -> float | None:
    """Returns exp of the von Neumann entropy of K / n, where K has the cosines of n images with each other.

    1 where all are alike, n where all are orthogonal. It grows with n until the images repeat themselves, so that sets
    are to be compared at one size.

    Args:
        embeddings: Shape (images, features), as an encoder gives them.

    Returns:
        In [1, min(images, features)]; None without images, and where an image has no direction (a row of zeros).
    """
    rows = normalised(embeddings)
    if not len(rows) or not rows.any(axis=1).all():
        return None
    # Both products have the same eigenvalues but for zeros; the smaller one is taken.
    small = rows if rows.shape[0] <= rows.shape[1] else rows.T
    values = np.linalg.eigvalsh(small @ small.T / len(rows))
    values = values[values > 0]
    values /= values.sum()
    return float(np.exp(-(values * np.log(values)).sum()))
