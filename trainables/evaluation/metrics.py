"""The metrics as pure functions of embeddings: numpy in, floats out.

Embeddings are arrays of shape (images, features), as the encoder gives them; whatever is a cosine normalises
them itself. A value that the data cannot give (too few images) is None, never a magic number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from trainables.evaluation.checks import MIN_DISTRIBUTION_IMAGES

Array = NDArray[np.floating]
Kernel = Callable[[Array, Array], Array]
Clusters = tuple[Sequence[int], Sequence[int]]  # of each side, see `mmd`

CMMD_BANDWIDTH, CMMD_SCALE = 10.0, 1000.0  # of the reference implementation of arXiv 2401.09603

ENOUGH_REFERENCES = 4  # whose pairs tell by themselves how similar real images are

# Embeddings are float32: those of one image, drawn or embedded in another batch, differ by up to some 1e-5 of their
# length, which is half its square as a distance (measured on the base model: 3e-10).
RESOLUTION = 1e-9


def normalised(embeddings: Array) -> Array:
    """Returns the rows scaled to length 1, in float64; a row of zeros stays zero."""
    rows = np.asarray(embeddings, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1.0)


def cosines(first: Array, second: Array) -> Array:
    """Returns all pairwise cosines, shape (len(first), len(second)), in [-1, 1]."""
    return normalised(first) @ normalised(second).T


def distances(first: Array, second: Array) -> Array:
    """Returns 1 - cosine of row i of one and row i of the other, in [0, 2]; 1 for a row of zeros.

    Computed as half the squared distance of the normalised rows, which is never negative. What is below `RESOLUTION`
    is 0: the untrained base model has no drift.
    """
    a, b = normalised(first), normalised(second)
    gaps = 0.5 * ((a - b) ** 2).sum(axis=-1)
    directed = a.any(axis=-1) & b.any(axis=-1)
    return np.where(directed, np.where(gaps < RESOLUTION, 0.0, gaps), 1.0)


def subject_fidelity(generated: Array, references: Array) -> float | None:
    """Mean cosine over all pairs of a generated and a reference image (DreamBooth, arXiv 2208.12242, sec.
    4.2).

    With DINO ViT-S/16 embeddings this is the paper's DINO, with CLIP ones its CLIP-I.
    """
    if not len(generated) or not len(references):
        return None
    return float(cosines(generated, references).mean())


def similarity_to_sets(generated: Array, references: Array, sets: Sequence[Sequence[int]]) -> Array:
    """Mean cosine of each generated image with references of its own, shape (images,).

    Args:
        sets: For each generated image the rows of the references that it is compared with, at least one.
    """
    table = cosines(generated, references)
    return np.array([table[row, list(own)].mean() for row, own in enumerate(sets)])


def paired_cosine(first: Array, second: Array) -> float | None:
    """Mean cosine of row i of one with row i of the other; of images and their prompts it is CLIP-T."""
    if not len(first):
        return None
    return float((normalised(first) * normalised(second)).sum(axis=-1).mean())


def mismatched_prompt_fidelity(images: Array, texts: Array, prompt_of_image: Sequence[int]) -> float | None:
    """Mean cosine of each image with the prompts that it was NOT made from: what an unrelated prompt scores.

    Args:
        images: Shape (images, features).
        texts: One row a prompt.
        prompt_of_image: For each image the row of its prompt.

    Returns:
        None with fewer than two prompts.
    """
    if len(texts) < 2 or not len(images):
        return None
    table = cosines(images, texts)
    others = np.ones(table.shape, dtype=bool)
    others[np.arange(len(images)), list(prompt_of_image)] = False
    return float(table[others].mean())


def drift(tuned: Array, base: Array) -> float | None:
    """Mean distance (1 - cosine) of what tuned and base model make of the same prompt and noise, row by
    row.
    """
    return float(distances(tuned, base).mean()) if len(tuned) else None


def consistency(images: Array, prompts: Sequence[int], shows: Sequence[str | None]) -> float | None:
    """How alike the images of one subject stay from prompt to prompt.

    For each pair of different prompts the mean cosine over pairs of an image of one and an image of the other, and of
    these the mean: every pair of prompts weighs the same, however many images it has, and two images of one prompt are
    no pair.

    Args:
        images: Shape (images, features).
        prompts: Of each image, the number of its prompt.
        shows: Of each image, whom it shows, the same for images of one prompt: only prompts of the same are paired, and
            None is paired with nothing.

    Returns:
        None where no two prompts show the same.
    """
    rows, groups = normalised(images), np.asarray(prompts)
    of_prompt = dict(zip(prompts, shows, strict=True))
    centres = {prompt: rows[groups == prompt].mean(axis=0) for prompt in of_prompt}
    found = [
        float(centres[one] @ centres[other])  # the mean of all cosines between two sets of rows of length 1
        for one, other in combinations(sorted(of_prompt), 2)
        if of_prompt[one] is not None and of_prompt[one] == of_prompt[other]
    ]
    return float(np.mean(found)) if found else None


def real_similarity(references: Array, training: Array) -> float | None:
    """How similar real images of the subject are to held-out ones: what subject fidelity can reach at best.

    The mean cosine over pairs of different references. Fewer than four references have so few pairs that
    their mean says little; then pairs of a reference and a training image count as well.

    Returns:
        None if there is no pair at all.
    """
    return _mean_of_pairs(references, _counted(references, training))


def real_similarity_error(references: Array, training: Array) -> float | None:
    """Standard error of `real_similarity`: the jackknife over the references (Tukey 1958).

    Pairs that share a reference are not independent, so that their scatter would understate it. Which pairs count is
    settled by all references: with four, leaving one out does not let the training images in.

    Returns:
        None with fewer than two references, or where leaving one out leaves no pair.
    """
    counted = _counted(references, training)
    left = [_mean_of_pairs(np.delete(references, index, axis=0), counted) for index in range(len(references))]
    values = [value for value in left if value is not None]
    if len(values) < 2 or len(values) < len(left):
        return None
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.sum((np.asarray(values) - np.mean(values)) ** 2)))


def _counted(references: Array, training: Array) -> Array:
    """The training images whose pairs with references count."""
    return training if len(references) < ENOUGH_REFERENCES else training[:0]


def _mean_of_pairs(references: Array, training: Array) -> float | None:
    """Mean cosine over pairs of different references and pairs of a reference and a training image."""
    table = cosines(references, references)
    pairs = table[np.triu_indices(len(table), k=1)]
    if len(training):
        pairs = np.concatenate([pairs, cosines(references, training).ravel()])
    return float(pairs.mean()) if len(pairs) else None


def polynomial_kernel(first: Array, second: Array) -> Array:
    """The kernel of KID, (x.y / d + 1)^3, over all pairs (arXiv 1801.01401, sec. 4); embeddings not
    normalised.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def gaussian_kernel(first: Array, second: Array) -> Array:
    """The kernel of CMMD, 1000 exp(-|x - y|^2 / (2 10^2)), over all pairs of normalised embeddings (arXiv
    2401.09603, sec. 3).
    """
    squared = 2.0 - 2.0 * cosines(first, second)
    return CMMD_SCALE * np.exp(-squared / (2 * CMMD_BANDWIDTH**2))


def kid(first: Array, second: Array, clusters: Clusters | None = None) -> float | None:
    """The unbiased estimate of the squared maximum mean discrepancy under `polynomial_kernel`.

    It may be negative when the two distributions are alike. `clusters`: see `mmd`. None if either side has fewer than
    `MIN_DISTRIBUTION_IMAGES`.
    """
    return mmd(first, second, polynomial_kernel, clusters) if _enough(first, second) else None


def kid_interval(
    first: Array,
    second: Array,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `kid` over the images of both sides; None where `kid` is."""
    if not _enough(first, second):
        return None
    return mmd_interval(
        first, second, polynomial_kernel, level=level, resamples=resamples, seed=seed, clusters=clusters
    )


def cmmd(first: Array, second: Array, clusters: Clusters | None = None) -> float | None:
    """CMMD (Jayasumana et al. 2024, arXiv 2401.09603): `mmd` of CLIP embeddings under `gaussian_kernel`.

    The reference implementation takes the biased estimate, in which every image is paired with itself as well. On
    thousands of images the two agree; on fifty a side the bias is a multiple of 1000 (2 / 50) (1 - mean kernel), more
    than many a model drifts, so that the base model would differ from itself. So this is the unbiased one, as in
    `kid`.

    Args:
        first: CLIP image embeddings, which are normalised here.
        second: The same of the other set.
        clusters: See `mmd`.

    Returns:
        None if either side has fewer than `MIN_DISTRIBUTION_IMAGES`.
    """
    return mmd(first, second, gaussian_kernel, clusters) if _enough(first, second) else None


def cmmd_interval(
    first: Array,
    second: Array,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of `cmmd` over the images of both sides; None where `cmmd` is."""
    if not _enough(first, second):
        return None
    return mmd_interval(
        first, second, gaussian_kernel, level=level, resamples=resamples, seed=seed, clusters=clusters
    )


def _enough(first: Array, second: Array) -> bool:
    return min(len(first), len(second)) >= MIN_DISTRIBUTION_IMAGES


def mmd(first: Array, second: Array, kernel: Kernel, clusters: Clusters | None = None) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) of at least two
    images a side.

    Args:
        clusters: Of each side, a number for each image: images of one prompt are alike because of the prompt, and are
            no two draws from the distribution. Only pairs of different clusters then count within a side, as only
            pairs of different images do without; at least two clusters a side. None: every image by itself.
    """
    members = _members(first, second, clusters)
    xx, yy, xy = _kernels(first, second, kernel, members)
    ones = [np.ones((1, len(one))) for one in members]
    return float(_weighted_mmd(xx, yy, xy, ones, members)[0])


def mmd_interval(
    first: Array,
    second: Array,
    kernel: Kernel,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    clusters: Clusters | None = None,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `mmd` over the images of both sides, at least three a side; over clusters
    where there are any.

    An image that a resample draws twice is not paired with itself: that pair would add the kernel's diagonal
    and bias every resample upwards.
    """
    generator = np.random.default_rng(seed)
    members = _members(first, second, clusters)
    xx, yy, xy = _kernels(first, second, kernel, members)

    def weights(count: int) -> Array:
        return generator.multinomial(count, np.full(count, 1 / count), resamples).astype(float)

    drawn = [weights(len(one)) for one in members]
    values = _weighted_mmd(xx, yy, xy, drawn, members)
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _members(first: Array, second: Array, clusters: Clusters | None) -> list[Array]:
    """Which images each cluster of a side has: for each side ones and zeros, shape (clusters, images)."""
    if clusters is None:
        return [np.eye(len(first)), np.eye(len(second))]
    return [(np.unique(own)[:, None] == np.asarray(own)).astype(float) for own in clusters]


def _kernels(
    first: Array, second: Array, kernel: Kernel, members: Sequence[Array]
) -> tuple[Array, Array, Array]:
    """Kernels between images of each side and of both, 0 where two images of a side are of one cluster."""
    xx, yy = kernel(first, first), kernel(second, second)
    for table, own in zip((xx, yy), members, strict=True):
        table[own.T @ own > 0] = 0.0
    return xx, yy, kernel(first, second)


def _weighted_mmd(
    xx: Array, yy: Array, xy: Array, weights: Sequence[Array], members: Sequence[Array]
) -> Array:
    """Unbiased MMD^2 of weighted clusters, one value a row of weights, each of shape (rows, clusters)."""

    def within(kernel: Array, of_images: Array, of_clusters: Array) -> Array:
        pairs = of_images.sum(axis=1) ** 2 - (of_clusters**2).sum(axis=1)
        with np.errstate(
            invalid="ignore"
        ):  # a resample of one cluster only has no pairs; it is left out above
            return np.einsum("bi,ij,bj->b", of_images, kernel, of_images, optimize=True) / pairs

    x, y = (own @ of for own, of in zip(weights, members, strict=True))
    sums_x, sums_y = (own * of.sum(axis=1) for own, of in zip(weights, members, strict=True))
    between = np.einsum("bi,ij,bj->b", x, xy, y, optimize=True)
    between = between / (x.sum(axis=1) * y.sum(axis=1))
    return within(xx, x, sums_x) + within(yy, y, sums_y) - 2 * between
