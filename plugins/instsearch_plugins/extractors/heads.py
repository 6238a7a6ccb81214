"""The linear classifier over a global average of maps, for other classes than ImageNet's."""

from __future__ import annotations

from torch import nn


def set_classes(network: nn.Module, head: str, classes: int) -> None:
    """Put a new layer of ``classes`` outputs, its weights as torch draws them, in the place of the classifier.

    ``head`` is the name of the classifier's weights in a state dict; a linear layer, or a convolution of 1 x 1.
    """
    path = head.removesuffix(".weight")
    old = network.get_submodule(path)
    new: nn.Module
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, classes, old.kernel_size, bias=old.bias is not None)  # type: ignore[arg-type]
    else:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, classes, old.bias is not None)
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, new.train(old.training))
