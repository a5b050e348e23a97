"""The losses of a classifier: cross entropy, class-weighted cross entropy, focal loss.

All are means over the images of a batch, of logits [images, classes] and labels [images]. Also with weights the sum is
divided by the number of images, not by the sum of their weights as in ``torch.nn.CrossEntropyLoss``: its expectation
then is the same at every batch size, and with the weights of `class_weights` it is the mean over the classes of their
mean losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from trainables.config.classifiers import INVERSE_FREQUENCY, ClassifierConfig
from trainables.errors import UserError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def class_weights(shares: Sequence[float]) -> torch.Tensor:
    """Returns the weight of each class: one over the number of classes and its share, 1 / (K f), [classes].

    Normalised so that the mean weight of an image is 1: rates and losses are those of no weights. Of counts n of
    training images it is N / (K n), which scikit-learn calls ``balanced`` (King and Zeng 2001).

    Args:
        shares: Of the images that are drawn, or counts of them, by class; all above 0.
    """
    counts = torch.tensor(shares, dtype=torch.float64)
    if len(counts) == 0 or not bool((counts > 0).all()):
        raise ValueError(f"every class needs a share above 0 to have a weight, got {list(shares)}")
    return (counts.sum() / (len(counts) * counts)).float()


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the mean over images of -w log p of the right class; w = 1 without weights, [classes]."""
    return functional.cross_entropy(logits, labels, weights, reduction="sum") / len(labels)


def focal_loss(
    logits: torch.Tensor, labels: torch.Tensor, gamma: float = 2.0, alpha: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the mean over images of -alpha (1 - p)^gamma log p of the right class.

    Lin et al. 2017 (arXiv 1708.02002, equation 5), with the softmax's p and an alpha for each class, [classes]; with
    gamma 0 it is the cross entropy.
    """
    log_p = functional.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    losses = -((1 - log_p.exp()) ** gamma) * log_p
    return (losses if alpha is None else losses * alpha[labels]).mean()


def build_loss(config: ClassifierConfig, shares: Sequence[float], device: torch.device | str = "cpu") -> Loss:
    """Returns the configured loss.

    Args:
        shares: Of each class in what is drawn, in expectation; for `class_weights`.

    Raises:
        UserError: `focal_alpha` has not one number for each class.
    """
    if config.loss == "cross_entropy":
        return cross_entropy
    if config.loss == "weighted_cross_entropy":
        weights = class_weights(shares).to(device)
        return lambda logits, labels: cross_entropy(logits, labels, weights)
    alpha = _alpha(config, shares)
    alpha = alpha if alpha is None else alpha.to(device)
    return lambda logits, labels: focal_loss(logits, labels, config.focal_gamma, alpha)


def _alpha(config: ClassifierConfig, shares: Sequence[float]) -> torch.Tensor | None:
    if config.focal_alpha is None:
        return None
    if config.focal_alpha == INVERSE_FREQUENCY:
        return class_weights(shares)
    if len(config.focal_alpha) != len(shares):
        raise UserError(
            f"focal_alpha has {len(config.focal_alpha)} numbers, and there are {len(shares)} classes; give one for each"
        )
    return torch.tensor(config.focal_alpha, dtype=torch.float32)
