"""Diversity: against the formula, and on what it must not reward."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.measures import DIVERSITY_BAR, Settings, measure_diversity
from trainables import embedded
from trainables.evaluation import perceptual


@pytest.fixture(autouse=True)
def _as_installed() -> Iterator[None]:
    """Whether LPIPS is there is remembered; each test finds out anew."""
    perceptual.lpips_installed.cache_clear()
    perceptual.lpips_distance.cache_clear()
    yield
    perceptual.lpips_installed.cache_clear()
    perceptual.lpips_distance.cache_clear()


@pytest.fixture
def _without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perceptual, "lpips_installed", lambda: False)


def renders() -> list[Image.Image]:
    return embedded.load_subject("cat-1").reference_images()


def window() -> np.ndarray:
    """The 11x11 Gaussian of SSIM's paper, sum 1."""
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    return np.outer(line, line) / line.sum() ** 2


def naive_ms_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """MS-SSIM of three scales, pixel by pixel with an explicit window; borders are reflected."""
    weights = np.array([0.0448, 0.2856, 0.3001])
    weights /= weights.sum()
    result = 1.0
    for scale, weight in enumerate(weights):
        terms = []
        padded = [np.pad(picture, 5, mode="symmetric") for picture in (first, second)]
        for y in range(first.shape[0]):
            for x in range(first.shape[1]):
                a, b = (picture[y : y + 11, x : x + 11] for picture in padded)
                w = window()
                ma, mb = (w * a).sum(), (w * b).sum()
                va, vb = (w * (a - ma) ** 2).sum(), (w * (b - mb) ** 2).sum()
                covariance = (w * (a - ma) * (b - mb)).sum()
                term = (2 * covariance + 58.5225) / (va + vb + 58.5225)
                if scale == 2:
                    term *= (2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025)
                terms.append(term)
        result *= max(0.0, float(np.mean(terms))) ** weight
        rows, columns = first.shape
        first, second = (p.reshape(rows // 2, 2, columns // 2, 2).mean((1, 3)) for p in (first, second))
    return result


def test_ms_ssim_against_a_naive_implementation() -> None:
    images = renders()
    first, second = images[0], images[8]  # one scene, other detail
    pixels = [np.asarray(image.convert("L"), dtype=float) for image in (first, second)]
    assert 0.1 < perceptual.ms_ssim_distance(first, second) < 0.9
    assert perceptual.ms_ssim_distance(first, second) == pytest.approx(1 - naive_ms_ssim(*pixels), abs=1e-9)


@pytest.mark.usefixtures("_without_lpips")
def test_prompts_are_averaged_and_pairs_across_them_ignored() -> None:
    images, groups = renders()[:7], [0, 0, 1, 1, 1, 2, 0]
    expected = []
    for prompt in (0, 1):
        members = [image for image, group in zip(images, groups, strict=True) if group == prompt]
        expected.append(np.mean([perceptual.ms_ssim_distance(a, b) for a, b in combinations(members, 2)]))
    assert perceptual.diversity(images, groups) == pytest.approx(np.mean(expected))
    assert perceptual.diversity(images[:2], [0, 1]) is None
    assert perceptual.diversity([], []) is None


@pytest.mark.usefixtures("_without_lpips")
def test_repeats_are_nothing_and_noise_is_much() -> None:
    image = renders()[0]
    assert perceptual.diversity([image] * 3, [0] * 3) == 0.0
    generator = np.random.default_rng(0)
    noise = [Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(3)]
    value = perceptual.diversity(noise, [0] * 3)
    assert value is not None
    assert 0.7 < value <= 1


@pytest.mark.usefixtures("_without_lpips")
def test_size_does_not_matter() -> None:
    small = renders()[:3]
    large = [image.resize((512, 512), Image.Resampling.NEAREST) for image in small]
    assert perceptual.diversity(large, [0] * 3) == pytest.approx(perceptual.diversity(small, [0] * 3))


@pytest.mark.usefixtures("_without_lpips")
def test_perfect_pictures_pass_where_the_encoder_rewards_inconsistency() -> None:
    lines = {line.what: line for line in measure_diversity(Settings(("cat-1", "turtle-1"), views=3))}
    ratio = lines["diversity: one creature / different ones"]
    assert ratio.bar == DIVERSITY_BAR
    assert ratio.reached
    assert lines["diversity: repeats"].value == 0
    assert lines["  the same ratio of 1 - cosine of the encoder"].value < 0.2


def test_lpips_is_taken_where_its_weights_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A stand-in of the package; torchvision would download the trunk's weights if they were not there."""
    built: list[dict[str, Any]] = []

    class Lpips(torch.nn.Module):
        def __init__(self, **options: Any) -> None:
            super().__init__()
            built.append(options)
            torch.rand(3)  # the real one draws its layers before it reads their weights

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            assert first.shape == (1, 3, 64, 64)
            assert -1 <= float(first.min()) <= float(first.max()) <= 1
            return (first - second).abs().mean().reshape(1, 1, 1, 1)

    for name in ("lpips", "torchvision"):
        module = types.ModuleType(name)
        module.__spec__ = types.SimpleNamespace(name=name)  # type: ignore[assignment]
        module.LPIPS = Lpips  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(perceptual.importlib.metadata, "version", lambda name: f"{name} 1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    images = renders()[:2]
    assert perceptual.diversity(images, [0, 0]) == perceptual.ms_ssim_distance(*images)
    assert "MS-SSIM" in perceptual.provenance()["distance"]
    assert built == []

    weights = tmp_path / "checkpoints" / perceptual.LPIPS_TRUNK
    weights.parent.mkdir()
    weights.write_bytes(b"")
    perceptual.lpips_installed.cache_clear()
    before = torch.get_rng_state()
    pixels = [np.asarray(image, dtype=float) / 127.5 for image in images]
    expected = np.abs(pixels[0] - pixels[1]).mean()
    assert perceptual.diversity(images, [0, 0]) == pytest.approx(expected, rel=1e-5)
    assert built == [{"net": "alex", "verbose": False}]
    assert torch.equal(torch.get_rng_state(), before)
    assert perceptual.provenance() == {
        "distance": "LPIPS, AlexNet, version 0.1",
        "lpips": "lpips 1",
        "torchvision": "torchvision 1",
    }
