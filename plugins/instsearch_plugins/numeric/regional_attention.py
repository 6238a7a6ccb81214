"""Regional attention: what a region counts, by its mean and that of the whole map.

Kim and Yoon, "Regional attention based deep feature for image retrieval", BMVC 2018.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from instsearch_plugins.numeric.normalise import l2
from instsearch_plugins.numeric.pooling import sum_pool

if TYPE_CHECKING:
    from torch import Tensor

Hidden = Literal["tanh", "softplus"]  #: the function between the two layers


def attention(
    r: Tensor, g: Tensor, W_c: Tensor, b_c: Tensor, W_r: Tensor, b_r: Tensor, hidden: Hidden = "tanh"
) -> Tensor:
    """What each region counts, in the context of its picture.

    phi_i = softplus(W_r sigma(W_c [r_i; g] + b_c) + b_r)

    where r: f32[..., R, C] are the regions' means, g: f32[..., C] the picture's, W_c: f32[D, 2 C], b_c: f32[D],
    W_r: f32[1, D], b_r: f32[1], and sigma is tanh or softplus. Returns f32[..., R], above 0.
    """
    # W_c [r; g] in two parts: g is the same for all regions
    on_r, on_g = W_c.chunk(2, 1)
    u = r @ on_r.T + (g @ on_g.T + b_c)[..., None, :]
    u = torch.tanh(u) if hidden == "tanh" else F.softplus(u)
    return F.softplus(u @ W_r.T + b_r)[..., 0]


def attended(phi: Tensor, v: Tensor) -> Tensor:
    """The regions' vectors by what they count, added up: L2(sum_i phi_i v_i).

    phi: f32[R], v: f32[R, d]. Returns f32[1, d], zero where the sum is.
    """
    return l2((phi @ v)[None])


def mean_pool(X: Tensor, alpha: Tensor) -> Tensor:
    """The mean of each channel over a region's cells, by weight.

    m_c = sum_p alpha_p X_cp / sum_p alpha_p

    where X: f32[C, h, w], alpha: f32[M, h, w]. Returns f32[M, C]; zeros where all weights are 0.
    """
    total = alpha.flatten(1).sum(1, keepdim=True)
    return sum_pool(X, alpha) / torch.where(total > 0, total, 1)


def pools_of_rectangles(X: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Each channel's largest value and its mean in rectangles of some maps.

    X: f32[B, C, h, w], cells x0, y0, x1, y1 i64[R, 4], ends excluded. Returns two f32[B, R, C].
    """
    parts = [X[:, :, y0:y1, x0:x1].flatten(2) for x0, y0, x1, y1 in cells.tolist()]
    return torch.stack([part.amax(2) for part in parts], 1), torch.stack([part.mean(2) for part in parts], 1)


def attended_mean(phi: Tensor, psi: Tensor) -> Tensor:
    """What a classifier reads while the attention is trained: z = 1/R sum_i phi_i psi_i.

    phi: f32[B, R], psi: f32[B, R, C], maxima of the regions as they are. Returns f32[B, C].
    """
    return torch.einsum("br,brc->bc", phi, psi) / phi.shape[1]
