"""Class-weighted features: their encoder by its options, numbers drawn by lot, and how they are compared."""

from __future__ import annotations

import torch

from instsearch_cli.options import make_config
from instsearch_plugins.encoders import cam as encoder

CPU = torch.device("cpu")
SIZE = (160, 96)


def close(actual, expected, atol=1e-6):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=1e-5)


def drawn(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def made(**options):
    config = make_config(encoder.CAM, options, "encoder")
    component = encoder.CAM(config, CPU)
    component.load({})
    return component
