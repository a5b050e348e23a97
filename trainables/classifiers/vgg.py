"""VGG19 (Simonyan and Zisserman 2015, arXiv 1409.1556, configuration E), which transformers does not have.

Modules bear torchvision's names, so that its weights can be read. At 224 pixels and 1,000 classes it has the published
143,667,240 parameters.
"""

from __future__ import annotations

import torch
from torch import nn

#: Channels of the convolutions between two halvings of the image.
STAGES = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


class Vgg19(nn.Module):
    """Logits of images, [images, 3, side, side] to [images, classes]; the side is at least 32 pixels.

    Args:
        classes: Number of them.
        map_side: Of the square to which the last features are averaged: 7 as published, whose first fully connected
            layer alone has 103 million weights.
        width: Of the two hidden layers of the head; 4096 as published.
    """

    def __init__(self, classes: int, map_side: int = 7, width: int = 4096) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for stage in STAGES:
            for wider in stage:
                layers += [nn.Conv2d(channels, wider, 3, padding=1), nn.ReLU(inplace=True)]
                channels = wider
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(map_side)
        self.classifier = nn.Sequential(
            nn.Linear(channels * map_side**2, width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(width, width),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(width, classes),
        )
        self.apply(_draw)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def _draw(module: nn.Module) -> None:
    """He et al. 2015 (arXiv 1502.01852), in the head too: with small normal weights there, as in torchvision, a network
    of 19 layers without normalisation hardly begins to learn from random weights.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
