"""How much the images of one prompt differ, as an eye would say it.

LPIPS (Zhang et al. 2018, arXiv 1801.03924) where the package ``lpips`` and the weights of its AlexNet are installed,
as in the DreamBooth paper's DIV (arXiv 2208.12242, table 3); otherwise one minus MS-SSIM of the luminance (Wang et al.
2003), by which Odena et al. 2017 (arXiv 1610.09585) measured diversity. The two are not comparable: `provenance` says
which it was.

An embedding that tells identities apart will not do: its distance is large where a model draws another creature each
time and small where it draws the right one in many ways. Perfect pictures of one subject and one prompt get about two
thirds of what pictures of different creatures get (``python -m benchmarks.measures diversity``).

Neither much nor little of it is better by itself: repeats get 0, noise gets much.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.util.packages import versions_of

SIDE = 64  # pixels to which MS-SSIM reduces images, so that a value does not depend on their size
# Of the finest three of the paper's five scales, rescaled to 1: two more would leave windows larger than the image.
SCALE_WEIGHTS = np.array([0.0448, 0.2856, 0.3001]) / (0.0448 + 0.2856 + 0.3001)
SIGMA, REACH = 1.5, 3.5  # the window of SSIM: a Gaussian of 11 taps (Wang et al. 2004)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # stabilisers of the same paper, for values in 0..255

LPIPS_TRUNK = "alexnet-owt-7be5be79.pth"  # torchvision's file of the AlexNet that LPIPS builds on

Prepare = Callable[[Image.Image], Any]  # once an image
Compare = Callable[[Any, Any], float]  # once a pair of prepared images


def diversity(images: Sequence[Image.Image], prompt_of_image: Sequence[int]) -> float | None:
    """Mean over prompts of the mean pairwise perceptual distance among the images of one prompt.

    Args:
        images: All of one size.
        prompt_of_image: For each image the number of its prompt.

    Returns:
        0 where all images of a prompt are equal, up to about 1; None if no prompt has two images.
    """
    prepare, compare = lpips_distance() if lpips_installed() else (_luminance, _ms_ssim_distance)
    groups = np.asarray(prompt_of_image)
    means = []
    for prompt in np.unique(groups):
        members = [prepare(image) for image, group in zip(images, groups, strict=True) if group == prompt]
        pairs = [compare(first, second) for first, second in combinations(members, 2)]
        if pairs:
            means.append(float(np.mean(pairs)))
    return float(np.mean(means)) if means else None


def provenance() -> dict[str, Any]:
    """Which distance `diversity` takes here, as JSON values."""
    if lpips_installed():
        return {
            "distance": "LPIPS, AlexNet, version 0.1",
            **versions_of(("lpips", "torchvision")),
        }
    return {"distance": f"1 - MS-SSIM of the luminance at {SIDE}x{SIDE}, {len(SCALE_WEIGHTS)} scales"}


def ms_ssim_distance(first: Image.Image, second: Image.Image) -> float:
    """One minus the multi-scale structural similarity of the luminance (Wang et al. 2003, eq. 7), in [0, 1].

    A negative mean of contrast and structure counts as 0, as in other implementations: a power of it is not real. So
    two pictures of which one is about the negative of the other are as far apart as can be.
    """
    return _ms_ssim_distance(_luminance(first), _luminance(second))


def _ms_ssim_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    similarity = 1.0
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            a, b = _halved(a), _halved(b)
        luminance, structure = _ssim_terms(a, b)
        last = scale == len(SCALE_WEIGHTS) - 1
        value = float((luminance * structure if last else structure).mean())
        similarity *= max(value, 0.0) ** float(weight)
    return min(1.0, max(0.0, 1.0 - similarity))


def _luminance(image: Image.Image) -> NDArray[np.float64]:
    picture = image.convert("RGB")
    if picture.size != (SIDE, SIDE):
        picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture.convert("L"), dtype=np.float64)


def _halved(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = picture.shape
    halved: NDArray[np.float64] = picture.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
    return halved


def _ssim_terms(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the luminance term and the product of contrast and structure, a value a pixel."""
    from scipy.ndimage import gaussian_filter

    def window(values: NDArray[np.float64]) -> NDArray[np.float64]:
        averaged: NDArray[np.float64] = gaussian_filter(values, SIGMA, truncate=REACH)
        return averaged

    mean_a, mean_b = window(a), window(b)
    variance_a, variance_b = window(a * a) - mean_a**2, window(b * b) - mean_b**2
    covariance = window(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return luminance, structure


@cache
def lpips_installed() -> bool:
    """Whether LPIPS can be computed without a download: package, torchvision, and the trunk's weights in torch's
    folder.

    The package brings its own linear layers; the trunk comes from torchvision, which would fetch it otherwise.
    """
    if any(importlib.util.find_spec(name) is None for name in ("lpips", "torchvision")):
        return False
    import torch

    return (Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_TRUNK).is_file()


@cache
def lpips_distance() -> tuple[Prepare, Compare]:
    """Loads LPIPS once; the random state stays as it was.

    Returns:
        What makes a tensor of an image, and the distance of two such tensors.
    """
    import torch

    lpips: Any = importlib.import_module("lpips")

    with torch.random.fork_rng(devices=[]):  # its layers are drawn before their weights are read
        model = lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)

    def tensor(image: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32))
        return pixels.permute(2, 0, 1)[None] / 127.5 - 1

    def distance(first: torch.Tensor, second: torch.Tensor) -> float:
        with torch.no_grad():
            return float(model(first, second))

    return tensor, distance
