"""Expanding Gaussian mixtures on weight maps: EM with purging, which finds its own number of components.

As in Siméoni et al., Unsupervised object discovery for instance recognition, 2018 (section 3.4), after
Avrithis and Kalantidis, Approximate Gaussian mixtures for large scale vocabularies, ECCV 2012.

Positions and variances are in cells, (y, x), the first cell being 0. A mixture is an array f64[m, 5]: pi, mu_y,
mu_x, var_y, var_x of each component.

Samples lie on a grid and covariances are diagonal, so the inner product of a sample and a component is one
factor of its row times one of its column: sums over samples or components are products of small matrices, and
no table of samples by components is ever made. The first iteration, with as many components as samples, is a
convolution. Purging compares each component with the kept ones only. All of it is exact: no term is left out.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

BLOCK = 32  #: components purged together; changes the time that it takes, not what is kept
FAINT = 1e-3  #: samples below this share of the largest are left out
FLOOR = 1e-3  #: variances are at least this, in square cells
LOST = 1e-200  #: a sample to which the whole mixture gives less than this belongs to no component
TIE = 1e-10  #: mixing coefficients this close are taken in the order of their cells, whatever was rounded


class Recipe(NamedTuple):
    """How a mixture is fitted; the defaults are what the paper chose for its feature saliency.

    rho, tau    the map over its maximum is masked below tau, then raised to rho
    sigma       variance of a sample, and of the first components, in square cells
    weighted    a sample counts as much as its amplitude in eq. 6 to 8; else 1, as printed
    add_sigma   sigma is added to every variance
    overlap     the purging threshold tau_o
    iterations  at most
    tolerance   the means have settled when none moves this far, in cells
    """

    rho: float = 5
    tau: float = 0.4
    sigma: float = 2.5
    weighted: bool = True
    add_sigma: bool = False
    overlap: float = 0.55
    iterations: int = 50
    tolerance: float = 1e-3


def fit(S: np.ndarray, recipe: Recipe | None = None) -> np.ndarray:
    """The mixture of a map f[h, w]: f64[m, 5], by descending pi; m = 0 for a map with fewer than two samples.

    Starts from one component at each of the :func:`samples`, then takes E-, M- and P-step (:func:`purge`) in
    turn, until no component is purged and no mean moves by ``tolerance``, at most ``iterations`` times.
    """
    recipe = recipe or Recipe()
    sigma, add = recipe.sigma, recipe.sigma if recipe.add_sigma else 0
    amplitude = samples(S, recipe.rho, recipe.tau)
    found = amplitude > 0
    if found.sum() < 2:
        return np.zeros((0, 5))
    weight = amplitude if recipe.weighted else found.astype(np.float64)
    moved, mu = first_step(amplitude, weight, sigma, add), np.argwhere(found)
    for _ in range(recipe.iterations):
        q = purge(moved, recipe.overlap)
        if len(q) == len(moved) and np.abs(moved[:, 1:3] - mu).max() < recipe.tolerance:
            break
        mu = q[:, 1:3]
        moved = m_step(*e_step(q, sigma, *S.shape), weight, add)
    return by_weight(q)


def samples(S: np.ndarray, rho: float, tau: float) -> np.ndarray:
    """Amplitudes of the samples: the map over its maximum, masked below tau, to the power rho.

    S: f[h, w]. Returns f64[h, w] in [0, 1], with 0 at cells that are no samples, those below FAINT among
    them; a map without a positive value gives zeros.
    """
    S = S.astype(np.float64)
    peak = S.max()
    if not 0 < peak < np.inf:
        return np.zeros_like(S)
    S = S.clip(min=0) / peak
    amplitude = S**rho
    amplitude[(tau > S) | (amplitude < FAINT)] = 0
    return amplitude


def inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of every component of ``a`` with every one of ``b``, as functions on the plane.

    <a, b> = pi_a pi_b prod_d (2 pi V_d)^(-1/2) exp(-(mu_a - mu_b)_d^2 / (2 V_d)),  V = var_a + var_b

    a: f64[m, 5], b: f64[n, 5]. Returns f64[m, n].
    """
    a, b = a.T[:, :, None], b.T[:, None]
    V = a[3:] + b[3:]
    distance = (a[1:3] - b[1:3]) ** 2 / V
    exponent = -0.5 * (distance[0] + distance[1])
    product: np.ndarray = a[0] * b[0] * np.exp(exponent) / (2 * math.pi * np.sqrt(V[0] * V[1]))
    return product


def e_step(q: np.ndarray, sigma: float, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Responsibilities of the components for the cells of an h x w grid (eq. 5), in factors.

    gamma_ik = <s_i, q_k> / sum_j <s_i, q_j> = gy_k(y_i) gx_k(x_i) / total_i
    <s_i, q_k> = S_i pi_k N(p_i | mu_k, Sigma_k + sigma I)

    where S_i cancels. q: f64[m, 5]. Returns g f64[2, m, max(h, w)], of which gy is [0, :, :h] and gx is
    [1, :, :w], and total f64[h, w].
    """
    q = q.T[..., None]
    v = q[3:] + sigma
    g = np.exp((_powers(max(h, w))[:, 1] - q[1:3]) ** 2 * (-0.5 / v))
    g[0] *= q[0] / (2 * math.pi * np.sqrt(v[0] * v[1]))
    return g, g[0, :, :h].T @ g[1, :, :w]


def m_step(g: np.ndarray, total: np.ndarray, weight: np.ndarray, add: float = 0) -> np.ndarray:
    """Moments of the samples of each component (eq. 6 to 8), each sample counting ``weight`` w_i.

    l_k = sum_i w_i gamma_ik,  pi_k = l_k / l,  mu_k = sum_i w_i gamma_ik p_i / l_k,
    Sigma_k = sum_i w_i gamma_ik diag(p_i - mu_k)^2 / l_k + ``add``,  at least FLOOR

    with the factors of :func:`e_step`, and weight f64[h, w], 0 where there is no sample. Returns f64[m, 5]; a
    component without samples gets pi = 0.
    """
    h, w = weight.shape
    R = weight / np.maximum(total, LOST)
    along = np.zeros(g.shape)  # sum of w_i gamma_ik over a row, over a column
    np.matmul(g[1, :, :w], R.T, out=along[0, :, :h])
    np.matmul(g[0, :, :h], R, out=along[1, :, :w])
    along *= g
    return _mixture(along @ _powers(max(h, w)), add)


def first_step(amplitude: np.ndarray, weight: np.ndarray, sigma: float, add: float = 0) -> np.ndarray:
    """E- and M-step of the first mixture, pi_k = S_k / sum S, mu_k = p_k, Sigma_k = sigma I.

    All covariances being equal, <s_i, q_k> depends on the offset p_i - p_k only:

    sum_i w_i gamma_ik f(p_i) = S_k (G * (w f / (G * S)))_k,  G = exp(-(y^2 + x^2) / (4 sigma))

    amplitude S and weight w: f64[h, w]. Returns f64[m, 5], the components in the order of their cells.
    """
    y, x = (_powers(n) for n in weight.shape)
    gy, gx = (np.exp((n[:, 1] - n[:, 1:2]) ** 2 * (-0.25 / sigma)) for n in (y, x))
    R = weight / np.maximum(gy @ amplitude @ gx, LOST)
    sums = np.stack([gy @ (y.T[:, :, None] * (R @ gx)), (gy @ R * x.T[:, None]) @ gx]) * amplitude
    return _mixture(sums[:, :, amplitude > 0].swapaxes(1, 2), add)


@lru_cache(maxsize=256)
def _powers(n: int) -> np.ndarray:
    """1, i and i^2 for i from 0 to n - 1: f64[n, 3]."""
    i = np.arange(n, dtype=np.float64)
    return np.stack([np.ones(n), i, i * i], axis=1)


def _mixture(sums: np.ndarray, add: float) -> np.ndarray:
    """The mixture from sum_i w_i gamma_ik (1, p, p^2) along y and x: f64[2, m, 3] -> f64[m, 5]."""
    mass = sums[0, :, 0]
    moments = sums / np.maximum(mass, LOST)[:, None]
    mean = moments[..., 1]
    q = np.empty((5, len(mass)))
    np.divide(mass, mass.sum(), out=q[0])
    q[1:3] = mean
    np.maximum(moments[..., 2] - mean * mean + add, FLOOR, out=q[3:])
    return q.T


def purge(q: np.ndarray, overlap: float) -> np.ndarray:
    """Keeps the components that those kept before them leave enough to themselves.

    By descending pi, component i joins the kept set K if  <q_i, q_i> / (<q_i, q_i> + sum_{j in K} <q_i, q_j>)
    is at least ``overlap``. Returns the kept ones in that order, pi renormalised, f64[n, 5] with n < m; or
    ``q`` itself if all are kept.
    """
    if len(q) <= BLOCK:
        products = inner(q, q)
        if (products.sum(1) * overlap < products.diagonal()).all():  # even all the others leave enough
            return q
    q = by_weight(q)
    own = q[:, 0] ** 2 / (4 * math.pi * np.sqrt(q[:, 3] * q[:, 4]))
    room = (1 / overlap - 1) * own  # what the kept ones may at most add up to
    room[q[:, 0] <= 0] = -1
    kept = []
    while len(q):
        head, left = q[:BLOCK], room[:BLOCK].copy()
        products = inner(head, head)
        chosen = []
        for i in range(len(head)):
            if left[i] >= 0:
                chosen.append(i)
                left -= products[i]
        kept.append(head[chosen])
        q, room = q[BLOCK:], room[BLOCK:]
        if len(q):
            room = room - inner(q, kept[-1]).sum(1)
            q, room = q[room >= 0], room[room >= 0]
    q = np.concatenate(kept)
    q[:, 0] /= q[:, 0].sum()
    return q


def by_weight(q: np.ndarray) -> np.ndarray:
    """The components by descending pi, ties as they come."""
    ordered: np.ndarray = q[np.argsort(-np.round(q[:, 0] / TIE), kind="stable")]
    return ordered


def cells(q: np.ndarray, h: int, w: int, box_scale: float = math.sqrt(3)) -> np.ndarray:
    """The rectangle of each component in whole cells: x0, y0, x1, y1 (ends excluded) i64[m, 4].

    From  lo = round(mu - r + 1/2)  to  hi = round(mu + r - 1/2), both included,  r = ``box_scale`` sqrt(var)

    halves being rounded up, clipped to the h x w map; round(mu) alone where lo > hi. A uniform box has
    r = sqrt(3) standard deviations.
    """
    mu, radius = q[:, 1:3], box_scale * np.sqrt(q[:, 3:5])
    lo, hi, middle = (np.floor(side + 0.5) for side in (mu - radius + 0.5, mu + radius - 0.5, mu))
    lo, hi = (np.where(lo > hi, middle, side).clip(0, (h - 1, w - 1)) for side in (lo, hi))
    return np.concatenate([lo[:, ::-1], hi[:, ::-1] + 1], axis=1).astype(np.int64)
