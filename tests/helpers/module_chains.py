"""Chains of modules with given weights."""

from __future__ import annotations

import torch
from torch import nn


def sequence(*modules, weights=()):
    """A chain of modules, its convolutions with given weights."""
    network = nn.Sequential(*modules).eval()
    convolutions = (module for module in modules if isinstance(module, nn.Conv2d))
    for module, weight in zip(convolutions, weights, strict=True):
        module.weight.data = torch.tensor(weight, dtype=torch.float32).reshape(module.weight.shape)
    return network
