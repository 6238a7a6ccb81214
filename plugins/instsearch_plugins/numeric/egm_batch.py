"""Expanding Gaussian mixtures of many weight maps at once, on any device.

The same as :mod:`instsearch_plugins.numeric.egm`, whose docstrings have the formulas, map by map. Mixtures are
tensors f64[B, m, 5], padded with components of pi = 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from instsearch_plugins.numeric.egm import FAINT, FLOOR, LOST, TIE, Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

BLOCK = 64  #: components purged together; changes the time that it takes, not what is kept


def fit_batch(S: Tensor, recipe: Recipe | None = None) -> list[Tensor]:
    """The mixtures of some maps f[B, h, w], smaller ones padded with 0 below and to the right.

    Returns f64[m, 5] for each map, by descending pi; m = 0 for a map with fewer than two samples.
    """
    recipe = recipe or Recipe()
    sigma, add = recipe.sigma, recipe.sigma if recipe.add_sigma else 0
    amplitude = samples(S, recipe.rho, recipe.tau)
    mixtures = [amplitude.new_zeros(0, 5)] * len(amplitude)
    active = ((amplitude > 0).sum((-2, -1)) > 1).nonzero()[:, 0]
    if not len(active) or recipe.iterations < 1:
        return mixtures
    amplitude = amplitude[active]
    weight = amplitude if recipe.weighted else (amplitude > 0).to(amplitude.dtype)
    q, moved = initial(amplitude, sigma), first_step(amplitude, weight, sigma, add)
    for iteration in range(recipe.iterations):
        if iteration:
            moved = m_step(*e_step(q, sigma, *amplitude.shape[1:]), weight, add)
        purged = purge(moved, recipe.overlap)
        alive = moved[..., 0] > 0
        steps = ((moved - q)[..., 1:3].abs().amax(-1) * alive).amax(1)
        done = (steps < recipe.tolerance) & ((purged[..., 0] > 0).sum(1) == alive.sum(1))
        if iteration == recipe.iterations - 1:
            done = torch.ones_like(done)
        q = purged
        if bool(done.any()):
            for i in done.nonzero()[:, 0].tolist():
                mixtures[int(active[i])] = by_weight(q[i : i + 1, q[i, :, 0] > 0])[0]
            if bool(done.all()):
                break
            active, weight, q = active[~done], weight[~done], q[~done]
    return mixtures


def padded(maps: Sequence[Tensor]) -> Tensor:
    """Some maps f[h_b, w_b] as one tensor f[B, h, w], zeros below and to the right."""
    h, w = (max(S.shape[d] for S in maps) for d in (0, 1))
    together = maps[0].new_zeros(len(maps), h, w)
    for place, S in zip(together, maps, strict=True):
        place[: len(S), : S.shape[1]] = S
    return together


def samples(S: Tensor, rho: float, tau: float) -> Tensor:
    """Amplitudes of the samples: f[B, h, w] -> f64[B, h, w], 0 at cells that are none."""
    S = S.to(torch.float64)
    peak = S.amax((-2, -1), keepdim=True)
    S = torch.where(peak > 0, S / peak, 0).clamp(min=0)
    amplitude = torch.where(tau <= S, S**rho, 0)
    return torch.where(amplitude >= FAINT, amplitude, 0)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of all pairs: f64[B, m, 5], f64[B, n, 5] -> f64[B, m, n]."""
    pi_a, y_a, x_a, vy_a, vx_a = a[:, :, None].unbind(-1)
    pi_b, y_b, x_b, vy_b, vx_b = b[:, None].unbind(-1)
    vy, vx = vy_a + vy_b, vx_a + vx_b
    distance = (y_a - y_b).square_().div_(vy).add_((x_a - x_b).square_().div_(vx))
    product: Tensor = distance.mul_(-0.5).exp_().mul_(pi_a).mul_(pi_b)
    return product.div_(vy.mul_(vx).sqrt_().mul_(2 * math.pi))


def initial(amplitude: Tensor, sigma: float) -> Tensor:
    """One component at each cell: pi_k = S_k / sum S, mu_k = p_k, Sigma_k = sigma I.

    amplitude: f64[B, h, w], each with a sample. Returns f64[B, h w, 5].
    """
    h, w = amplitude.shape[-2:]
    pi = (amplitude / amplitude.sum((-2, -1), keepdim=True)).flatten(1)
    y = torch.arange(h, dtype=pi.dtype, device=pi.device).repeat_interleave(w).expand_as(pi)
    x = torch.arange(w, dtype=pi.dtype, device=pi.device).repeat(h).expand_as(pi)
    v = torch.full_like(pi, sigma)
    return torch.stack([pi, y, x, v, v], dim=-1)


def compact(q: Tensor, keep: Tensor) -> Tensor:
    """The rows to keep, in their order, as few as the fullest map needs; the others' pi becomes 0.

    q: f64[B, m, ...], keep: bool[B, m]. Returns f64[B, n, ...].
    """
    if len(q) == 1:
        return q[:, keep[0]]
    n = int(keep.sum(1).max())
    order = keep.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :n]
    q = q.gather(1, order[..., None].expand(-1, -1, q.shape[-1]))
    q[..., 0] *= keep.gather(1, order)
    return q


def e_step(q: Tensor, sigma: float, h: int, w: int) -> tuple[Tensor, Tensor, Tensor]:
    """gy f64[B, m, h], gx f64[B, m, w] and total f64[B, h, w] of f64[B, m, 5] (eq. 5)."""
    v = q[..., 3:, None] + sigma
    n = torch.arange(max(h, w), dtype=q.dtype, device=q.device)
    g = ((n - q[..., 1:3, None]).square_() * (-0.5 / v)).exp_()
    gy, gx = g[..., 0, :h] * (q[..., :1] * v.prod(-2).rsqrt()), g[..., 1, :w]
    return gy, gx, gy.mT @ gx


def m_step(gy: Tensor, gx: Tensor, total: Tensor, weight: Tensor, add: float = 0) -> Tensor:
    """f64[B, m, 5] from the factors of :func:`e_step` and weight f64[B, h, w] (eq. 6 to 8)."""
    R = weight / total.clamp(min=LOST)
    y, x = (_powers(g) for g in (gy, gx))
    return _mixture((gy * (gx @ R.mT)) @ y, (gx * (gy @ R)) @ x, add)


def first_step(amplitude: Tensor, weight: Tensor, sigma: float, add: float = 0) -> Tensor:
    """E- and M-step of the :func:`initial` mixture: f64[B, h w, 5], pi = 0 at cells that are no samples."""
    y, x = _powers(amplitude.mT), _powers(amplitude)
    gy, gx = (torch.exp((n[:, 1] - n[:, 1, None]) ** 2 * (-0.25 / sigma)) for n in (y, x))
    R = weight / (gy @ amplitude @ gx).clamp(min=LOST)
    sums_y = torch.stack([(gy * power) @ (R @ gx) * amplitude for power in y.T], dim=-1)
    sums_x = torch.stack([(gy @ R) @ (gx * power).mT * amplitude for power in x.T], dim=-1)
    return _mixture(sums_y.flatten(1, 2), sums_x.flatten(1, 2), add)


def _powers(along: Tensor) -> Tensor:
    """1, n and n^2 of each of the n places along the last side of a tensor: f64[n, 3]."""
    n = torch.arange(along.shape[-1], dtype=along.dtype, device=along.device)
    return torch.stack([torch.ones_like(n), n, n * n], dim=-1)


def _mixture(sums_y: Tensor, sums_x: Tensor, add: float) -> Tensor:
    """The mixture from sum_i w_i gamma_ik (1, p, p^2) along y and x: f64[B, m, 3] twice -> f64[B, m, 5]."""
    sums = torch.stack([sums_y, sums_x], dim=-1)
    mass = sums[..., 0, :1]
    mean, square = (sums[..., 1:, :] / torch.where(mass > 0, mass, 1)[..., None]).unbind(-2)
    variance = (square - mean**2 + add).clamp_(min=FLOOR)
    return torch.cat([mass / mass.sum(1, keepdim=True), mean, variance], dim=-1)


def by_weight(q: Tensor) -> Tensor:
    """The components by descending pi, ties as they come."""
    order = (q[..., 0] / TIE).round().argsort(dim=1, descending=True, stable=True)
    return q.gather(1, order[..., None].expand_as(q))


def purge(q: Tensor, overlap: float) -> Tensor:
    """The components that those kept before them leave enough to themselves: f64[B, n, 5], n <= m.

    By descending pi; but as they came if all are kept.
    """
    most = 1 / overlap - 1  # what those of K may at most add up to, in units of <q_i, q_i>
    if q.shape[1] <= BLOCK:
        products = inner(q, q)
        if bool((products.sum(-1) <= products.diagonal(dim1=1, dim2=2) * (1 + most)).all()):
            return q
    q = by_weight(compact(q, q[..., 0] > 0))
    own = q[..., 0] ** 2 / (4 * math.pi * (q[..., 3] * q[..., 4]).sqrt())
    rest = torch.cat([q, most * own[..., None]], dim=-1)
    kept = []
    while rest.shape[1]:
        head, rest = rest[:, :BLOCK], rest[:, BLOCK:]
        head = compact(head, chosen(inner(head[..., :5], head[..., :5]), head[..., 5]) & (head[..., 0] > 0))
        kept.append(head[..., :5])
        if rest.shape[1]:
            rest[..., 5] -= inner(rest[..., :5], head[..., :5]).sum(-1)
            rest = compact(rest, (rest[..., 5] >= 0) & (rest[..., 0] > 0))
    q = torch.cat(kept, dim=1)
    q = compact(q, q[..., 0] > 0)
    q[..., 0] /= q[..., 0].sum(1, keepdim=True)
    return q


def chosen(products: Tensor, room: Tensor) -> Tensor:
    """The first fit: i is chosen if its products with those chosen before it add up to at most room_i.

    The choice is the one fixed point of its own rule, and applying the rule settles at least one more i
    each time, in practice most of them. products: f64[B, m, m], room: f64[B, m]. Returns bool[B, m].
    """
    before = products.tril(-1)
    choice = room >= 0
    while True:
        again = (before @ choice[..., None].to(before.dtype))[..., 0] <= room
        if torch.equal(again, choice):
            return choice
        choice = again
