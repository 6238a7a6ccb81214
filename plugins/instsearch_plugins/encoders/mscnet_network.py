"""The network of MSCNet over the feature maps of another (Xiang et al., AAAI 2019, section 3)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from instsearch_cli.errors import InstsearchError
from instsearch_cli.networks.weights import load_state_dict, put_weights
from instsearch_plugins.numeric.mscnet import gram_channel_weights, weighted_sum
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class MSB(nn.Conv2d):
    """Multiple saliency block: M = sigmoid(conv3x3(X)), n masks from C channels.

    f32[B, C, h, w] -> f32[B, n, h, w] in (0, 1). 9 n C + n parameters, ``weight`` and ``bias``.
    """

    def __init__(self, C: int, n: int) -> None:
        super().__init__(C, n, 3, padding=1)

    def forward(self, X: Tensor) -> Tensor:
        """The masks of some maps."""
        return torch.sigmoid(super().forward(X))


class MSCNet(nn.Module):
    """Masks, channel weights, a weighted sum for each mask, one projection of them all.

    M = MSB(X),  psi^(k) = W * sum_p X_p M_kp,  z = L2(FC(L2([psi^(1); ...; psi^(n)])))

    where W are :func:`gram_channel_weights` of X. Parameters ``msb.weight`` f32[n, C, 3, 3], ``msb.bias`` f32[n],
    ``fc.weight`` f32[D, n C] (mask by mask) and ``fc.bias`` f32[D].
    """

    def __init__(self, C: int, n: int = 5, D: int = 512) -> None:
        super().__init__()
        self.msb = MSB(C, n)
        self.fc = nn.Linear(n * C, D)

    def forward(self, X: Tensor, weights_through: bool = True) -> tuple[Tensor, Tensor]:
        """X f32[B, C, h, w] -> unit descriptors z f32[B, D] and masks M f32[B, n, h, w].

        Without ``weights_through`` no gradient passes through the channel weights.
        """
        M = self.msb(X)
        return self.describe(X, M, weights_through), M

    def describe(self, X: Tensor, M: Tensor, weights_through: bool = True) -> Tensor:
        """Unit descriptors z f32[B, D] of maps X f32[B, C, h, w] by given masks M f32[B, n, h, w]."""
        with nullcontext() if weights_through else torch.no_grad():
            W = gram_channel_weights(X)
        return self.project(weighted_sum(X, M, W))

    def project(self, psi: Tensor) -> Tensor:
        """z = L2(FC(L2([psi^(1); ...; psi^(n)]))): f32[B, n, C] -> f32[B, D]."""
        z: Tensor = self.fc(l2(psi.flatten(1)))
        return l2(z.float())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels C, masks n and values D of a descriptor."""
        return self.msb.in_channels, self.msb.out_channels, self.fc.out_features


def drawn(C: int, n: int, D: int, seed: int) -> MSCNet:
    """An untrained network: every number even in -1/sqrt(f) to 1/sqrt(f), f the inputs of its layer.

    So torch draws them, but here they depend on ``seed`` alone, whatever other threads draw.
    """
    with torch.device("meta"):
        network = MSCNet(C, n, D)
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, inputs in ((network.msb, 9 * C), (network.fc, n * C)):
            for values in layer.parameters():
                values.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)
    return network


def trained(path: Path, device: torch.device) -> MSCNet:
    """The network of a weights file, in evaluation mode; what else the file holds is not read.

    Raises InstsearchError for a file that is damaged or of something else.
    """
    state = load_state_dict(path)
    kernels, projection = state.get("msb.weight"), state.get("fc.weight")
    if kernels is None or kernels.ndim != 4 or projection is None or projection.ndim != 2:
        raise InstsearchError(
            f"{path}: not MSCNet's weights: no 'msb.weight' and 'fc.weight' of a convolution and a projection.\n"
            "Take a file that `instsearch train mscnet` wrote."
        )
    (n, C), D = kernels.shape[:2], len(projection)
    with torch.device("meta"):
        network = MSCNet(C, n, D)
    put_weights(network, network.state_dict(), state, path, device, torch.float32)
    return network.eval().requires_grad_(False)


def check_channels(network: MSCNet, X: Tensor, what: str) -> None:
    """Raise InstsearchError unless maps X f32[C, h, w] are of as many channels as the network is for."""
    if len(X) != network.shape[0]:
        raise InstsearchError(
            f"{what} is for features of {network.shape[0]:,} channels, and these have {len(X):,}: take the "
            "extractor and the layer (--set extractor.layer=...) that it was trained on; its card names them"
        )
