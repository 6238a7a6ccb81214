"""First weights of networks that are trained from scratch, and a step of descent."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor


def he(layers: Iterable[nn.Module]) -> None:
    """Draw the weights of convolutions and linear layers so that activations keep their size; biases 0.

    w ~ N(0, g^2 / n)

    where n is the number of inputs of a unit, g^2 = 2 before a ReLU and 1 before anything else.

    Reference: He et al., "Delving deep into rectifiers", 2015, eq. 10.
    """
    for layer, following in pairwise([*layers, nn.Identity()]):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            gain = 2**0.5 if isinstance(following, nn.ReLU) else 1.0
            nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def bilinear(layer: nn.Module) -> None:
    """Make a deconvolution of stride s and kernel 2s, one channel each way, interpolate bilinearly.

    w(i, j) = t(i) t(j),  t(i) = 1 - |i + 1/2 - s| / s
    """
    assert isinstance(layer, nn.ConvTranspose2d)
    s = layer.stride[0]
    t = 1 - (torch.arange(2 * s) + 0.5 - s).abs() / s
    with torch.no_grad():
        layer.weight.copy_(torch.outer(t, t))


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step down the loss."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
    optimizer.step()
