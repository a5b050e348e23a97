"""A small convolutional network for small images: four convolutions with batch normalisation, each halving the size."""

from __future__ import annotations

import torch
from torch import nn

CHANNELS = (32, 64, 128, 256)


class SmallCnn(nn.Module):
    """Logits of images, [images, 3, side, side] to [images, classes]; the side is at least 16 pixels.

    Its head sees the mean of the last features, so that it has the same weights at every image size: 388,896, and 257
    more for each class.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for wider in CHANNELS:
            layers += [
                nn.Conv2d(channels, wider, 3, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            channels = wider
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).flatten(1))
