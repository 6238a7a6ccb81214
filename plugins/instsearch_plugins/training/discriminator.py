"""SalGAN's discriminator, which training alone needs (Pan et al., 2017, arXiv:1701.01081, section 3.2)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instsearch_plugins.training.descent import he


class Discriminator(nn.Sequential):
    """Tells a picture with its density from one with a prediction (table 1); the last sigmoid is in the loss.

    :func:`seen`'s f32[B, 4, H, W] -> logits [B, 1], of sides H and W that are multiples of 8. conv1_1 has no
    padding, which the table's 1 x 1 kernel with padding 1 would make two pixels larger than its next layer takes.
    """

    def __init__(self, h: int, w: int) -> None:
        layers: list[nn.Module] = [nn.Conv2d(4, 3, 1), nn.ReLU()]
        for block in ((3, 32), (32, 64, 64), (64, 64, 64)):
            for inputs, outputs in pairwise(block):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        layers += [
            nn.Flatten(),
            nn.Linear(64 * (h // 8) * (w // 8), 100),
            nn.Tanh(),
            nn.Linear(100, 2),
            nn.Tanh(),
        ]
        super().__init__(*layers, nn.Linear(2, 1))
        he(self)


def seen(pixels: Tensor, S: Tensor) -> Tensor:
    """What the discriminator sees: the map and the picture, u8[B, 3, H, W] in RGB, all in 0 to 1."""
    return torch.cat((S, pixels.float() / 255), 1)


def adversarial_loss(judged: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of the discriminator's logits [B, 1] to real, 1, or to fake, 0: a mean over B."""
    return F.binary_cross_entropy_with_logits(judged, torch.full_like(judged, float(real)))
