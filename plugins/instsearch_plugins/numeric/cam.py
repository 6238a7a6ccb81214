"""Class activation maps (Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning deep features for discriminative
localization", CVPR 2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Normalisation = Literal["relu", "code", "stretch"]


def class_activation_maps(A: Tensor, W: Tensor) -> Tensor:
    """Where a network that pools its last map by the mean sees each of some classes (eq. 4.1).

    CAM_c = sum_k w_kc A_k

    A: f32[K, h, w], the map that is pooled; W: f32[N, K], the rows of the classifier, whose bias does not count.
    Returns f32[N, h, w], which is negative where something speaks against the class.
    """
    return torch.einsum("nk,khw->nhw", W, A)


def normalised(maps: Tensor, form: Normalisation = "relu") -> Tensor:
    """Class activation maps brought to the range [0, 1], each by itself.

    relu:     max(M / max M, 0), or 0 where max M <= 0: a map that is negative everywhere gives zeros
    code:     max(M / max M, 0) whatever the sign of max M, or 0 where it is 0: such a map is turned round, its
              least negative cell 1 and the others above, as in the authors' code
    stretch:  (M - min M) / (max M - min M); a flat map gives zeros

    M: f32[N, h, w]. Returns f32[N, h, w]. The paper only says that the range is [0, 1].
    """
    peak = maps.amax((-2, -1), keepdim=True)
    if form == "stretch":
        low = maps.amin((-2, -1), keepdim=True)
        return (maps - low) / torch.where(peak > low, peak - low, 1)
    some = peak != 0 if form == "code" else peak > 0
    return torch.where(some, maps / torch.where(some, peak, 1), 0).clamp(min=0)


def most_probable(logits: Tensor, n: int) -> Tensor:
    """The n classes of highest probability, best first, the lower number first of equals: f32[C] -> i64[n]."""
    return logits.sort(descending=True, stable=True).indices[:n]
