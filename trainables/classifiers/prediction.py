"""Probabilities of the classes for images, in batches, without gradients."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.classifiers.images import LabelledImages
from trainables.classifiers.networks import Classifier

BATCH = 64


@torch.no_grad()
def predict(classifier: Classifier, images: LabelledImages, batch_size: int = BATCH) -> NDArray[np.float64]:
    """Returns probabilities, shape (images, classes); the classifier's mode stays as it was.

    Images are not augmented.
    """
    training = classifier.training
    classifier.eval()
    try:
        parts = [
            classifier(images.take(indices).to(classifier.mean.device)).double().softmax(1).cpu()
            for indices in torch.arange(len(images.labels)).split(batch_size)
        ]
    finally:
        classifier.train(training)
    return torch.cat(parts).numpy()
