"""What tells an object from its look-alikes: how the colours of its pictures differ from theirs, place by place.

Fisher's linear discriminant with a diagonal covariance (Dudoit, Fridlyand and Speed, JASA 2002) between what is surely
found and what is refused, as discriminative query expansion learns a classifier of the two (Arandjelović and Zisserman,
CVPR 2012, section 4).
"""

from __future__ import annotations

import cv2
import numpy as np

from instsearch_plugins.numeric.registration import cells

DARK = 0.02  # added to colours before their logarithm
MOST = 0.5  # logarithm of a colour's ratio, at most: what covers the object is no further from it than that
SHRINKAGE = 0.2  # of the mean variance, added to each


def levels(picture: np.ndarray) -> np.ndarray:
    """The mean of log(I + DARK) in each cell of a picture u8[h, w, 3], for each of the three colours: f32[3, m, n]."""
    logs = np.log(picture / np.float32(255) + np.float32(DARK))
    return np.stack([cells(plane) for plane in cv2.split(logs)])


def colours(picture: np.ndarray, usual: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """By how much the colours of a picture u8[h, w, 3] differ from the usual ones in each cell: f32[3 m n].

    clip(d - median_seen d, -MOST, MOST),  d = mean log((I + DARK) / (I_usual + DARK)), of each of the three colours

    so that the light's colour is not in it; 0 in cells that are not among seen, bool[m, n]. usual: their
    :func:`levels`.
    """
    d = levels(picture) - usual
    if seen.any():
        d -= np.median(d[:, seen], axis=1)[:, None, None]
    differing: np.ndarray = np.where(seen, d.clip(-MOST, MOST), 0).astype(np.float32).ravel()
    return differing


def discriminant(x: np.ndarray, these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """How far vectors f[n, d] are on the side of these, bool[n], away from those, bool[n]: f64[n], with deviation 1.

    d_i = <x_i - (mu + nu) / 2, (mu - nu) / s> / sqrt(<mu - nu, (mu - nu) / s>)

    mu, nu: the means of both without i; s: the variances within them, SHRINKAGE times their mean higher. Zeros where
    either are fewer than two.
    """
    if min(np.count_nonzero(these), np.count_nonzero(those)) < 2:
        return np.zeros(len(x))
    x = x.astype(np.float64)
    within = np.concatenate([x[some] - x[some].mean(axis=0) for some in (these, those)])
    s = within.var(axis=0)
    s += SHRINKAGE * s.mean() + 1e-9
    mu, nu = _without(x, these), _without(x, those)
    d = ((x - (mu + nu) / 2) * (mu - nu) / s).sum(axis=1)
    d /= np.sqrt(((mu - nu) ** 2 / s).sum(axis=1)) + 1e-9
    return np.asarray(d / max(float(d.std()), 1e-9))


def _without(x: np.ndarray, some: np.ndarray) -> np.ndarray:
    """The mean of some of f64[n, d], for each of all, itself left out: f64[n, d]."""
    total, n = x[some].sum(axis=0), np.count_nonzero(some)
    mean: np.ndarray = np.where(some[:, None], (total - x) / (n - 1), total / n)
    return mean
