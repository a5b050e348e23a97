"""Losses of classifiers, against computations of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from tests.helpers.labelled_images import spread
from trainables.classifiers.losses import build_loss, class_weights, cross_entropy, focal_loss
from trainables.config.classifiers import ClassifierConfig
from trainables.errors import UserError

LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3], [-3.0, 4.0, 0.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 2, 0, 1])


def probabilities_of_right_classes() -> list[float]:
    """In plain Python."""
    found = []
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        powers = [math.exp(value) for value in row]
        found.append(powers[label] / sum(powers))
    return found


def test_cross_entropy() -> None:
    expected = -sum(math.log(p) for p in probabilities_of_right_classes()) / 4
    assert cross_entropy(LOGITS, LABELS).item() == pytest.approx(expected, rel=1e-6)


def test_weighted_cross_entropy_is_divided_by_the_number_of_images() -> None:
    weights = [0.5, 2.0, 3.0]
    pairs = zip(probabilities_of_right_classes(), LABELS.tolist(), strict=True)
    expected = -sum(weights[label] * math.log(p) for p, label in pairs) / 4
    assert cross_entropy(LOGITS, LABELS, torch.tensor(weights)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, [0.25, 0.5, 1.0]])
def test_focal_loss(gamma: float, alpha: list[float] | None) -> None:
    pairs = zip(probabilities_of_right_classes(), LABELS.tolist(), strict=True)
    expected = -sum((alpha[c] if alpha else 1) * (1 - p) ** gamma * math.log(p) for p, c in pairs) / 4
    found = focal_loss(LOGITS, LABELS, gamma, None if alpha is None else torch.tensor(alpha))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    assert focal_loss(LOGITS, LABELS, 0.0).item() == pytest.approx(cross_entropy(LOGITS, LABELS).item())


def test_gradient_of_focal_loss_of_two_classes() -> None:
    """d/dx of -(1 - p)^2 log p with p = sigmoid(x): (1 - p)^2 (2 p log p - (1 - p)), Lin et al. 2017, appendix B."""
    x = torch.tensor([[0.7, 0.0], [-2.0, 0.0]], requires_grad=True)
    focal_loss(x, torch.tensor([0, 0])).backward()
    for value, gradient in zip((0.7, -2.0), x.grad[:, 0].tolist() if x.grad is not None else (), strict=True):
        p = 1 / (1 + math.exp(-value))
        assert 2 * gradient == pytest.approx((1 - p) ** 2 * (2 * p * math.log(p) - (1 - p)), rel=1e-5)


def test_focal_loss_of_a_sure_answer_has_a_finite_gradient() -> None:
    x = torch.tensor([[200.0, 0.0], [-200.0, 0.0]], requires_grad=True)
    focal_loss(x, torch.tensor([0, 0])).backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_class_weights_are_scikit_learns_balanced_ones() -> None:
    counts = [60, 25, 10, 5]
    labels = np.array(spread(counts))
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert class_weights(counts).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert class_weights([0.6, 0.25, 0.1, 0.05]).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert float(class_weights(counts)[labels].mean()) == pytest.approx(1)


def test_a_weighted_loss_is_the_mean_of_the_classes_losses() -> None:
    labels = torch.tensor(spread([5, 2, 1]))
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    loss = cross_entropy(logits, labels, class_weights([5, 2, 1]))
    means = [cross_entropy(logits[labels == c], labels[labels == c]) for c in range(3)]
    assert loss.item() == pytest.approx(float(torch.stack(means).mean()), rel=1e-6)


def test_a_class_that_is_never_drawn_has_no_weight() -> None:
    with pytest.raises(ValueError, match="every class needs a share above 0"):
        class_weights([1, 0])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, cross_entropy(LOGITS, LABELS)),
        ({"loss": "weighted_cross_entropy"}, cross_entropy(LOGITS, LABELS, class_weights([0.5, 0.3, 0.2]))),
        ({"loss": "focal"}, focal_loss(LOGITS, LABELS, 2.0)),
        ({"loss": "focal", "focal_gamma": 1.0}, focal_loss(LOGITS, LABELS, 1.0)),
        (
            {"loss": "focal", "focal_alpha": (1.0, 2.0, 3.0)},
            focal_loss(LOGITS, LABELS, 2.0, torch.tensor([1.0, 2.0, 3.0])),
        ),
        (
            {"loss": "focal", "focal_alpha": "inverse_frequency"},
            focal_loss(LOGITS, LABELS, 2.0, class_weights([0.5, 0.3, 0.2])),
        ),
    ],
)
def test_the_configured_loss_is_built(fields: dict[str, Any], expected: torch.Tensor) -> None:
    loss = build_loss(ClassifierConfig(network="small_cnn", **fields), [0.5, 0.3, 0.2])
    assert torch.equal(loss(LOGITS, LABELS), expected)


def test_alpha_of_another_number_of_classes_is_refused() -> None:
    config = ClassifierConfig(network="small_cnn", loss="focal", focal_alpha=(1.0, 2.0))
    with pytest.raises(UserError, match="focal_alpha has 2 numbers, and there are 3 classes"):
        build_loss(config, [0.5, 0.3, 0.2])
