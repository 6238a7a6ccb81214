"""Deeply activated salient regions by plain loops."""

from __future__ import annotations

import numpy as np
import torch

from instsearch_plugins.extractors.networks import normalise
from instsearch_plugins.numeric import dasr
from instsearch_plugins.numeric.excitation import propagate
from instsearch_plugins.numeric.layers import INPUT, record
from instsearch_plugins.numeric.tracing import trace


def plain_maxima(X):
    """Cells that exceed all neighbours before them, in reading order, and reach all after them."""
    h, w = X.shape
    found = []
    for i in range(h):
        for j in range(w):
            around = [
                (y, x) for y in range(i - 1, i + 2) for x in range(j - 1, j + 2) if 0 <= y < h and 0 <= x < w
            ]
            before = all(X[i, j] > X[cell] for cell in around if cell < (i, j))
            after = all(X[i, j] >= X[cell] for cell in around if cell > (i, j))
            if before and after and X[i, j] > X.min():
                found.append([i, j])
    return found


def plain(inputs, network, star, stop, beta=1.0):
    """Boxes f[R, 4] and scores, one peak after the other, whole maps, one pixel after the other."""
    pixels = torch.from_numpy(inputs.image.pixels).permute(2, 0, 1)[None]
    recording = record(trace(network, "features.12"), normalise(pixels))
    X = recording.output.double().numpy().mean(0)
    h, w = X.shape
    if star:
        cells = [(i, j) for i in range(h) for j in range(w) if X[i, j] > X.mean()]
    else:
        cells = [tuple(cell) for cell in plain_maxima(torch.from_numpy(X))]
    value = INPUT if stop == 1 else recording.at(stop)
    columns, rows = (v.tolist() for v in dasr.lattice(recording, value).centres())
    s = recording.stride(value)
    height, width = inputs.image.pixels.shape[:2]
    found = []
    for i, j in cells:
        P = torch.zeros(1, *recording.output.shape)
        P[0, :, i, j] = recording.output[:, i, j] / recording.output[:, i, j].sum()
        M = propagate(recording, P, to=value, windows=False)[0].sum(0).numpy()
        points = np.array([(columns[x], rows[y]) for y, x in np.argwhere(np.float32(0.1) * M.max() <= M)])
        mu, variance = points.mean(0), points.var(0) + (s**2 - 1) / 12
        half = np.maximum(2 * np.sqrt(variance), 0.5)
        low, high = np.maximum(mu - half, 0), np.minimum(mu + half, (width, height))
        found.append((X[i, j], np.concatenate([low, high]) * (inputs.size[0] / width)))
    found.sort(key=lambda f: -f[0])
    kept = []
    from instsearch_cli.boxes import iou

    for score, box in found:
        if all(iou(box, other) <= beta for _, other in kept):
            kept.append((score, box))
    return np.array([box for _, box in kept]), np.array([score for score, _ in kept])
