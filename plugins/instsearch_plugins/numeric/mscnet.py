"""The formulas of MSCNet (Xiang, Wang, Zhao and Su, "Multiple saliency and channel sensitivity network for
aggregated convolutional feature", AAAI 2019): channel weights, aggregation, and the losses it is trained with.

Everything here is differentiable and computed in float32, whatever precision comes in: squares of correlations
and sums over maps overflow float16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-6  #: of the channel weights; the paper leaves it open


def gram_channel_weights(
    X: Tensor, gamma: float = 2, eps: float = EPSILON, mask: Tensor | None = None
) -> Tensor:
    """The weight of each channel: the less it responds together with the others, the more it tells.

    G_ij = sum_p X_ip X_jp,  v_i = 1/C sum_j G_ij = 1/C sum_p X_ip sum_j X_jp
    W_i = log((C eps + sum_h v_h^gamma) / (eps + v_i^gamma))

    where p runs over the cells, X: f32[..., C, h, w]. Returns f32[..., C]; a map of zeros gives log C. With
    ``mask`` bool[M, h, w], of one map, p runs over the cells of each mask: f32[M, C]. G is never made.

    Reference: equations 1 to 3, with K = C.
    """
    with torch.autocast(X.device.type, enabled=False):
        F = X.flatten(-2).float()
        C, together = F.shape[-2], F.sum(-2, keepdim=True)
        if mask is not None:
            together = together * mask.flatten(-2)
        v = together @ F.transpose(-2, -1) / C
        v = v.abs() ** gamma  # below 0 only in maps that come before a ReLU
        W = torch.log((C * eps + v.sum(-1, keepdim=True)) / (eps + v))
        return W[..., 0, :] if mask is None else W


def weighted_sum(X: Tensor, M: Tensor, W: Tensor) -> Tensor:
    """A descriptor for each mask.

    psi_ki = W_i sum_p X_ip M_kp

    where X: f32[..., C, h, w], M: f32[..., n, h, w], W: f32[..., C]. Returns f32[..., n, C].
    Reference: equation 4.
    """
    with torch.autocast(X.device.type, enabled=False):
        sums = M.flatten(-2).float() @ X.flatten(-2).float().transpose(-2, -1)
        return sums * W.float()[..., None, :]


def cosines(M: Tensor) -> Tensor:
    """G_ij = <m_i, m_j> / (||m_i|| ||m_j||) of a picture's masks M f32[..., n, h, w]: f32[..., n, n].

    Reference: equations 7 and 8.
    """
    with torch.autocast(M.device.type, enabled=False):
        m = l2(M.flatten(-2).float())
        return m @ m.transpose(-2, -1)


def mask_cosine(M: Tensor) -> Tensor:
    """How alike the masks of a picture are: the mean cosine of two of them.

    c = 1 / (n (n - 1)) sum_{i != j} G_ij

    where M: f32[..., n, h, w], G their :func:`cosines`. Returns f32[...]; a single mask gives 0.
    """
    n, G = M.shape[-3], cosines(M)
    return (G.sum((-2, -1)) - G.diagonal(dim1=-2, dim2=-1).sum(-1)) / max(n * (n - 1), 1)


def ngd_loss(M: Tensor, beta: float = 0.5, form: Literal["paper", "mean"] = "paper") -> Tensor:
    """Normalised Gram-difference loss: masks of a picture are to differ. Mean over the pictures.

    paper:  L = max(1 / (n - 1)^2 sum_{i != j} G_ij - beta, 0) = max(n / (n - 1) c - beta, 0)
    mean:   L = max(c - beta, 0)

    where c is :func:`mask_cosine` of M: f32[..., n, h, w], and G its :func:`cosines`. Returns a scalar; a single
    mask gives 0. The sum has n (n - 1) terms, so the paper's form is no mean: the cosine is pressed below
    beta (n - 1) / n, .4 for five masks and its beta. Reference: equation 9.
    """
    n = M.shape[-3]
    factor = n / max(n - 1, 1) if form == "paper" else 1
    return (factor * mask_cosine(M) - beta).clamp(min=0).mean()


def hardest(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each row the farthest of its class and the nearest of the others, both i64[B].

    The farthest of a class of one is that one. z: f32[B, D], labels: i64[B]. Ties go to the first row.
    Raises ValueError if all are of one class.
    """
    same = labels[:, None] == labels
    if same.all():
        raise ValueError("triplets need images of two classes at least")
    with torch.no_grad():
        d = torch.cdist(z.float(), z.float(), compute_mode="donot_use_mm_for_euclid_dist")
        return d.masked_fill(~same, -torch.inf).argmax(1), d.masked_fill(same, torch.inf).argmin(1)


def triplet_terms(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.1) -> Tensor:
    """max(||a - p|| - ||a - n|| + m, 0) of each row: f32[A, D] three times -> f32[A]."""
    a, p, n = anchor.float(), positive.float(), negative.float()
    far, near = torch.linalg.vector_norm(a - p, dim=1), torch.linalg.vector_norm(a - n, dim=1)
    terms: Tensor = (far - near + margin).clamp(min=0)
    return terms


def trihard_loss(z: Tensor, labels: Tensor, margin: float = 0.1) -> Tensor:
    """Triplet loss with the hardest positive and negative of each anchor in the batch.

    L = 1/B sum_a max(max_{p in A} ||z_a - z_p|| - min_{n not in A} ||z_a - z_n|| + m, 0)

    where A is the class of a, z: f32[B, D], labels: i64[B]. Returns a scalar. The mean is over all anchors,
    those without a loss too, so it can be added up from :func:`triplet_terms` of the rows that
    :func:`hardest` names, a few anchors at a time. Raises ValueError if all are of one class.

    Reference: equation 11; Hermans, Beyer and Leibe, "In defense of the triplet loss", 2017.
    """
    p, n = hardest(z, labels)
    return triplet_terms(z, z[p], z[n], margin).mean()
