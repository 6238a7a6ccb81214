"""Peaks of an activation map, and the boxes of what excitation backprop finds below them.

As in Xiao et al., Deeply activated salient region for instance search, 2020 (sections 3.1 and 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import linkage
from torch import Tensor
from torchvision.ops import nms

from instsearch_cli.data import Grid
from instsearch_plugins.numeric.layers import INPUT, Convolution, Pool
from instsearch_plugins.numeric.normalise import l2

if TYPE_CHECKING:
    from instsearch_plugins.numeric.layers import Recording

ROUNDING = 1e-6  #: of a pixel: a whole mean may be a little less


def mean_map(X: Tensor) -> Tensor:
    """The mean over channels of a layer's map, as after a ReLU: f32[C, h, w] -> f64[h, w]."""
    return X.clamp(min=0).double().mean(0)


def maxima(X: Tensor, above_mean: bool = False, border: bool = True) -> Tensor:
    """Cells that no neighbour in 3 x 3 exceeds, in reading order: f64[h, w] -> i64[K, 2] of (y, x).

    Of equal neighbours the first is one; a cell at the map's minimum is none, so that a flat map has none.
    ``above_mean`` leaves out what is below the map's mean, ``border=False`` the outer rows and columns.
    """
    h, w = X.shape
    around = F.pad(X, (1, 1, 1, 1), value=-torch.inf).unfold(0, 3, 1).unfold(1, 3, 1).reshape(h, w, 9)
    found = (X[..., None] > around[..., :4]).all(-1) & (X[..., None] >= around[..., 5:]).all(-1)
    found &= X.min() < X
    if above_mean:
        found &= X.mean() <= X
    if not border:
        found[[0, -1]] = found[:, [0, -1]] = False
    return found.nonzero()


def above_mean(X: Tensor) -> Tensor:
    """Cells above the map's mean, in reading order: f64[h, w] -> i64[K, 2] of (y, x); none for a flat map."""
    return ((X.mean() < X) & (X.min() < X)).nonzero()


def active(M: Tensor, threshold: float = 0.1, percentile: float = 0.0) -> Tensor:
    """bool[K, h, w]: cells of maps M with at least a share ``threshold`` of their map's maximum, 0 never.

    M >= tau max M; with a ``percentile``, M at least as large as that many percent of the map's cells
    """
    if percentile:
        flat = M.flatten(1)
        rank = min(flat.shape[1], 1 + int(flat.shape[1] * percentile / 100))
        level = flat.kthvalue(rank, 1).values
    else:
        level = threshold * M.amax((1, 2))
    return (level[:, None, None] <= M) & (M > 0)


def moments(active: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the cells of each mask, as (x, y): bool[K, h, w] -> f64[K, 2], f64[K, 2, 2].

    mu = sum r / n,  C = sum (r - mu)(r - mu)^T / n

    NaN for a mask without a cell. Reference: equation 4, which leaves out the mean.
    """
    _, h, w = active.shape
    x, y = (torch.arange(n, dtype=torch.float64, device=active.device) for n in (w, h))
    columns, rows = active.sum(1).double(), active.sum(2).double()
    n = rows.sum(1)
    mean = torch.stack([columns @ x, rows @ y], 1) / n[:, None]
    along = (active.float() @ x.float()).double()  # whole numbers, exact up to 2 ** 24
    xx, xy, yy = columns @ x**2, along @ y, rows @ y**2
    second = torch.stack([xx, xy, xy, yy], 1).reshape(-1, 2, 2) / n[:, None, None]
    return mean, second - mean[:, :, None] * mean[:, None, :]


def lattice(recording: Recording, name: str, size: tuple[int, int] | None = None) -> Grid:
    """Where the cells of a value lie in the picture: each at the middle of the pixels that it sees.

    In pixels of the picture that was recorded, or as if that had ``size`` = (width, height). Strides and padding
    move the cells a little from where they would be if they parted the picture evenly.
    """
    found: dict[str, tuple[tuple[float, float], ...]] = {
        INPUT: ((1.0, 0.5), (1.0, 0.5))
    }  # along y and x: step, first centre
    for layer in recording.circuit.layers.values():
        axes = found[layer.inputs[0]]
        if isinstance(layer, Convolution | Pool):
            sliding = recording.sliding(layer)
            axes = tuple(
                (s * sliding.stride[i], first + s * ((sliding.reach(i) - 1) / 2 - sliding.padding[i]))
                for i, (s, first) in enumerate(axes)
            )
        found[layer.name] = axes
    (sy, y), (sx, x) = found[name]
    _, h, w = recording.shapes[INPUT]
    u, v = (size[0] / w, size[1] / h) if size else (1.0, 1.0)
    return Grid(*recording.shapes[name][1:], (u * sx, v * sy, u * (x - sx / 2), v * (y - sy / 2)))


def in_pixels(mean: Tensor, C: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Moments of cells as those of the pixels that these stand for.

    mu' = o + s (mu + 1/2),  C' = s C s + (s^2 - 1) / 12 on the diagonal, the variance of s pixels in a row
    """
    s, o = (torch.tensor(v, dtype=C.dtype, device=C.device) for v in (grid.transform[:2], grid.transform[2:]))
    return o + s * (mean + 0.5), C * s[:, None] * s + torch.diag((s**2 - 1) / 12)


def axes(C: Tensor, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """The ellipses of covariances f64[K, 2, 2]: radii f64[K, 2], and by how much the first is turned from x to y.

    radii = scale sqrt(lambda), along C's eigenvectors
    """
    values, vectors = torch.linalg.eigh(C)
    return scale * values.clamp(min=0).sqrt(), torch.atan2(vectors[:, 1, 0], vectors[:, 0, 0])


def boxes(mean: Tensor, C: Tensor, size: tuple[int, int], scale: float = 2.0, whole: bool = False) -> Tensor:
    """The rectangles around ellipses, cut to a picture of ``size`` = (width, height): f32[K, 4].

    mu_x -+ scale sqrt(C_xx), mu_y -+ scale sqrt(C_yy)

    mean f64[K, 2] and C f64[K, 2, 2] in pixels. The ellipse has its axes along C's eigenvectors, ``scale`` times
    the root of the eigenvalue long; with 2 one that is evenly filled has its own moments. At least one pixel
    wide and high. ``whole`` drops fractions of the mean pixel's number and of the half as the authors' code does, away
    from the edges.
    """
    last = torch.tensor(size, dtype=C.dtype, device=C.device)
    mean = mean.clamp(min=0.5).minimum(last - 0.5)
    half = scale * C.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    if whole:
        mean, half = (mean - 0.5 + ROUNDING).trunc() + 0.5, half.trunc() + 0.5  # of pixels, by their numbers
    low, high = mean - half.clamp(min=0.5), mean + half.clamp(min=0.5)
    return torch.cat([low.clamp(min=0), high.minimum(last)], 1).float()


def merged(
    boxes: Tensor, scores: Tensor, X: Tensor, size: tuple[int, int], appearance: float = 0.7
) -> tuple[Tensor, Tensor]:
    """The boxes that regions have together, as those are joined that are nearest and most alike, two by two.

    d^2(i, j) = |r_i - r_j|^2 / s^2 + a^2 |x_i - x_j|^2,  x_i = l2(l2(X_i) - mean_j l2(X_j))

    where r is a box's centre, s the longer side of the picture of ``size``, X_i the activations at the region's
    peak and a = ``appearance``; groups are as far apart as their regions are on average. f32[K, 4], f32[K],
    f32[K, C] -> f32[K - 1, 4], the smallest box around each group, and f32[K - 1], the mean of its scores.

    Reference: Sokal and Michener, A statistical method for evaluating systematic relationships, 1958.
    """
    if len(boxes) < 2:
        return boxes[:0], scores[:0]
    x = l2(X.double().cpu())
    x = l2(x - x.mean(0))
    r = (boxes[:, :2] + boxes[:, 2:]).double().cpu() / 2 / max(size)
    pairs = linkage(torch.cat([r, appearance * x], 1).numpy(), "average")
    low, high, total = list(boxes[:, :2]), list(boxes[:, 2:]), list(scores)
    for i, j in pairs[:, :2].astype(int):
        low.append(low[i].minimum(low[j]))
        high.append(high[i].maximum(high[j]))
        total.append(total[i] + total[j])
    around = torch.cat([torch.stack(low), torch.stack(high)], 1)[len(boxes) :]
    return around, torch.stack(total)[len(boxes) :] / torch.from_numpy(pairs[:, 3]).to(scores)


def suppress(boxes: Tensor, scores: Tensor, beta: float) -> Tensor:
    """Boxes that remain, best first: those of IoU <= ``beta`` with each that remains before them.

    boxes f32[R, 4], scores f32[R] -> i64[S]. With ``beta`` = 1 all remain.
    """
    if beta >= 1:
        return scores.argsort(descending=True, stable=True)
    kept: Tensor = nms(boxes, scores, beta)
    return kept
