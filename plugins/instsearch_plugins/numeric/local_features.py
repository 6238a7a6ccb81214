"""The local features of a picture as rows, whatever they lie on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from instsearch_cli.data import FeatureMap

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.data import Features


def sizes(features: Features) -> tuple[Features, ...]:
    """The features at each of the picture's sizes."""
    return (features, *features.levels) if isinstance(features, FeatureMap) else (features,)


def rows(features: Features) -> Tensor:
    """Local features f32[n, C], of all the picture's sizes."""
    if not isinstance(features, FeatureMap):
        return torch.from_numpy(features.values)
    each = [size.values.flatten(1).T for size in (features, *features.levels)]
    return each[0] if len(each) == 1 else torch.cat(each)
