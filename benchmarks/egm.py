"""Weight maps per second through expanding Gaussian mixtures, against the same algorithm written plainly.

python benchmarks/egm.py [--data DIR] [--weights FILE] [--maps N] [--size PIXELS] [--preset fs|os]

`loop` computes every responsibility with the standard library alone; `dense` makes the whole table of samples
by components, one numpy operation for each step. Both follow the paper's text and share no code with what is
measured; that all boxes are equal is checked. Maps are random blobs and, with --data and --weights, the norms of
SqueezeNet's features.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from instsearch_plugins.numeric.egm import FAINT, FLOOR, TIE, Recipe, cells, fit, samples
from instsearch_plugins.numeric.egm_batch import fit_batch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PRESETS = {"fs": Recipe(), "os": Recipe(rho=2, tau=0, sigma=2)}


def loop_inner(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """<a, b> of two Gaussians (pi, mu_y, mu_x, var_y, var_x)."""
    vy, vx = a[3] + b[3], a[4] + b[4]
    exponent = -((a[1] - b[1]) ** 2 / vy + (a[2] - b[2]) ** 2 / vx) / 2
    return a[0] * b[0] * math.exp(exponent) / (2 * math.pi * math.sqrt(vy * vx))


def loop_samples(S: np.ndarray, recipe: Recipe) -> list[tuple[float, ...]]:
    """The map as Gaussians."""
    peak = float(S.max())
    found: list[tuple[float, ...]] = []
    for y, row in enumerate(S.tolist()):
        for x, s in enumerate(row):
            if peak > 0 and s > 0 and s / peak >= recipe.tau and (s / peak) ** recipe.rho >= FAINT:
                found.append(((s / peak) ** recipe.rho, y, x, recipe.sigma, recipe.sigma))
    return found


def loop_purge(q: list[tuple[float, ...]], overlap: float) -> list[tuple[float, ...]]:
    """The components that the better ones leave enough to themselves."""
    kept: list[tuple[float, ...]] = []
    for a in sorted(q, key=lambda a: -round(a[0] / TIE)):
        own = loop_inner(a, a)
        if a[0] > 0 and own / (own + sum(loop_inner(a, b) for b in kept)) >= overlap:
            kept.append(a)
    mass = sum(a[0] for a in kept)
    return [(a[0] / mass, *a[1:]) for a in kept]


def loop(S: np.ndarray, recipe: Recipe) -> np.ndarray:
    """The mixture of a map f[h, w], as :func:`fit` gives it: f64[m, 5]."""
    s = loop_samples(S, recipe)
    if len(s) < 2:
        return np.zeros((0, 5))
    weight = [a[0] if recipe.weighted else 1.0 for a in s]
    mass = sum(a[0] for a in s)
    q = [(a[0] / mass, *a[1:]) for a in s]
    for _ in range(recipe.iterations):
        gamma = []
        for a in s:
            products = [loop_inner(a, b) for b in q]
            total = sum(products)
            gamma.append([product / total for product in products])
        moved = []
        for k in range(len(q)):
            part = [w * row[k] for w, row in zip(weight, gamma, strict=True)]
            l_k = sum(part)
            mu = [sum(p * a[d] for p, a in zip(part, s, strict=True)) / l_k for d in (1, 2)]
            var = [
                sum(p * (a[d] - mu[d - 1]) ** 2 for p, a in zip(part, s, strict=True)) / l_k
                + recipe.sigma * recipe.add_sigma
                for d in (1, 2)
            ]
            moved.append((l_k / sum(weight), *mu, *(max(v, FLOOR) for v in var)))
        step = max(abs(a[d] - b[d]) for a, b in zip(moved, q, strict=True) for d in (1, 2))
        settled = len(q)
        q = loop_purge(moved, recipe.overlap)
        if len(q) == settled and step < recipe.tolerance:
            break
    return np.array(q)


def dense_inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """:func:`loop_inner` of all pairs."""
    v = a[:, None, 3:] + b[None, :, 3:]
    exponent = -0.5 * ((a[:, None, 1:3] - b[None, :, 1:3]) ** 2 / v).sum(-1)
    product: np.ndarray = a[:, None, 0] * b[None, :, 0] * np.exp(exponent) / (2 * np.pi * np.sqrt(v.prod(-1)))
    return product


def dense(S: np.ndarray, recipe: Recipe) -> np.ndarray:
    """:func:`loop` with one table for each step."""
    s = np.array(loop_samples(S, recipe)).reshape(-1, 5)
    if len(s) < 2:
        return np.zeros((0, 5))
    weight = s[:, 0] if recipe.weighted else np.ones(len(s))
    q = s.copy()
    q[:, 0] /= q[:, 0].sum()
    for _ in range(recipe.iterations):
        gamma = dense_inner(s, q)
        gamma *= weight[:, None] / gamma.sum(1, keepdims=True)
        mass = gamma.sum(0)
        moved = np.empty_like(q)
        moved[:, 0] = mass / weight.sum()
        moved[:, 1:3] = gamma.T @ s[:, 1:3] / mass[:, None]
        for d in (1, 2):
            variance = (gamma * (s[:, d, None] - moved[:, d]) ** 2).sum(0) / mass
            moved[:, 2 + d] = np.maximum(variance + recipe.sigma * recipe.add_sigma, FLOOR)
        step = np.abs(moved - q)[:, 1:3].max()
        moved = moved[np.argsort(-np.round(moved[:, 0] / TIE), kind="stable")]
        products = dense_inner(moved, moved)
        load, kept = np.zeros(len(moved)), []
        for i, own in enumerate(np.diag(products)):
            if own > 0 and own / (own + load[i]) >= recipe.overlap:
                kept.append(i)
                load += products[i]
        settled, q = len(q), moved[kept]
        q[:, 0] /= q[:, 0].sum()
        if len(q) == settled and step < recipe.tolerance:
            break
    return q


def random_maps(n: int, h: int, w: int) -> list[np.ndarray]:
    """Blobs of all sizes and heights over some noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:h, :w]
    maps = []
    for _ in range(n):
        S = 0.05 * rng.random((h, w))
        for _ in range(8):
            cy, cx, sy, sx = rng.random(4) * (h, w, h / 8, w / 8) + (0, 0, 1, 1)
            S += rng.random() * np.exp(-((y - cy) ** 2) / (2 * sy**2) - (x - cx) ** 2 / (2 * sx**2))
        maps.append(S.astype(np.float32))
    return maps


def real_maps(n: int, data: Path, weights: Path, size: int) -> list[np.ndarray]:
    """Norms of SqueezeNet's last features, unstretched."""
    from arguments import photographs
    from instsearch_cli.images import read_image
    from instsearch_plugins.extractors.networks import SqueezeNet10
    from instsearch_plugins.weighters.l2norm import feature_norm

    network = SqueezeNet10(SqueezeNet10.Config(weights=str(weights), max_size=size), torch.device("cpu"))
    images = [read_image(path, network.fit_size) for path in photographs(data, n)]
    return [feature_norm(network.extract([image])[0].values, stretch=False).numpy() for image in images]


def timed(
    fitted: Callable[[np.ndarray], np.ndarray], maps: list[np.ndarray]
) -> tuple[float, list[np.ndarray]]:
    """Maps per second, and what came out."""
    began = time.perf_counter()
    results = [fitted(S) for S in maps]
    return len(maps) / (time.perf_counter() - began), results


def padded(maps: list[np.ndarray]) -> torch.Tensor:
    """Maps of any size as one tensor, zeros below and to the right."""
    h, w = (max(S.shape[d] for S in maps) for d in (0, 1))
    return torch.stack(
        [torch.from_numpy(np.pad(S, ((0, h - S.shape[0]), (0, w - S.shape[1])))) for S in maps]
    )


def measure(maps: list[np.ndarray], recipe: Recipe, rounds: int = 5) -> dict[str, float | str]:
    """One line of the table."""
    together = padded(maps * rounds)
    fit_batch(together[:1], recipe)
    began = time.perf_counter()
    fit_batch(together, recipe)
    batch = len(together) / (time.perf_counter() - began)
    this, found = timed(partial(fit, recipe=recipe), maps * rounds)
    found = found[: len(maps)]
    rates, equal = {}, True
    for plain in (loop, dense):
        rates[plain.__name__], expected = timed(partial(plain, recipe=recipe), maps)
        for S, a, b in zip(maps, found, expected, strict=True):
            equal &= np.array_equal(cells(a, *S.shape), cells(b, *S.shape)) and np.allclose(a, b, atol=1e-6)
    return {
        "cells": sum(S.size for S in maps) / len(maps),
        "samples": sum((samples(S, recipe.rho, recipe.tau) > 0).sum() for S in maps) / len(maps),
        "regions": sum(map(len, found)) / len(maps),
        **{f"{name} /s": rate for name, rate in rates.items()},
        "egm /s": this,
        "batch /s": batch,
        "over loop": this / rates["loop"],
        "over dense": this / rates["dense"],
        "boxes": "equal" if equal else "DIFFER",
    }


def main() -> None:
    """Print a table."""
    from arguments import Parser

    parser = Parser(__doc__)
    parser.add_data(required=False)
    parser.add_weights(required=False)
    parser.add_argument("--maps", type=int, default=4)
    parser.add_argument("--size", type=int, default=448, help="longer side of the pictures")
    parser.add_argument(
        "--preset", choices=PRESETS, default="fs", help="options for feature or object saliency"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"random": random_maps(args.maps, 32, 44)}
    if args.data and args.weights:
        kinds["l2norm"] = real_maps(args.maps, args.data, args.weights, args.size)
    print(f"{args.maps} maps of each kind, one thread")
    for i, (kind, maps) in enumerate(kinds.items()):
        row = measure(maps, PRESETS[args.preset])
        if i == 0:
            print(" ".join(f"{column:>10}" for column in ("maps", *row)))
        values = (value if isinstance(value, str) else f"{value:.3g}" for value in row.values())
        print(" ".join(f"{value:>10}" for value in (kind, *values)), flush=True)


if __name__ == "__main__":
    main()
