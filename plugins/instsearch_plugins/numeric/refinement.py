"""Descriptors of the best hits made better by each other (SuperGlobal: Shao, Chen, Karpur, Cui, Araujo and Cao, "Global
features are all you need for image retrieval and reranking", ICCV 2023, section 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def refined(X: Tensor, K: int, beta: float) -> Tensor:
    """Each descriptor with its nearest ones among them.

    r_d = (x_d + beta sum_{i in N_K(d)} s_di x_i) / (1 + beta sum_{i in N_K(d)} s_di),  s_di = max(<x_d, x_i>, 0)

    X: f32[M, D], unit vectors. N_K(d) are the K nearest of the others, as many as there are. Returns f32[M, D].
    """
    s = (X @ X.T).fill_diagonal_(-2)
    s, near = s.topk(min(K, len(X) - 1), dim=1)
    w = beta * s.clamp(min=0)
    R = X.clone()
    for j in range(w.shape[1]):
        R += w[:, j, None] * X[near[:, j]]
    return R / (1 + w.sum(1, keepdim=True))


def refined_scores(q: Tensor, X: Tensor, K: int, beta: float) -> Tensor:
    """How like a query the best hits are, by refined descriptors and by a query made of these.

    S_d = (<q, r_d> + <e, r_d>) / 2,  e = max_{d in T} r_d, value by value

    where T are the K + 1 with the largest <q, r_d>, as the authors' code has it. q: f32[D], X: f32[M, D] with M >= 1,
    unit vectors; r as :func:`refined`. Returns f32[M].
    """
    R = refined(X, K, beta)
    first = R @ q
    e = R[first.topk(min(K + 1, len(R))).indices].amax(0)
    return (first + R @ e) / 2
