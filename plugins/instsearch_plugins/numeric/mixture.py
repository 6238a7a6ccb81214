"""Few vectors for many: the means of a Gaussian mixture (Iscen et al., CVPR 2017, reduce an image's regions so)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

ITERATIONS = 50  # at most
STILL = 1e-6  # responsibilities that move by less are at rest
FLOOR = 1e-6  # of the variance: distances below a thousandth are none, between unit vectors


def farthest_points(x: Tensor, k: int) -> Tensor:
    """k rows that are far apart: the first, then again and again the one farthest from those chosen. i64[k]

    x: f[n, D], n >= k. Ties go to the lower row.

    Reference: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    chosen = [0]
    distance = (x - x[0]).square().sum(1)
    for _ in range(k - 1):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen, device=x.device)


def gaussian_mixture(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Expectation-maximisation of k spherical Gaussians of one common variance, from :func:`farthest_points`.

    E: r_ij ~ pi_j exp(-||x_i - mu_j||^2 / (2 sigma^2)), which sum to 1 over j
    M: n_j = sum_i r_ij,  pi_j = n_j / n,  mu_j = sum_i r_ij x_i / n_j,  sigma^2 = sum_ij r_ij ||x_i - mu_j||^2 / (n D)

    x: f[n, D], n >= k. A variance for each component, or each dimension, would be learnt from less than one vector
    here, and collapse. sigma^2 starts as if each vector belonged to the nearest mean; a component of no vector stays
    where it is. Returns mu f64[k, D] and r f64[n, k]; the same input gives the same result.

    Reference: Dempster, Laird and Rubin, 1977.
    """
    x = x.double()
    n, D = x.shape
    mu = x[farthest_points(x, k)]
    log_pi = x.new_zeros(k)
    distance = _squares(x, mu)
    variance = (distance.min(1).values.sum() / (n * D)).clamp(min=FLOOR)
    r = x.new_zeros(n, k)
    for _ in range(ITERATIONS):
        before, r = r, torch.softmax(log_pi - distance / (2 * variance), 1)
        if (r - before).abs().max() < STILL:
            break
        size = r.sum(0)
        some = size > FLOOR
        mu = torch.where(some[:, None], r.T @ x / size.clamp(min=FLOOR)[:, None], mu)
        log_pi = (size / n).clamp(min=FLOOR).log()
        distance = _squares(x, mu)
        variance = ((r * distance).sum() / (n * D)).clamp(min=FLOOR)
    return mu, r


def _squares(x: Tensor, mu: Tensor) -> Tensor:
    """||x_i - mu_j||^2, without the loss of precision of a product: f[n, k]."""
    return torch.cdist(x, mu, compute_mode="donot_use_mm_for_euclid_dist").square()


def boxes_of(boxes: Tensor, r: Tensor) -> Tensor:
    """The smallest box around the regions that belong to each component more than to another: f32[k, 4].

    boxes: f32[n, 4]; r: f[n, k]. A component without such a region has the box of the one with most of it.
    """
    most = r.argmax(0)
    found = []
    for j, one in enumerate(most.tolist()):
        own = boxes[(r.argmax(1) == j).to(boxes.device)]
        own = own if len(own) else boxes[one : one + 1]
        found.append(torch.cat([own[:, :2].amin(0), own[:, 2:].amax(0)]))
    return torch.stack(found)
