"""DecomposeMe: a compact network of convolutions in one dimension (Alvarez & Petersson 2016, arXiv:1606.05426).

What is the paper's: a convolution of d x d becomes one of d x 1, ReLU, one of 1 x d, ReLU, learned as such from
the start; an average takes the place of the fully connected layers; VGG-B is what it is compared with. The table
here is VGG-B's (Simonyan & Zisserman 2015, table 1, column B: ten convolutions of 3 x 3), each layer decomposed.
The tables of the paper's own networks were not at hand, so that these are choices:

* as many filters between the two convolutions as behind them, namely VGG-B's;
* the ending, of which Jimenez et al. 2017 ("Class-weighted convolutional features") say "CAM-modified" alone: that
  of VGG-16-CAM, so no last pooling, a layer of 1,024 channels, decomposed too, a global average, a linear classifier;
* biases, no batch normalisation, torchvision's normalisation of the input, conv5_1 as the default layer.

It has 12.5 million parameters for 1,000 classes, 91 % fewer than VGG-B; the paper says 92 % of its own on Places2.
No weights are published in a form that is known here: a file has the names of :class:`DecomposeMeNetwork`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from instsearch_plugins.extractors.networks import Network

if TYPE_CHECKING:
    from torch import Tensor

BLOCKS = ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512))  #: filters of VGG-B's layers
CHANNELS = 1024  #: of the layer that class activation maps are made of


def decomposed(C: int, F: int, d: int = 3) -> list[nn.Module]:
    """A layer of d x d, decomposed: maps of C channels to F of the same size.

    a(l, y, x) = max(0, b_l  + sum_c sum_i v(l, c, i) f(c, y + i - d // 2, x)),   l = 1 ... F
    g(k, y, x) = max(0, b'_k + sum_l sum_j h(k, l, j) a(l, y, x + j - d // 2)),   k = 1 ... F

    where c = 1 ... C and i, j = 0 ... d - 1; f and a are 0 outside. (C + F) F d weights, for C F d^2.
    """
    return [
        nn.Conv2d(C, F, (d, 1), padding=(d // 2, 0)),
        nn.ReLU(inplace=True),
        nn.Conv2d(F, F, (1, d), padding=(0, d // 2)),
        nn.ReLU(inplace=True),
    ]


class DecomposeMeNetwork(nn.Module):
    """x f32[B, 3, H, W] -> logits f32[B, classes]; its last maps have stride 16."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers, C = list[nn.Module](), 3
        for block in BLOCKS:
            for F in block:
                layers += decomposed(C, F)
                C = F
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.cam = nn.Sequential(*decomposed(C, CHANNELS))
        self.classifier = nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.cam(self.features(x))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits


class DecomposeMe(Network):
    """conv5_1, both of its convolutions, after ReLU: 512 channels, stride 16 (Alvarez & Petersson 2016)."""

    architecture = "decomposeme"
    default = "features.39"
    cam = "cam"
    head = "classifier.weight"

    @classmethod
    def build(cls) -> nn.Module:
        """The network without weights."""
        return DecomposeMeNetwork()
