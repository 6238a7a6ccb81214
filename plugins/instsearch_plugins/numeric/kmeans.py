"""Nearest centroids, and k-means for large vocabularies.

Agustsson, Timofte and Van Gool, "k^2-means for fast and accurate large scale clustering", ECML PKDD 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from instsearch_cli.components import Progress

TILE = 1 << 22  #: scores held at once: 16 MiB of f32


def nearest(x: Tensor, centroids: Tensor) -> Tensor:
    """Exact nearest centroid of each row, in bounded memory.

    a_i = argmin_k ||x_i - c_k||^2 = argmax_k  x_i . c_k - ||c_k||^2 / 2

    where x: f32[n, D], centroids: f32[K, D]. Returns i64[n]; on the CPU ties go to the lower index.
    """
    half = centroids.square().sum(1) / 2
    assigned = torch.empty(len(x), dtype=torch.int64, device=x.device)
    step = max(1, TILE // len(centroids))
    for start in range(0, len(x), step):
        score = torch.addmm(half, x[start : start + step], centroids.T, beta=-1)
        assigned[start : start + step] = _argmax(score)
    return assigned


def _argmax(score: Tensor) -> Tensor:
    # numpy's argmax is vectorised on the CPU and several times faster than torch's
    return torch.from_numpy(score.numpy().argmax(1)) if score.device.type == "cpu" else score.argmax(1)


def nearest_nearby(x: Tensor, centroids: Tensor, assigned: Tensor, neighbours: int) -> Tensor:
    """Nearest centroid among those around each row's present one: n m comparisons instead of n K.

    a_i <- argmin_{k in N(a_i)} ||x_i - c_k||^2

    where N(j) holds the m = ``neighbours`` centroids nearest to c_j, itself included, and assigned: i64[n] is
    the present a. No row ends up farther from its centroid. Returns i64[n].
    """
    half = centroids.square().sum(1) / 2
    sizes = torch.bincount(assigned, minlength=len(centroids)).tolist()
    members = torch.split(assigned.argsort(), sizes)
    moved = torch.empty_like(assigned)
    step = max(1, TILE // len(centroids))
    for start in range(0, len(centroids), step):
        score = torch.addmm(half, centroids[start : start + step], centroids.T, beta=-1)
        nearby = score.topk(min(neighbours, len(centroids)), dim=1, sorted=False).indices
        for rows, near in zip(members[start : start + step], nearby, strict=True):
            if len(rows):
                score = torch.addmm(half[near], x[rows], centroids[near].T, beta=-1)
                moved[rows] = near[score.argmax(1)]
    return moved


def kmeans(
    x: Tensor,
    k: int,
    iterations: int,
    seed: int = 0,
    neighbours: int | None = None,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm from k random rows, on the device of ``x``.

    c_j <- mean {x_i : a_i = j},  a_i = argmin_k ||x_i - c_k||^2

    where x: f32[n, D] with n >= k. With ``neighbours`` only the first assignment compares each row to all the
    centroids; the later ones look around the present centroid (:func:`nearest_nearby`). A cluster left empty
    starts again from a random row. Returns c: f32[k, D] and a: i64[n] as it was when c was last moved. The same
    seed gives the same result, on the CPU to the last bit. Raises ValueError if n < k or iterations < 1.
    """
    if len(x) < k:
        raise ValueError(f"{k} clusters need as many vectors, and there are {len(x)}")
    generator = torch.Generator().manual_seed(seed)
    if iterations < 1:
        raise ValueError(f"{iterations} iterations leave the vectors unassigned")
    centroids = x[torch.randperm(len(x), generator=generator)[:k].to(x.device)]
    assigned: Tensor | None = None
    if progress is not None:
        progress.start(f"clustering {len(x):,} local features into {k:,} words", iterations, "iterations")
    for _ in range(iterations):
        if assigned is None or neighbours is None or neighbours >= k:
            assigned = nearest(x, centroids)
        else:
            assigned = nearest_nearby(x, centroids, assigned, neighbours)
        size = torch.bincount(assigned, minlength=k)
        total = torch.zeros_like(centroids).index_add_(0, assigned, x)
        fresh = torch.randint(len(x), (k,), generator=generator).to(x.device)
        centroids = torch.where(size[:, None] > 0, total / size[:, None].clamp(min=1), x[fresh])
        if progress is not None:
            progress.advance()
    assert assigned is not None
    return centroids, assigned
